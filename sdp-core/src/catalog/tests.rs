//! What a service may say about itself, and what it cannot.

use serde_json::{Value, json};

use super::*;

fn with(field: &str, value: Value) -> Result<Service, String> {
    let mut entry =
        json!({ "name": "payments", "repo": "/srv/git/payments.git", "builder": { "type": "go" } });
    entry[field] = value;
    let service: Service = serde_json::from_value(entry).map_err(|error| error.to_string())?;
    service.check().map_err(|error| error.to_string())?;
    Ok(service)
}

#[test]
fn more_rights_than_others_cannot_be_said() {
    for (field, value) in [
        ("privileged", json!(true)),
        ("network", json!("host")),
        ("network_mode", json!("host")),
        ("volumes", json!(["/var/run/docker.sock:/var/run/docker.sock"])),
        ("mounts", json!([{ "source": "/", "target": "/host" }])),
        ("cap_add", json!(["SYS_ADMIN"])),
        ("devices", json!(["/dev/sda"])),
        ("user", json!("0:0")),
        ("pid", json!("host")),
        ("security_opt", json!(["seccomp=unconfined"])),
        ("limits", json!({ "memory_mib": 64, "swap_mib": 64 })),
        ("builder", json!({ "type": "go", "cgo": true })),
        ("builder", json!({ "type": "docker", "file": "Dockerfile" })),
        ("health", json!({ "type": "exec", "command": ["true"] })),
        ("env", json!({ "LD_PRELOAD": "/tmp/x.so" })),
        ("env", json!({ "DOCKER_HOST": "tcp://127.0.0.1" })),
        ("writable", json!(["/proc/sys"])),
        ("writable", json!(["../other"])),
        ("image", json!("--privileged alpine")),
    ] {
        assert!(with(field, value.clone()).is_err(), "{field}: {value}");
    }
}

#[test]
fn what_a_container_gets_has_bounds() {
    let said = |field, value| with(field, value).expect_err("out of bounds");
    insta::assert_snapshot!(said("limits", json!({ "memory_mib": 1 })), @"limits.memory_mib: 16 to 1048576");
    insta::assert_snapshot!(said("limits", json!({ "pids": 1 })), @"limits.pids: 10 to 100000");
    insta::assert_snapshot!(said("limits", json!({ "cpu_millis": 1 })), @"limits.cpu_millis: 10 to 1024000");
    insta::assert_snapshot!(said("release", json!([])), @"release: a command is 1 to 200 words of at most 4096 bytes");
    assert!(with("port", json!(0)).is_err());
    assert!(with("port", json!(65_536)).is_err());
    let many: Vec<_> = (0..21).map(|n| format!("folder{n}")).collect();
    insta::assert_snapshot!(said("writable", json!(many)), @"writable: at most 20");
}

#[test]
fn php_and_services_with_an_image_need_an_agent_with_containers() {
    assert!(!with("port", json!(9000)).expect("good").needs_container());
    assert!(with("image", json!("debian:12-slim")).expect("good").needs_container());
    assert!(with("builder", json!({ "type": "php" })).expect("good").needs_container());
}

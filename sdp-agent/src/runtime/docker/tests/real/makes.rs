//! What a container is, and what it can do.

use sdp_core::catalog::HealthCheck;

use super::fixture::{Fixture, docker, get, mine};
use crate::runtime::docker::label::{self, Kind};
use crate::runtime::{StartError, StartSpec};

#[tokio::test]
#[ignore = "needs Docker and the base images; scripts/test runs it"]
async fn a_service_answers_at_its_published_port_once_it_is_healthy() {
    let fixture = Fixture::new().await;
    let spec = fixture.httpd();
    let begin = std::time::Instant::now();
    let (instance, address) = fixture.start(spec.clone()).await;
    fixture.check(instance, HealthCheck::Http { path: "/hello.txt".into() }).await.unwrap();
    println!("started and healthy after {:?}", begin.elapsed());
    assert_eq!(get(address, "/hello.txt").await.unwrap(), "hello from the tree\n");
    assert_eq!(fixture.runtime.start(spec).await.unwrap(), address, "the same again is the same");
    assert_eq!(fixture.containers().len(), 1);
    assert!(fixture.containers()[0].starts_with("sdp-payments-alice-"));
}

#[tokio::test]
#[ignore = "needs Docker and the base images; scripts/test runs it"]
async fn what_is_wrong_with_an_unhealthy_instance_is_said() {
    let fixture = Fixture::new().await;
    let services = [
        (fixture.shell("sleep 1000"), HealthCheck::Tcp {}),
        (fixture.httpd_on("9000"), HealthCheck::Tcp {}),
        (fixture.httpd_on("127.0.0.1:8080"), HealthCheck::Http { path: "/".into() }),
        (fixture.httpd(), HealthCheck::Http { path: "/nothing".into() }),
    ];
    let mut said = Vec::new();
    for (spec, check) in services {
        let (instance, _) = fixture.start(spec).await;
        said.push(fixture.check_briefly(instance, check).await);
    }
    insta::assert_snapshot!(said.join("\n"), @r"
    nothing listens on port 8080 in the container (waited 2s)
    nothing listens on port 8080 in the container; it listens on 9000 (waited 2s)
    it listens on 127.0.0.1:8080 only, which nobody outside of its container reaches; it has to listen on 0.0.0.0:8080 (waited 2s)
    GET /nothing answered 404 (waited 2s)
    ");
}

#[tokio::test]
#[ignore = "needs Docker and the base images; scripts/test runs it"]
async fn a_writable_folder_is_the_instances_own_and_all_else_is_read_only() {
    let fixture = Fixture::new().await;
    std::fs::create_dir(fixture.source().join("storage")).unwrap();
    std::fs::write(fixture.source().join("storage/seed"), "seed").unwrap();
    let script = "id -u; id -g; cat storage/seed; echo; \
        for f in /x /src/x /etc/x /src/storage/x /var/lib/app/x /tmp/x; do \
            (echo > $f) 2>/dev/null && echo \"wrote $f\" || echo \"cannot write $f\"; done; \
        ls storage; grep NoNewPrivs /proc/self/status; grep CapEff /proc/self/status; echo \"$PORT $HOME $OPERATOR\"; \
        echo end; sleep 1000";
    let mut spec = fixture.shell(script);
    spec.writable = ["storage", "/var/lib/app"].map(|path| path.parse().unwrap()).into();
    let (instance, _) = fixture.start(spec).await;
    let lines = fixture.printed(instance, "end").await;
    assert_eq!(lines[..2], [mine().0.to_string(), mine().1.to_string()]);
    insta::assert_snapshot!(lines[2..].join("\n"), @r"
    seed
    cannot write /x
    cannot write /src/x
    cannot write /etc/x
    wrote /src/storage/x
    wrote /var/lib/app/x
    wrote /tmp/x
    seed
    x
    NoNewPrivs:	1
    CapEff:	0000000000000000
    8080 /tmp yes
    end
    ");
    let mut second = fixture.shell("ls storage; echo end; sleep 1000");
    second.writable = ["storage".parse().unwrap()].into();
    let (second, _) = fixture.start(second).await;
    assert_eq!(fixture.printed(second, "end").await, ["seed", "end"], "not what the other wrote");
    assert!(!fixture.source().join("storage/x").exists());
}

#[tokio::test]
#[ignore = "needs Docker and the base images; scripts/test runs it"]
async fn containers_do_not_reach_one_another() {
    let fixture = Fixture::new().await;
    let (one, _) = fixture.start(fixture.httpd()).await;
    fixture.check(one, HealthCheck::Tcp {}).await.unwrap();
    let (ip, _) = fixture.runtime.place(&fixture.runtime.entry(one).unwrap()).await.unwrap();
    let spec = fixture.shell(&format!(
        "nc -w 2 {ip} 8080 < /dev/null 2>&1 && echo reached || echo not reached; echo end; sleep 1000"
    ));
    let (other, _) = fixture.start(spec).await;
    assert_eq!(fixture.printed(other, "end").await.last_chunk::<2>().unwrap(), &["not reached", "end"]);
}

#[tokio::test]
#[ignore = "needs Docker and the base images; scripts/test runs it"]
async fn what_cannot_be_started_is_said_and_leaves_nothing() {
    let fixture = Fixture::new().await;
    let mut missing = fixture.httpd();
    missing.run.container.as_mut().unwrap().image = "no-such-image:1".parse().unwrap();
    let mut plain = fixture.httpd();
    plain.run.container = None;
    let mut outside = fixture.httpd();
    outside.run.container.as_mut().unwrap().mounts[0].source = "/etc".into();
    let mut said = Vec::new();
    for spec in [missing, plain, outside] {
        let StartError::Failed(failure) = fixture.runtime.start(spec).await.unwrap_err() else { panic!() };
        said.push(format!("{}: {}", failure.reason, failure.detail));
    }
    insta::assert_snapshot!(said.join("\n"), @r"
    the image that the service runs in is not on the agent: the image no-such-image:1 is not on this agent; bring it there with docker load or docker pull
    the service could not be started: payments was built to run as a plain process, and this agent runs containers
    the service's folder is missing or leads out of the repository: a folder that the container was to see is not where it should be
    ");
    assert_eq!(fixture.containers(), [""; 0]);
    assert_eq!(fixture.runtime.reports(), []);
    assert_eq!(std::fs::read_dir(fixture.runtime.0.config.instances()).unwrap().count(), 0);
}

#[tokio::test]
#[ignore = "needs Docker and the base images; scripts/test runs it"]
async fn docker_inspect_shows_what_a_go_service_is_given() {
    let fixture = Fixture::new().await;
    let mut spec = fixture.spec(&["sleep", "1000"]);
    spec.writable = ["storage".parse().unwrap()].into();
    let (instance, address) = fixture.start(spec.clone()).await;
    let seen = inspect(&fixture, &spec, address);
    insta::assert_snapshot!(seen, @r#"
    {
      "Config": {
        "Cmd": [
          "sleep",
          "1000"
        ],
        "Env": [
          "HOME=/tmp",
          "OPERATOR=yes",
          "PORT=8080",
          "TMPDIR=/tmp"
        ],
        "ExposedPorts": {
          "8080/tcp": {}
        },
        "Hostname": "sdp-payments-alice-HASH",
        "Labels": {
          "sdp.address": "ADDRESS",
          "sdp.agent": "AGENT",
          "sdp.attempt": "2",
          "sdp.build": "BUILD",
          "sdp.check-limit": "120",
          "sdp.deployment": "DEPLOYMENT",
          "sdp.health": "{\"type\":\"http\",\"path\":\"/\"}",
          "sdp.image": "alpine:3.20",
          "sdp.instance": "INSTANCE",
          "sdp.kind": "instance",
          "sdp.number": "143",
          "sdp.port": "8080",
          "sdp.sandbox": "alice",
          "sdp.service": "payments"
        },
        "StopTimeout": 1,
        "User": "64100:64101",
        "WorkingDir": "/src"
      },
      "HostConfig": {
        "CapDrop": [
          "ALL"
        ],
        "Init": true,
        "IpcMode": "private",
        "LogConfig": {
          "Config": {
            "max-file": "3",
            "max-size": "10m"
          },
          "Type": "json-file"
        },
        "Memory": 536870912,
        "MemorySwap": 536870912,
        "Mounts": [
          {
            "BindOptions": {
              "NonRecursive": true
            },
            "ReadOnly": true,
            "Source": "DATA/work/x/source",
            "Target": "/src",
            "Type": "bind"
          },
          {
            "BindOptions": {
              "NonRecursive": true
            },
            "Source": "DATA/instances/INSTANCE/writable/0",
            "Target": "/src/storage",
            "Type": "bind"
          }
        ],
        "NanoCpus": 1000000000,
        "NetworkMode": "sdp-AGENT",
        "PidsLimit": 256,
        "PortBindings": {
          "8080/tcp": [
            {
              "HostIp": "127.0.0.1",
              "HostPort": "PORT"
            }
          ]
        },
        "ReadonlyRootfs": true,
        "RestartPolicy": {
          "MaximumRetryCount": 3,
          "Name": "on-failure"
        },
        "SecurityOpt": [
          "no-new-privileges"
        ],
        "ShmSize": 67108864,
        "Tmpfs": {
          "/tmp": "rw,nosuid,nodev,noexec,size=64m,mode=1777"
        },
        "Ulimits": [
          {
            "Hard": 0,
            "Name": "core",
            "Soft": 0
          }
        ]
      },
      "Mounts": [
        {
          "Destination": "/src",
          "Mode": "",
          "Propagation": "rprivate",
          "RW": false,
          "Source": "DATA/work/x/source",
          "Type": "bind"
        },
        {
          "Destination": "/src/storage",
          "Mode": "",
          "Propagation": "rprivate",
          "RW": true,
          "Source": "DATA/instances/INSTANCE/writable/0",
          "Type": "bind"
        }
      ],
      "Name": "/sdp-payments-alice-HASH",
      "Networks": [
        "sdp-AGENT"
      ],
      "Ports": {
        "8080/tcp": [
          {
            "HostIp": "127.0.0.1",
            "HostPort": "PORT"
          }
        ]
      }
    }
    "#);
    fixture.runtime.stop(instance).await;
}

#[tokio::test]
#[ignore = "needs Docker and the base images; scripts/test runs it"]
async fn docker_inspect_shows_what_a_php_service_is_given() {
    let fixture = Fixture::new().await;
    let mut spec = fixture.spec(&["sleep", "1000"]);
    let plan = spec.run.container.as_mut().unwrap();
    plan.image = "php:8.3-apache".parse().unwrap();
    plan.mounts[0].target = "/app".into();
    plan.tmpfs = ["/var/run/apache2", "/var/lock/apache2"].map(Into::into).into();
    plan.capabilities = vec!["NET_BIND_SERVICE".into()];
    spec.run.cwd = "/app".into();
    let (instance, address) = fixture.start(spec.clone()).await;
    let seen = inspect(&fixture, &spec, address);
    insta::assert_snapshot!(seen, @r#"
    {
      "Config": {
        "Cmd": [
          "sleep",
          "1000"
        ],
        "Entrypoint": [
          "docker-php-entrypoint"
        ],
        "Env": [
          "HOME=/tmp",
          "OPERATOR=yes",
          "PORT=8080",
          "TMPDIR=/tmp"
        ],
        "ExposedPorts": {
          "80/tcp": {},
          "8080/tcp": {}
        },
        "Hostname": "sdp-payments-alice-HASH",
        "Labels": {
          "sdp.address": "ADDRESS",
          "sdp.agent": "AGENT",
          "sdp.attempt": "2",
          "sdp.build": "BUILD",
          "sdp.check-limit": "120",
          "sdp.deployment": "DEPLOYMENT",
          "sdp.health": "{\"type\":\"http\",\"path\":\"/\"}",
          "sdp.image": "php:8.3-apache",
          "sdp.instance": "INSTANCE",
          "sdp.kind": "instance",
          "sdp.number": "143",
          "sdp.port": "8080",
          "sdp.sandbox": "alice",
          "sdp.service": "payments"
        },
        "StopSignal": "SIGWINCH",
        "StopTimeout": 1,
        "User": "64100:64101",
        "WorkingDir": "/app"
      },
      "HostConfig": {
        "CapAdd": [
          "NET_BIND_SERVICE"
        ],
        "CapDrop": [
          "ALL"
        ],
        "Init": true,
        "IpcMode": "private",
        "LogConfig": {
          "Config": {
            "max-file": "3",
            "max-size": "10m"
          },
          "Type": "json-file"
        },
        "Memory": 536870912,
        "MemorySwap": 536870912,
        "Mounts": [
          {
            "BindOptions": {
              "NonRecursive": true
            },
            "ReadOnly": true,
            "Source": "DATA/work/x/source",
            "Target": "/app",
            "Type": "bind"
          }
        ],
        "NanoCpus": 1000000000,
        "NetworkMode": "sdp-AGENT",
        "PidsLimit": 256,
        "PortBindings": {
          "8080/tcp": [
            {
              "HostIp": "127.0.0.1",
              "HostPort": "PORT"
            }
          ]
        },
        "ReadonlyRootfs": true,
        "RestartPolicy": {
          "MaximumRetryCount": 3,
          "Name": "on-failure"
        },
        "SecurityOpt": [
          "no-new-privileges"
        ],
        "ShmSize": 67108864,
        "Tmpfs": {
          "/tmp": "rw,nosuid,nodev,noexec,size=64m,mode=1777",
          "/var/lock/apache2": "rw,nosuid,nodev,noexec,size=64m,mode=1777",
          "/var/run/apache2": "rw,nosuid,nodev,noexec,size=64m,mode=1777"
        },
        "Ulimits": [
          {
            "Hard": 0,
            "Name": "core",
            "Soft": 0
          }
        ]
      },
      "Mounts": [
        {
          "Destination": "/app",
          "Mode": "",
          "Propagation": "rprivate",
          "RW": false,
          "Source": "DATA/work/x/source",
          "Type": "bind"
        }
      ],
      "Name": "/sdp-payments-alice-HASH",
      "Networks": [
        "sdp-AGENT"
      ],
      "Ports": {
        "80/tcp": null,
        "8080/tcp": [
          {
            "HostIp": "127.0.0.1",
            "HostPort": "PORT"
          }
        ]
      }
    }
    "#);
    fixture.runtime.stop(instance).await;
}

/// What `docker inspect` shows, without what differs from one container, or engine, to the next.
fn inspect(fixture: &Fixture, spec: &StartSpec, address: std::net::SocketAddr) -> String {
    let text = docker(&["inspect", &fixture.container(spec.instance)]);
    let data = fixture.folder.path().canonicalize().unwrap();
    let agent = &fixture.runtime.0.agent;
    let place = (spec.service.as_str(), spec.sandbox.as_str());
    let name = label::name(agent, Kind::Instance, place, spec.instance, spec.attempt);
    let text = text
        .replace(&name, "sdp-payments-alice-HASH")
        .replace(data.to_str().unwrap(), "DATA")
        .replace(&spec.instance.to_string(), "INSTANCE")
        .replace(&spec.deployment.to_string(), "DEPLOYMENT")
        .replace(&spec.build.to_string(), "BUILD")
        .replace(agent.as_str(), "AGENT")
        .replace(&format!("\"{}\"", address.port()), "\"PORT\"")
        .replace(&format!("{address}"), "ADDRESS");
    let all: serde_json::Value = serde_json::from_str(&text).unwrap();
    let all = &all[0];
    let without = |value: &serde_json::Value, names: &[&str]| {
        let mut value = value.clone();
        if let Some(map) = value.as_object_mut() {
            // What nobody asked for is null, false, empty or 0, and newer engines have more of it.
            map.retain(|name, value| !names.contains(&name.as_str()) && !is_nothing(value));
        }
        value
    };
    // The image's own.
    let image = docker(&["image", "inspect", "-f", "{{json .Config.Env}}", all["Image"].as_str().unwrap()]);
    let image: Vec<String> = serde_json::from_str(&image).unwrap();
    let mut config = without(&all["Config"], &["Image"]);
    let ours = |text: &serde_json::Value| !image.iter().any(|own| text == own);
    config["Env"].as_array_mut().unwrap().retain(ours);
    let labels = config["Labels"].as_object_mut().unwrap();
    labels.retain(|name, _| {
        name.starts_with("sdp.") && !matches!(name.as_str(), "sdp.stand-in" | "sdp.recipe")
    });
    let mut mounts = all["Mounts"].as_array().unwrap().clone();
    mounts.sort_by_key(|mount| mount["Destination"].to_string());
    let networks = all["NetworkSettings"]["Networks"].as_object().unwrap();
    let seen = serde_json::json!({
        "Name": all["Name"],
        "Config": config,
        "HostConfig": without(&all["HostConfig"], &["CgroupnsMode", "MaskedPaths", "ReadonlyPaths", "Runtime"]),
        "Mounts": mounts,
        "Networks": networks.keys().collect::<Vec<_>>(),
        "Ports": all["NetworkSettings"]["Ports"],
    });
    serde_json::to_string_pretty(&seen).unwrap()
}

fn is_nothing(value: &serde_json::Value) -> bool {
    match value {
        serde_json::Value::Null => true,
        serde_json::Value::Bool(yes) => !yes,
        serde_json::Value::Number(number) => number.as_i64() == Some(0),
        serde_json::Value::String(text) => text.is_empty(),
        serde_json::Value::Array(items) => items.is_empty() || items.iter().all(is_nothing),
        serde_json::Value::Object(map) => map.is_empty(),
    }
}

#[tokio::test]
#[ignore = "needs Docker and the base images; scripts/test runs it"]
async fn a_service_reads_its_place_also_after_restarts_and_cannot_change_it() {
    let mut fixture = Fixture::new().await;
    // It ends once, and the engine starts it again.
    let script = "cat $SDP_CONTEXT; for f in $SDP_CONTEXT /run/sdp/x; do (echo > $f) 2>/dev/null && echo \"wrote $f\"; done; ls -A /run/sdp; \
        [ -e storage/again ] && echo end && exec sleep 1000; echo > storage/again; exit 1";
    let mut spec = fixture.shell(script);
    spec.context = Some(crate::runtime::context::tests::context());
    spec.writable = ["storage".parse().unwrap()].into();
    spec.health = HealthCheck::Uptime { seconds: 1 };
    let (instance, _) = fixture.start(spec).await;
    let folder = fixture.runtime.0.config.folder(instance);
    let text = std::fs::read_to_string(folder.join("context/context.json")).unwrap();
    let run = format!("{text}context.json\n");
    assert_eq!(fixture.printed(instance, "end").await.join("\n"), format!("{run}{run}end"));
    fixture.reopen().await;
    assert!(folder.join("context/context.json").exists(), "an agent that comes back leaves it there");
    fixture.runtime.stop(instance).await;
    fixture.runtime.forget(instance);
    fixture.until(instance, |status| status.is_none()).await;
    fixture.runtime.shut_down().await;
    assert!(!folder.exists());
}

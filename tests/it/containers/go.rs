//! Go services: from a monorepo, with vendored modules, from a mirror that is a folder, and with a module that is nowhere.

use std::path::Path;
use std::process::Command;

use serde_json::json;

use super::engine::Engine;
use super::{payments, push_payments, run_container_test};
use crate::harness::{Sdp, wanted};

#[test]
#[ignore = "needs Docker, Go and the base images; scripts/test runs it"]
fn a_go_service_of_a_monorepo_runs_in_a_container_with_its_files() {
    run_container_test(async |sdp| {
        push_payments(sdp, "main", "paid");
        payments(sdp, json!({ "limits": { "memory_mib": 64, "pids": 50 } })).await;
        let url = sdp.deployed("payments", "main").await;
        let (status, served_by, body) = sdp.get(url.join("orders/42").expect("a URL")).await;
        assert_eq!((status, body.as_str()), (200, "paid /orders/42 with its files"));
        assert!(served_by.starts_with("sandbox/alice/payments@"), "{served_by}");

        let containers = Engine::containers(sdp);
        let container = containers.first().expect("it runs");
        assert_eq!(containers.len(), 1);
        let found = Engine::inspect(container);
        assert_eq!(found["HostConfig"]["Memory"], 64 << 20);
        assert_eq!(found["HostConfig"]["MemorySwap"], 64 << 20);
        assert_eq!(found["HostConfig"]["PidsLimit"], 50);
        // The repository is there, whole and read-only; nothing else can be written to but /tmp.
        let (_, listed) = Engine::exec(container, &["ls", "/src"]);
        assert_eq!(listed, "README.md\nservices\n");
        for path in ["/src/x", "/src/services/payments/page.txt", "/x", "/etc/passwd"] {
            let (written, said) = Engine::exec(container, &["sh", "-c", &format!("echo x >>{path}")]);
            assert!(!written, "{path} can be written to: {said}");
        }
        let (written, said) = Engine::exec(container, &["sh", "-c", "echo x >/tmp/x && id -u"]);
        assert_eq!((written, said.trim()), (true, "64100"), "{said}");
    });
}

const USES: &str = r#"package main

import (
	"fmt"
	"net/http"
	"os"

	"example.com/money"
)

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, money.Format(4200)) })
	panic(http.ListenAndServe(":"+os.Getenv("PORT"), nil))
}
"#;
const REQUIRES: &str = "module example.com/ledger\n\ngo 1.19\n\nrequire example.com/money v1.2.0\n";
const MONEY: &str = "package money\n\nimport \"fmt\"\n\nfunc Format(cents int) string { return fmt.Sprintf(\"%d.%02d\", cents/100, cents%100) }\n";
const MONEY_MODULE: &str = "module example.com/money\n\ngo 1.19\n";

async fn ledger(sdp: &Sdp) {
    sdp.service("ledger", json!({ "builder": { "type": "go" }, "health": { "type": "tcp" } })).await;
}

#[test]
#[ignore = "needs Docker, Go and the base images; scripts/test runs it"]
fn a_vendored_module_needs_no_network() {
    run_container_test(async |sdp| {
        sdp.push(
            "ledger",
            "main",
            &[
                ("go.mod", REQUIRES),
                ("main.go", USES),
                (
                    "vendor/modules.txt",
                    "# example.com/money v1.2.0\n## explicit; go 1.19\nexample.com/money\n",
                ),
                ("vendor/example.com/money/money.go", MONEY),
            ],
        );
        ledger(sdp).await;
        let url = sdp.deployed("ledger", "main").await;
        assert_eq!(sdp.get(&url).await.2, "42.00");
    });
}

/// A module in a folder as `GOPROXY=file:///…` reads it.
fn publish(proxy: &Path) {
    let folder = proxy.join("example.com/money/@v");
    std::fs::create_dir_all(&folder).expect("made");
    std::fs::write(folder.join("list"), "v1.2.0\n").expect("written");
    std::fs::write(folder.join("v1.2.0.info"), r#"{"Version":"v1.2.0","Time":"2026-01-01T00:00:00Z"}"#)
        .expect("written");
    std::fs::write(folder.join("v1.2.0.mod"), MONEY_MODULE).expect("written");
    let script = "import sys, zipfile\nwith zipfile.ZipFile(sys.argv[1], 'w') as z:\n    for name, text in (('go.mod', sys.argv[2]), ('money.go', sys.argv[3])):\n        z.writestr('example.com/money@v1.2.0/' + name, text)\n";
    let status = Command::new("python3")
        .args(["-c", script])
        .arg(folder.join("v1.2.0.zip"))
        .args([MONEY_MODULE, MONEY])
        .status();
    assert!(status.expect("python3 runs").success());
}

#[test]
#[ignore = "needs Docker, Go, Python and the base images; scripts/test runs it"]
fn a_module_comes_from_the_operators_mirror_or_the_failure_names_it_and_the_two_remedies() {
    run_container_test(async |sdp| {
        let proxy = sdp.folder.path().canonicalize().expect("it is there").join("goproxy");
        std::fs::create_dir(&proxy).expect("made");
        let mirror = format!("file://{}", proxy.display());
        sdp.restart_agent(|agent| {
            agent.build.env.insert("GOPROXY".to_owned(), mirror);
            agent.build.env.insert("GONOSUMDB".to_owned(), "example.com".to_owned());
            agent.build.env.insert("GONOSUMCHECK".to_owned(), "1".to_owned());
            agent.build.env.insert("GOFLAGS".to_owned(), "-mod=mod".to_owned());
        })
        .await;
        sdp.push("ledger", "main", &[("go.mod", REQUIRES), ("main.go", USES)]);
        ledger(sdp).await;

        let (failure, log) = sdp.failure("ledger", "main").await;
        assert_eq!(failure.reason.code(), "dependency_unreachable", "{log}");
        assert!(failure.detail.contains("example.com/money v1.2.0"), "{failure:?}\n{log}");
        let hint = failure.reason.hint();
        assert!(hint.contains("vendor") && hint.contains("mirror"), "{hint}");

        publish(&proxy);
        let url = sdp.deployed("ledger", "main").await;
        assert_eq!(sdp.get(&url).await.2, "42.00");
    });
}

#[test]
#[ignore = "needs Docker, Go and the base images; scripts/test runs it"]
fn a_release_command_runs_before_the_service_and_its_failure_leaves_the_old_one_serving() {
    run_container_test(async |sdp| {
        push_payments(sdp, "main", "paid");
        payments(sdp, json!({ "release": ["sh", "-c", "echo migrating $SDP_SANDBOX; cat page.txt"] })).await;
        let view = sdp.deploy("payments", "main").await;
        let log = sdp.log(&view).await;
        assert!(log.contains("migrating alice") && log.contains("with its files"), "{log}");
        let url = view.deployment.url.expect("it runs");

        payments(sdp, json!({ "release": ["sh", "-c", "echo no such table; exit 3"] })).await;
        push_payments(sdp, "main", "paid twice");
        let (failure, log) = sdp.failure("payments", "main").await;
        assert_eq!((failure.reason.code(), failure.exit_code), ("release_failed", Some(3)), "{log}");
        assert!(log.contains("no such table"), "{log}");
        assert!(sdp.get(&url).await.2.starts_with("paid /"), "the old one serves");
        assert_eq!(Engine::containers(sdp).len(), 1, "nothing is left of the release");
    });
}

#[test]
#[ignore = "needs Docker; scripts/test runs it"]
fn an_image_that_is_not_there_is_named_and_never_pulled() {
    run_container_test(async |sdp| {
        push_payments(sdp, "main", "paid");
        payments(sdp, json!({ "image": "registry.invalid/base/alpine:9.99" })).await;
        let created = sdp.admin.deploy(&wanted("payments", "main"), None).await.expect("taken");
        let view = sdp.wait(created.id.into()).await;
        let Some(sdp_core::deployment::Outcome::Failed { failure }) = view.deployment.outcome() else {
            panic!("{:?}", view.deployment.state)
        };
        assert_eq!(failure.reason.code(), "image_missing");
        assert!(failure.detail.contains("registry.invalid/base/alpine:9.99"), "{failure:?}");
    });
}

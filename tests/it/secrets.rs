//! Secrets of services: they arrive, nobody sees them, and they are nowhere on the way.

use std::path::Path;

use base64::Engine as _;
use sdp_core::api::{GivenTo, SetSecret};
use sdp_core::client::InstanceFilter;
use sdp_core::failure::FailureReason;
use sdp_core::secret::Secret;
use serde_json::json;

use crate::harness::{Sdp, greeter, name, run_test, run_test_with};

const DB: &str = "postgres://payments:hunter2@db.example/payments?x=1&y=ü";
const KEY: &str = "k3y-that-only-builds-are-given";

/// What a shell prints of a variable, plainly and in base64.
const PRINTS: &str =
    "echo plain \"$DB$KEY\"; echo \"in base64 $(printf %s \"$DB$KEY\" | base64 -w0).\"; echo printed";

impl Sdp {
    async fn secret(&self, variable: &str, value: &str, given_to: GivenTo) {
        let secret = SetSecret { value: Some(Secret::new(value)), file: None, given_to };
        self.admin.set_secret(&name("hello"), &name(variable), &secret).await.expect("set");
    }

    /// The service `hello`, whose build and run print the secrets they are given; it answers over HTTP with its variables.
    async fn indiscreet(&self) {
        self.push("hello", "main", &[("greeting.txt", "hello")]);
        let run = format!("{PRINTS}; exec {}", greeter());
        let builder = json!({ "type": "command", "build": [["sh", "-c", PRINTS]], "run": ["sh", "-c", run] });
        let release = ["sh", "-c", &format!("{PRINTS}; echo released")];
        self.service("hello", json!({ "builder": builder, "release": release })).await;
        self.secret("DB", DB, GivenTo::Run).await;
        self.secret("KEY", KEY, GivenTo::Build).await;
    }

    /// What the one instance has printed so far, once a line of it says so much.
    async fn printed(&self, times: usize) -> Vec<String> {
        let instance =
            self.admin.instances(&InstanceFilter::default()).await.expect("a list").first().expect("one").id;
        let lines = async || self.admin.instance_output(instance, 500).await.unwrap_or_default();
        self.until("it has printed", async |_| {
            lines().await.iter().filter(|line| *line == "printed").count() >= times
        })
        .await;
        lines().await
    }
}

fn assert_hidden(text: &str) {
    for value in [DB, KEY] {
        for offset in 0..3 {
            let shifted = [&b"xx"[..offset], value.as_bytes()].concat();
            let form = base64::engine::general_purpose::STANDARD_NO_PAD.encode(shifted);
            assert!(!text.contains(&form[4..form.len() - 4]), "{value} in base64: {text}");
        }
        assert!(!text.contains(value), "{value}: {text}");
    }
    assert!(!text.contains("hunter2"), "{text}");
}

/// None of the files of a folder holds one of the values; how many were looked at. What an instance's record has is its own affair.
fn search(folder: &Path, found: &mut Vec<String>) -> usize {
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            seen += search(&path, found);
        } else if let Ok(bytes) = std::fs::read(&path) {
            seen += 1;
            for value in [DB, KEY, "hunter2"] {
                if bytes.windows(value.len()).any(|part| part == value.as_bytes()) {
                    found.push(path.display().to_string());
                }
            }
        }
    }
    seen
}

#[test]
fn what_a_service_is_given_arrives_and_is_seen_nowhere_also_after_its_agent_was_restarted() {
    run_test(async |sdp| {
        sdp.indiscreet().await;
        let view = sdp.deploy("hello", "main").await;
        let log = sdp.log(&view).await;
        let url = view.deployment.url.clone().unwrap_or_else(|| panic!("it runs: {log}"));
        assert!(log.contains("plain [redacted]\nin base64 [redacted]"), "what the build printed: {log}");
        assert!(log.contains("released"), "{log}");
        assert_hidden(&log);
        assert_eq!(sdp.get(url.join("env/DB").expect("a URL")).await.2, DB, "it has arrived");
        assert_eq!(sdp.get(url.join("env/KEY").expect("a URL")).await.2, "", "builds alone have it");
        let printed = sdp.printed(1).await;
        assert_hidden(&printed.join("\n"));
        assert!(
            printed[0] == "plain [redacted]" && printed[1].starts_with("in base64 [redacted]"),
            "{printed:?}"
        );
        // In arguments of no process either.
        assert_hidden(&sdp.processes().join("\n"));

        let before = printed.iter().filter(|line| *line == "printed").count();
        sdp.stop_agent().await;
        sdp.start_agent().await;
        sdp.until("it answers again", async |sdp| sdp.get(&url).await.0 == 200).await;
        assert_eq!(sdp.get(url.join("env/DB").expect("a URL")).await.2, DB, "it still has it");
        assert_hidden(&sdp.printed(before).await.join("\n"));

        let mut found = Vec::new();
        assert!(search(sdp.server_folder(), &mut found) > 3, "the server has files");
        let spool = sdp.agent_folder().join("spool");
        search(&spool, &mut found);
        search(&sdp.agent_folder().join("work"), &mut found);
        assert_eq!(found, Vec::<String>::new());
        search(&sdp.agent_folder().join("instances"), &mut found);
        assert!(
            !found.is_empty() && found.iter().all(|path| path.ends_with("/instance.json")),
            "the record of what runs, and nothing else: {found:?}"
        );
        // An end takes that along.
        sdp.admin.delete_sandbox(&name("alice")).await.expect("deleted");
        sdp.until("its record is gone", async |sdp| {
            let mut found = Vec::new();
            search(sdp.agent_folder(), &mut found);
            found.is_empty()
        })
        .await;
        let events = sdp.admin.services().await.expect("listed");
        assert_hidden(&format!("{events:?}"));
    });
}

#[test]
fn a_build_that_fails_says_why_without_the_secret() {
    run_test(async |sdp| {
        sdp.push("hello", "main", &[("greeting.txt", "hello")]);
        let build = "echo cannot reach \"$DB\" >&2; exit 3";
        let builder = json!({ "type": "command", "build": [["sh", "-c", build]], "run": [greeter()] });
        sdp.service("hello", json!({ "builder": builder })).await;
        sdp.secret("DB", DB, GivenTo::Both).await;
        let (failure, log) = sdp.failure("hello", "main").await;
        assert_eq!(failure.reason, FailureReason::BuildFailed);
        assert_hidden(&format!("{failure:?}{log}"));
        assert!(log.contains("cannot reach [redacted]"), "{log}");
        let crash = "echo fatal: \"$DB\"; exit 1";
        sdp.service("hello", json!({ "builder": { "type": "command", "run": ["sh", "-c", crash] } })).await;
        let (failure, log) = sdp.failure("hello", "main").await;
        assert_eq!(failure.reason, FailureReason::Exited);
        assert_hidden(&format!("{failure:?}{log}"));
        assert!(log.contains("fatal: [redacted]"), "{log}");
    });
}

#[test]
fn a_file_of_the_agent_is_given_and_a_missing_one_fails_the_deployment_at_once() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().expect("a folder");
    let secrets = folder.path().to_owned();
    run_test_with(
        |_, agent| agent.secrets_folder.clone_from(&secrets),
        async |sdp| {
            sdp.hello().await;
            let secret = SetSecret { value: None, file: Some(name("payments-db")), given_to: GivenTo::Run };
            sdp.admin.set_secret(&name("hello"), &name("DB"), &secret).await.expect("set");
            let (failure, _) = sdp.failure("hello", "main").await;
            assert_eq!((failure.reason, failure.step), (FailureReason::SecretMissing, None));
            assert!(failure.detail.starts_with("vm-1: DB: there is no file payments-db in "), "{failure:?}");
            let path = secrets.join("payments-db");
            std::fs::write(&path, format!("{DB}\n")).expect("written");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("set");
            let url = sdp.deployed("hello", "main").await;
            assert_eq!(sdp.get(url.join("env/DB").expect("a URL")).await.2, DB);
        },
    );
}

/// Whether a greeter was started by whoever restarts it: the record's secrets are enough for that.
#[test]
fn a_crash_does_not_lose_the_secrets_nor_show_them() {
    run_test(async |sdp| {
        sdp.indiscreet().await;
        let url = sdp.deployed("hello", "main").await;
        sdp.stop_agent().await;
        sdp.start_agent().await;
        sdp.until("it answers again", async |sdp| sdp.get(&url).await.0 == 200).await;
        drop(sdp.http.get(url.join("crash").expect("a URL")).send().await);
        sdp.until("it is back", async |sdp| {
            let list = sdp.admin.instances(&InstanceFilter::default()).await.expect("a list");
            list.first().is_some_and(|instance| instance.restarts == 2) && sdp.get(&url).await.0 == 200
        })
        .await;
        assert_eq!(sdp.get(url.join("env/DB").expect("a URL")).await.2, DB);
        let list = sdp.admin.instances(&InstanceFilter::default()).await.expect("a list");
        assert_hidden(&list[0].last_lines.join("\n"));
        assert_hidden(&sdp.printed(1).await.join("\n"));
    });
}

//! The program itself and its data folder: what it refuses and says, backup and restore, a database that lost its end.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

use crate::harness::{Host, hello, problem, refused as answered};

fn program(data_dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sdp-server"));
    command.args(arguments).env_clear().kill_on_drop(true).stdin(Stdio::null());
    command.env("SDP_SERVER_PUBLIC_URL", "http://127.0.0.1:1");
    command.env("SDP_SERVER_LISTEN", "127.0.0.1:0");
    command.env("SDP_SERVER_DATA_DIR", data_dir);
    command
}

async fn run(data_dir: &Path, arguments: &[&str]) -> Output {
    let ended = tokio::time::timeout(Duration::from_secs(60), program(data_dir, arguments).output()).await;
    ended.expect("it ends").expect("it runs")
}

async fn done(data_dir: &Path, arguments: &[&str]) -> String {
    let output = run(data_dir, arguments).await;
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Its last words and exit code, and that they name this code.
async fn refused(data_dir: &Path, arguments: &[&str], code: &str, status: i32) -> String {
    let output = run(data_dir, arguments).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(status), "{said}");
    assert!(said.contains(&format!("({code})")) && said.contains("\n  next: "), "{said}");
    said
}

/// A server that runs as a process of its own.
struct Running {
    process: Child,
    url: String,
    token: String,
    http: reqwest::Client,
    /// Reads what it says, so that it never waits for a reader.
    _listening: JoinSet<()>,
}

impl Running {
    async fn start(data_dir: &Path, token: &str) -> Self {
        drop(rustls::crypto::ring::default_provider().install_default());
        let mut process = program(data_dir, &["--log-format", "json"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut lines = BufReader::new(process.stderr.take().expect("piped")).lines();
        let mut said = Vec::new();
        let url = loop {
            let line = lines.next_line().await.expect("reads");
            let Some(line) = line else { panic!("it ended: {said:?}") };
            let entry: Value = serde_json::from_str(&line).unwrap_or_default();
            if entry["fields"]["message"] == "ready" {
                break format!("http://{}", entry["fields"]["listen"].as_str().expect("an address"));
            }
            said.push(line);
        };
        let mut listening = JoinSet::new();
        listening.spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        Self { process, url, token: token.trim().to_owned(), http, _listening: listening }
    }

    async fn services(&self) -> Vec<Value> {
        let answer =
            self.http.get(format!("{}/api/v1/services", self.url)).bearer_auth(&self.token).send().await;
        let answer = answer.expect("answered").json::<Value>().await.expect("JSON");
        answer["services"].as_array().or(answer.as_array()).expect("a list").clone()
    }

    async fn add_service(&self, name: &str) {
        let mut service = hello();
        service["name"] = name.into();
        let answer = self.http.post(format!("{}/api/v1/services", self.url)).bearer_auth(&self.token);
        assert_eq!(answer.json(&service).send().await.expect("answered").status(), 201);
    }

    async fn kill(mut self) {
        self.process.kill().await.expect("killed");
    }
}

/// A data folder with an admin token, and the token.
async fn begun() -> (tempfile::TempDir, PathBuf, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let data_dir = folder.path().join("data");
    let token = done(&data_dir, &["token", "create", "admin", "ops"]).await;
    (folder, data_dir, token)
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("there").permissions().mode() & 0o777
}

#[tokio::test]
async fn a_server_leaves_no_core_and_its_memory_is_for_root_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let data_dir = folder.path().join("data");
    let token = done(&data_dir, &["token", "create", "admin", "ops"]).await;
    let server = Running::start(&data_dir, &token).await;
    let pid = server.process.id().expect("it runs");
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("readable");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a limit");
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
    // What the kernel gives to root is what others may not read; of a server that root runs that says nothing.
    use std::os::unix::fs::MetadataExt;
    assert_eq!(std::fs::metadata(format!("/proc/{pid}/environ")).expect("there").uid(), 0);
    assert!(server.services().await.is_empty());
}

#[tokio::test]
async fn a_log_of_the_database_that_is_removed_after_a_kill_is_missed_at_the_start() {
    let (_folder, data_dir, token) = begun().await;
    let server = Running::start(&data_dir, &token).await;
    server.add_service("hello").await;
    server.kill().await;
    let server = Running::start(&data_dir, &token).await;
    assert_eq!(server.services().await.len(), 1, "a kill alone loses nothing");
    server.add_service("ledger").await;
    server.kill().await;

    std::fs::remove_file(data_dir.join("sdp.db-wal")).expect("it is there after a kill");
    let said = refused(&data_dir, &[], "database_behind", 2).await;
    assert!(said.contains("sdp.db-wal") && said.contains("accept-loss"), "{said}");
    refused(&data_dir, &["token", "list"], "database_behind", 2).await;
    let elsewhere = data_dir.with_file_name("backup");
    refused(&data_dir, &["backup", elsewhere.to_str().expect("text")], "database_behind", 2).await;
    assert!(!elsewhere.exists());
    let said = done(&data_dir, &["accept-loss"]).await;
    assert!(said.contains("are lost"), "{said}");
    assert!(done(&data_dir, &["accept-loss"]).await.contains("nothing is missing"));
    let server = Running::start(&data_dir, &token).await;
    server.add_service("third").await;
    server.kill().await;
}

#[tokio::test]
async fn what_is_no_database_of_this_folder_ends_the_start_with_a_sentence() {
    let (_folder, data_dir, _) = begun().await;
    let file = data_dir.join("sdp.db");
    let whole = std::fs::read(&file).expect("reads");
    let mut newer = whole.clone();
    // The header's user_version, big-endian at 60.
    newer[60..64].copy_from_slice(&99_u32.to_be_bytes());
    for (bytes, code) in [
        (newer, "newer_database"),
        (b"text".repeat(1000), "not_our_database"),
        (Vec::new(), "database_empty"),
    ] {
        std::fs::write(&file, &bytes).expect("written");
        refused(&data_dir, &[], code, 2).await;
        assert!(std::fs::read(&file).expect("reads") == bytes, "left as it is");
    }
    std::fs::remove_file(&file).expect("removed");
    let said = refused(&data_dir, &[], "database_missing", 2).await;
    assert!(said.contains("sdp-server restore") && said.contains("begin anew"), "{said}");
    refused(&data_dir, &["token", "create", "admin", "other"], "database_missing", 2).await;
    assert!(!file.exists(), "no new one");
}

#[tokio::test]
async fn a_second_server_on_the_same_folder_is_refused() {
    let (_folder, data_dir, token) = begun().await;
    let server = Running::start(&data_dir, &token).await;
    refused(&data_dir, &[], "data_dir_in_use", 1).await;
    done(&data_dir, &["token", "create", "bot", "chat"]).await;
    assert!(done(&data_dir, &["token", "list"]).await.contains("chat"));
    server.kill().await;
    Running::start(&data_dir, &token).await.kill().await;
}

#[tokio::test]
async fn a_backup_is_made_while_the_server_runs_and_restored_into_an_empty_folder() {
    let (folder, data_dir, token) = begun().await;
    let server = Running::start(&data_dir, &token).await;
    server.add_service("hello").await;
    let backup = folder.path().join("backup");
    let place = backup.to_str().expect("text");
    let beside = folder.path().join("backup.part");
    std::fs::create_dir(&beside).expect("made");
    let said = done(&data_dir, &["backup", place]).await;
    assert!(beside.exists(), "what is beside the place is somebody else's");
    assert!(
        said.contains("0 deployments") && said.contains("1 tokens") && said.contains("no credentials"),
        "{said}"
    );
    assert_eq!(
        (mode(&backup), mode(&backup.join("sdp.db")), mode(&backup.join("logs"))),
        (0o700, 0o600, 0o700)
    );
    refused(&data_dir, &["backup", place], "backup_exists", 2).await;
    server.add_service("later").await;

    refused(&data_dir, &["restore", place], "data_dir_in_use", 1).await;
    server.kill().await;
    refused(&data_dir, &["restore", place], "data_dir_not_empty", 2).await;
    let new = folder.path().join("new");
    refused(&new, &["restore", folder.path().to_str().expect("text")], "not_a_backup", 2).await;
    let damaged = folder.path().join("damaged");
    let copied = std::process::Command::new("cp").arg("-a").args([&backup, &damaged]).status();
    assert!(copied.expect("cp runs").success());
    let bytes = std::fs::read(damaged.join("sdp.db")).expect("reads");
    std::fs::write(damaged.join("sdp.db"), &bytes[..bytes.len() / 2]).expect("cut");
    refused(&new, &["restore", damaged.to_str().expect("text")], "backup_damaged", 2).await;
    // A free page at the end harms no database; but it is not the one that was copied.
    let mut longer = bytes.clone();
    longer.extend_from_slice(&[0; 4096]);
    std::fs::write(damaged.join("sdp.db"), longer).expect("written");
    refused(&new, &["restore", damaged.to_str().expect("text")], "backup_damaged", 2).await;
    // Nothing is left of what failed.
    let left = std::fs::read_dir(&new).expect("made").flatten().map(|entry| entry.file_name());
    assert!(left.into_iter().all(|name| name == "sdp.lock"));
    assert!(done(&new, &["restore", place]).await.contains("0 deployments"));
    refused(&new, &["restore", place], "data_dir_not_empty", 2).await;
    let foreign = folder.path().join("foreign");
    std::fs::create_dir(&foreign).expect("made");
    std::fs::write(foreign.join("notes"), "").expect("written");
    refused(&foreign, &["restore", place], "data_dir_not_empty", 2).await;
    assert!(!foreign.join("sdp.lock").exists(), "what is none of SDP's gets no mark");
    let server = Running::start(&new, &token).await;
    let names: Vec<Value> = server.services().await.iter().map(|service| service["name"].clone()).collect();
    assert_eq!(names, ["hello"], "as it was at the backup");
    server.kill().await;
}

#[tokio::test]
async fn below_the_floor_of_free_space_nothing_new_is_taken_and_readiness_says_so() {
    let host = Host::start_with(|config| config.limits.disk_floor_mib = 1 << 30).await;
    host.hello().await;
    let deploy = json!({ "service": "hello", "sandbox": "alice" });
    let refusal = answered(host.post("/api/v1/deployments", &deploy), 507, "disk_low").await;
    assert!(refusal.title.contains("MiB free") && refusal.hint.is_some(), "{refusal:?}");
    let ready = problem(host.bare(Method::GET, "/readyz").send().await.expect("answered"), 503).await;
    let wrong = "not as it should be: disk";
    assert_eq!((ready.code.as_str(), ready.detail.as_deref()), ("not_ready", Some(wrong)));
    assert_eq!(host.bare(Method::GET, "/healthz").send().await.expect("answered").status(), 200);
    host.stop().await;
}

#[tokio::test]
async fn a_database_that_is_removed_under_a_server_is_not_made_anew() {
    let (_folder, data_dir, token) = begun().await;
    let server = Running::start(&data_dir, &token).await;
    server.add_service("hello").await;
    let (file, away) = (data_dir.join("sdp.db"), data_dir.join("away"));
    std::fs::rename(&file, &away).expect("moved");
    let ready = server.http.get(format!("{}/readyz", server.url)).send().await.expect("answered");
    assert_eq!(ready.status(), 503);
    let found: serde_json::Value = ready.json().await.expect("JSON");
    let database =
        found["checks"].as_array().expect("checks").iter().find(|check| check["name"] == "database");
    assert_eq!(database.expect("looked at")["detail"], "database_gone");
    assert!(!file.exists());
    std::fs::rename(&away, &file).expect("moved back");
    server.add_service("ledger").await;
    assert_eq!(server.services().await.len(), 2);
    server.kill().await;
}

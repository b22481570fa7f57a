//! Readiness: what is wrong is named, and asking costs little.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{Host, ok, problem};

/// The names of the checks that failed.
async fn wrong(host: &Host) -> Vec<String> {
    let answer = host.bare(Method::GET, "/readyz").send().await.expect("answered");
    assert_eq!(answer.headers()["retry-after"], "5");
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    let body: Value = ok(answer, 503).await;
    assert_eq!((&body["code"], &body["status"]), (&"not_ready".into(), &503.into()), "{body}");
    failed(&body)
}

fn failed(body: &Value) -> Vec<String> {
    let checks = body["checks"].as_array().expect("checks").iter();
    let failed = checks.filter(|check| check["ok"] == false);
    failed.map(|check| format!("{}: {}", check["name"], check["detail"]).replace('"', "")).collect()
}

#[tokio::test]
async fn a_server_that_can_work_says_what_it_looked_at() {
    let host = Host::start().await;
    let body: Value = ok(host.bare(Method::GET, "/readyz").send().await.expect("answered"), 200).await;
    assert_eq!(body["status"], "ok");
    let names: Vec<&str> = body["checks"]
        .as_array()
        .expect("checks")
        .iter()
        .filter_map(|check| check["name"].as_str())
        .collect();
    assert_eq!(names, ["running", "orchestrator", "database", "logs", "disk"]);
    assert_eq!(failed(&body), [""; 0]);
    assert!(!host.data().join("logs/.probe").exists(), "nothing is left behind");
    host.stop().await;
}

#[tokio::test]
async fn too_little_room_is_named() {
    let host = Host::start_with(|config| config.limits.disk_floor_mib = 1 << 40).await;
    let wrong = wrong(&host).await;
    assert!(
        matches!(&wrong[..], [one] if one.starts_with("disk: ") && one.contains("MiB are free")),
        "{wrong:?}"
    );
    host.stop().await;
}

#[tokio::test]
async fn a_folder_of_logs_that_cannot_be_written_is_named() {
    let host = Host::start().await;
    std::fs::remove_dir_all(host.data().join("logs")).expect("removed");
    std::fs::write(host.data().join("logs"), "no folder").expect("written");
    assert_eq!(wrong(&host).await, ["logs: log_io"]);
    host.stop().await;
}

#[tokio::test]
async fn a_database_that_cannot_be_written_is_named_and_a_flood_of_probes_costs_one_look() {
    let host = Host::start().await;
    let other = rusqlite::Connection::open(host.data().join("sdp.db")).expect("opened");
    other.execute_batch("BEGIN IMMEDIATE").expect("locked");
    let begun = Instant::now();
    let probes = futures_util::future::join_all((0..100).map(|_| wrong(&host))).await;
    assert!(probes.iter().all(|wrong| *wrong == ["database: no answer within 2 s"]), "{probes:?}");
    // One look takes 2 s; what it found is good for those who waited meanwhile.
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    other.execute_batch("ROLLBACK").expect("unlocked");
    drop(other);
    host.stop().await;
}

#[tokio::test]
async fn an_orchestrator_that_has_ended_is_named() {
    let host = Host::start().await;
    host.platform.stop().await;
    let wrong = wrong(&host).await;
    assert!(wrong.contains(&"orchestrator: stopping".to_owned()), "{wrong:?}");
    host.stop().await;
}

#[tokio::test]
async fn a_server_that_stops_is_not_ready() {
    let host = Host::start().await;
    // A connection that is there already, in the middle of its request, is answered.
    let address = host.url.trim_start_matches("http://").to_owned();
    let mut early = tokio::net::TcpStream::connect(&address).await.expect("connected");
    early.write_all(b"GET /readyz HTTP/1.1\r\nhost: sdp\r\n").await.expect("sent");
    // Connections are accepted in turn: this one came after it.
    assert_eq!(host.bare(Method::GET, "/healthz").send().await.expect("answered").status(), 200);
    host.shut_down();
    early.write_all(b"\r\n").await.expect("sent");
    let mut answer = String::new();
    early.read_to_string(&mut answer).await.expect("answered");
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("it is stopping"), "{answer}");
    host.stop().await;
}

#[tokio::test]
async fn the_answer_is_a_whole_problem() {
    let host = Host::start_with(|config| config.limits.disk_floor_mib = 1 << 40).await;
    let found = problem(host.bare(Method::GET, "/readyz").send().await.expect("answered"), 503).await;
    assert_eq!(found.code, "not_ready");
    assert!(found.hint.is_some() && found.detail.as_deref() == Some("not as it should be: disk"));
    host.stop().await;
}

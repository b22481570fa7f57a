//! `/metrics`: who may read them, what they say, and that somebody else's parser reads them.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use reqwest::Method;
use reqwest::header::ACCEPT;
use sdp_core::api::TokenKind;
use sdp_core::deployment::Step;
use sdp_core::event::EventKind;
use sdp_core::feed::EventFilter;
use sdp_core::id::EventSeq;
use sdp_core::wire::{FromAgent, Load, Progress};

use serde_json::json;

use crate::harness::{Host, refused};

const OPEN_METRICS: &str =
    "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";

/// The metrics as text, and their content type.
async fn read(host: &Host, accept: &str) -> (String, String) {
    let answer = host.get("/metrics").header(ACCEPT, accept).send().await.expect("answered");
    assert_eq!(answer.status(), 200);
    let kind = answer.headers()["content-type"].to_str().expect("text").to_owned();
    (answer.text().await.expect("a body"), kind)
}

/// Each series with its value.
fn series(text: &str) -> BTreeMap<&str, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("a value");
            (name, value.parse().expect("a number"))
        })
        .collect()
}

/// Something of everything that is counted.
async fn busy(host: &Host) {
    host.hello().await;
    let mut agent = host.agent().await;
    let load = Load {
        running: 1,
        spool_jobs: 2,
        spool_bytes: 4096,
        disk_free: Some(9 << 30),
        disk_total: Some(80 << 30),
    };
    agent.say(FromAgent::Load { load }).await;
    host.deploy().await;
    let mut job = agent.take().await;
    agent.print(&mut job, &[b"one", b"three"]).await;
    agent.progress(&mut job, Progress::StepStarted { step: Step::Fetch }).await;
    agent.fail(job).await;
    // Another one waits for its turn: its agent has taken it and says no more.
    let second = host.deploy().await;
    agent.take().await;
    let filter = EventFilter { deployment: Some(second.id), ..EventFilter::default() };
    let mut feed = host.platform.feed(EventSeq(0), filter);
    while !matches!(feed.next().await.expect("read").kind, EventKind::StepStarted { .. }) {}
    refused(host.with("nonsense", Method::GET, "/api/v1/services"), 401, "unauthorised").await;
    let pinned = host.put("/api/v1/sandboxes/qa", &json!({ "pinned": true }));
    assert_eq!(pinned.send().await.expect("answered").status(), 201);
    let freeze = json!({ "sandbox": "qa", "kind": "freeze", "reason": "release" });
    assert_eq!(host.post("/api/v1/locks", &freeze).send().await.expect("answered").status(), 201);
    std::mem::forget(agent);
}

#[tokio::test]
async fn metrics_say_what_has_happened_and_what_is_so() {
    let host = Host::start().await;
    busy(&host).await;
    let (text, kind) = read(&host, OPEN_METRICS).await;
    assert_eq!(kind, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(text.ends_with("# EOF\n"));
    let series = series(&text);
    let at = |name: &str| *series.get(name).unwrap_or_else(|| panic!("no {name} in\n{text}"));
    for (name, value) in [
        ("sdp_deployments_requested_total{kind=\"deploy\"}", 2.0),
        ("sdp_deployments_ended_total{outcome=\"failed\",reason=\"ref_not_found\"}", 1.0),
        ("sdp_deployments_ended_total{outcome=\"succeeded\",reason=\"none\"}", 0.0),
        ("sdp_deployment_queue_wait_seconds_count", 2.0),
        ("sdp_deployment_duration_seconds_count{outcome=\"failed\"}", 1.0),
        ("sdp_deployment_step_duration_seconds_count{step=\"resolve\",outcome=\"succeeded\"}", 1.0),
        ("sdp_deployment_step_duration_seconds_count{step=\"fetch\",outcome=\"failed\"}", 1.0),
        ("sdp_deployments_open{state=\"resolve\"}", 1.0),
        ("sdp_deployments_open{state=\"queued\"}", 0.0),
        ("sdp_deployments_overdue", 0.0),
        ("sdp_sandboxes", 2.0),
        ("sdp_sandboxes_pinned", 1.0),
        ("sdp_locks", 0.0),
        ("sdp_freezes", 1.0),
        ("sdp_agent_connected{agent=\"vm-1\"}", 1.0),
        ("sdp_agent_connections_total{agent=\"vm-1\"}", 1.0),
        ("sdp_agent_jobs_running{agent=\"vm-1\"}", 1.0),
        ("sdp_agent_jobs_capacity{agent=\"vm-1\"}", 4.0),
        ("sdp_agent_spool_jobs{agent=\"vm-1\"}", 2.0),
        ("sdp_agent_spool_bytes{agent=\"vm-1\"}", 4096.0),
        ("sdp_agent_disk_free_bytes{agent=\"vm-1\"}", f64::from(9 << 10) * f64::from(1 << 20)),
        ("sdp_log_lines_stored_total", 2.0),
        ("sdp_log_stored_bytes_total", 10.0),
        ("sdp_log_unsynced_lines", 0.0),
        ("sdp_auth_refused_total{code=\"unauthorised\"}", 1.0),
        (
            "sdp_http_request_duration_seconds_count{method=\"GET\",route=\"/api/v1/services\",status=\"4xx\"}",
            1.0,
        ),
        (
            "sdp_http_request_duration_seconds_count{method=\"POST\",route=\"/api/v1/deployments\",status=\"2xx\"}",
            2.0,
        ),
        ("sdp_build_info{version=\"0.1.0\"}", 1.0),
    ] {
        assert!((at(name) - value).abs() < 1e-9, "{name} {}", at(name));
    }
    for name in [
        "sdp_data_free_bytes",
        "sdp_database_size_bytes",
        "process_resident_memory_bytes",
        "process_open_fds",
    ] {
        assert!(at(name) > 0.0, "{name}");
    }
    assert!(at("process_start_time_seconds") > 1.7e9);
    let created = host.platform.deployments(Default::default()).await.expect("read");
    for one in created {
        assert!(!text.contains(&one.id.to_string()) && !text.contains("alice") && !text.contains("hello"));
    }
    host.stop().await;
}

#[tokio::test]
async fn metrics_are_for_those_with_a_token_unless_they_are_open() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("metrics.token");
    std::fs::write(&file, "0123456789abcdef0123456789abcdef\n").expect("written");
    let host = Host::start_with(|config| config.metrics.token_file = Some(file)).await;
    refused(host.bare(Method::GET, "/metrics"), 401, "unauthorised").await;
    let agent = host.token(TokenKind::Agent, "vm-7").await;
    refused(host.with(&agent, Method::GET, "/metrics"), 403, "forbidden").await;
    let bot = host.token(TokenKind::Bot, "chat").await;
    let own = "0123456789abcdef0123456789abcdef";
    for token in [&host.admin, &bot, own] {
        let answer = host.with(token, Method::GET, "/metrics").send().await.expect("answered");
        assert_eq!(answer.status(), 200);
    }
    refused(host.with(own, Method::GET, "/api/v1/agents"), 401, "unauthorised").await;
    refused(host.with(&own[1..], Method::GET, "/metrics"), 401, "unauthorised").await;
    host.stop().await;

    let host = Host::start_with(|config| config.metrics.open = true).await;
    let answer = host.bare(Method::GET, "/metrics").send().await.expect("answered");
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    refused(host.bare(Method::GET, "/api/v1/agents"), 401, "unauthorised").await;
    host.stop().await;
}

/// Reads a file with the parser that its name asks for, and prints what it found.
const PARSE: &str = r"
import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as prometheus_text
for path in sys.argv[1:]:
    parse = open_metrics if path.endswith('.om') else prometheus_text
    for family in parse(open(path).read()):
        print(path[-2:], family.name, family.type, family.unit, len(family.samples), bool(family.documentation))
";

#[tokio::test]
#[ignore = "needs prometheus_client of PyPI: scripts/setup-test"]
async fn somebody_elses_parser_reads_both_formats() {
    let host = Host::start().await;
    busy(&host).await;
    let folder = tempfile::tempdir().expect("a folder");
    let (om, text) = (folder.path().join("metrics.om"), folder.path().join("metrics.pt"));
    std::fs::write(&om, read(&host, OPEN_METRICS).await.0).expect("written");
    std::fs::write(&text, read(&host, "*/*").await.0).expect("written");
    let python = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../validators/bin/python");
    let parsed = Command::new(python).arg("-c").arg(PARSE).args([&om, &text]).output().expect("Python runs");
    let (found, errors) = (String::from_utf8_lossy(&parsed.stdout), String::from_utf8_lossy(&parsed.stderr));
    assert!(parsed.status.success(), "{errors}");
    let families = |kind: &str| found.lines().filter(|line| line.starts_with(kind)).count();
    assert!(families("om ") > 40 && families("om ") == families("pt "), "{found}");
    assert!(
        !found.contains(" unknown ") && !found.contains(" False"),
        "all have a type and a help text:\n{found}"
    );
    assert!(found.contains("om sdp_deployment_step_duration_seconds histogram seconds"), "{found}");
    assert!(found.contains("om sdp_agent_disk_free_bytes gauge bytes"), "{found}");
    host.stop().await;
}

#[tokio::test]
async fn the_sample_alerts_ask_for_metrics_that_there_are() {
    let host = Host::start().await;
    busy(&host).await;
    let (text, _) = read(&host, "*/*").await;
    let there: Vec<&str> =
        series(&text).into_keys().map(|name| name.split('{').next().expect("a name")).collect();
    let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/prometheus/alerts.yml");
    let rules = std::fs::read_to_string(rules).expect("read");
    let mut asked = 0;
    let words = rules.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    for word in words.filter(|word| word.starts_with("sdp_") || word.starts_with("process_")) {
        asked += 1;
        assert!(there.contains(&word), "{word} is asked for in alerts.yml");
    }
    assert!(asked > 10);
    host.stop().await;
}

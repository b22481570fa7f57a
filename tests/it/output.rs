//! What a running service prints, on its way to those who look.

use std::time::Duration;

use sdp_core::api::{OutputChunk, OutputEndReason};
use sdp_core::client::{InstanceFilter, OutputItem, OutputStream};
use sdp_core::deployment::Outcome;
use sdp_core::id::InstanceId;
use sdp_core::sandbox::{InstanceState, StopReason};
use serde_json::json;

use crate::harness::{Sdp, greeter, run_test};

async fn instance(sdp: &Sdp) -> InstanceId {
    sdp.admin.instances(&InstanceFilter::default()).await.expect("a list").first().expect("one runs").id
}

async fn next(stream: &mut OutputStream) -> OutputItem {
    let next = tokio::time::timeout(Duration::from_secs(30), stream.next()).await.expect("it comes");
    next.expect("not over").expect("it works")
}

/// Reads until a line that ends it.
async fn until(stream: &mut OutputStream, last: &str) -> Vec<OutputChunk> {
    let mut chunks = Vec::new();
    loop {
        match next(stream).await {
            OutputItem::Lines(chunk) => {
                let found = chunk.lines.iter().any(|line| line.text == last);
                chunks.push(chunk);
                if found {
                    return chunks;
                }
            }
            other => panic!("{other:?} before {last:?}"),
        }
    }
}

fn texts(chunks: &[OutputChunk]) -> Vec<String> {
    chunks.iter().flat_map(|chunk| chunk.lines.iter().map(|line| line.text.clone())).collect()
}

fn left_out(chunks: &[OutputChunk]) -> u64 {
    chunks.iter().map(|chunk| chunk.left_out).sum()
}

#[test]
fn what_a_service_prints_is_followed_live_in_order_until_it_ends_with_its_last_lines() {
    run_test(async |sdp| {
        sdp.hello().await;
        let url = sdp.deployed("hello", "main").await;
        let id = instance(sdp).await;
        let mut stream = sdp.admin.follow_output(id, 100).await.expect("followed");
        let tail = until(&mut stream, "GET /healthz").await;
        assert_eq!(texts(&tail)[0], r#"starting with "hello from main""#);
        sdp.get(url.join("print/1000").expect("a URL")).await;
        let chunks = until(&mut stream, "line 1000").await;
        let numbers: Vec<String> =
            texts(&chunks).into_iter().filter(|text| text.starts_with("line ")).collect();
        assert_eq!(numbers, (1..=1000).map(|n| format!("line {n}")).collect::<Vec<_>>());
        assert_eq!(left_out(&chunks), 0, "a reader who keeps up loses nothing");
        let times: Vec<_> = chunks.iter().flat_map(|chunk| chunk.lines.iter().map(|line| line.at)).collect();
        assert!(times.is_sorted());
        // Another reader begins with as much as it asks for.
        let mut other = sdp.admin.follow_output(id, 2).await.expect("followed");
        let tail = until(&mut other, "GET /print/1000").await;
        assert_eq!(texts(&tail), ["line 1000", "GET /print/1000"]);
        drop(sdp.http.get(url.join("end").expect("a URL")).send().await);
        until(&mut stream, "asked to end").await;
        for stream in [&mut stream, &mut other] {
            let end = loop {
                if let OutputItem::End(end) = next(stream).await {
                    break end;
                }
            };
            assert_eq!(end.reason, OutputEndReason::Ended);
            assert!(stream.next().await.is_none());
        }
        // From then on it is what the event kept.
        sdp.until("it is over", async |sdp| {
            sdp.admin.instance(id).await.is_ok_and(|instance| instance.state.is_over())
        })
        .await;
        let over = sdp.admin.instance(id).await.expect("known");
        let InstanceState::Stopped { reason: StopReason::Crashed { exit_code: Some(0), .. } } = over.state
        else {
            panic!("{:?}", over.state)
        };
        assert_eq!(over.last_lines.len(), 200);
        assert_eq!(over.last_lines.last().map(String::as_str), Some("asked to end"));
        let mut stream = sdp.admin.follow_output(id, 1).await.expect("followed");
        let OutputItem::Lines(chunk) = next(&mut stream).await else { panic!("no lines") };
        assert_eq!(texts(&[chunk]), ["asked to end"]);
        assert!(matches!(next(&mut stream).await, OutputItem::End(_)));
    });
}

#[test]
fn a_service_that_prints_as_fast_as_it_can_holds_nobody_up() {
    run_test(async |sdp| {
        sdp.hello().await;
        let url = sdp.deployed("hello", "main").await;
        let id = instance(sdp).await;
        // One reads, one only looks away.
        let mut stream = sdp.admin.follow_output(id, 0).await.expect("followed");
        let _slow = sdp.admin.follow_output(id, 0).await.expect("followed");
        sdp.get(url.join("print/flood").expect("a URL")).await;
        sdp.push("loud", "main", &[("greeting.txt", "x")]);
        let script = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo built $i; done";
        let builder = json!({ "type": "command", "build": [["sh", "-c", script]], "run": [greeter()] });
        sdp.service("loud", json!({ "builder": builder })).await;
        let deploy = sdp.deploy("loud", "main");
        let mut deploy = std::pin::pin!(deploy);
        let (mut next_line, mut read) = (None::<u64>, 0_u64);
        let view = loop {
            tokio::select! {
                view = &mut deploy => break view,
                item = next(&mut stream) => {
                    let OutputItem::Lines(chunk) = item else { panic!("{item:?}") };
                    let mut expected = next_line.map(|next| next + chunk.left_out);
                    for line in &chunk.lines {
                        let Some(flood) = line.text.strip_prefix("flood ") else { continue };
                        let number: u64 = flood.split(' ').next().and_then(|n| n.parse().ok()).expect("a number");
                        assert_eq!(expected.unwrap_or(number), number, "what is left out is counted");
                        expected = Some(number + 1);
                        read += 1;
                    }
                    next_line = expected;
                }
            }
        };
        assert_eq!(view.deployment.outcome(), Some(&Outcome::Succeeded {}));
        assert!(read > 0, "and the output goes on beside it");
        let mut line = 0;
        let mut from = 1;
        while line < 20_000 {
            let window = sdp.admin.logs(view.deployment.id.into(), from, 1000).await.expect("a log");
            from = window.lines.last().expect("more lines").n + 1;
            for text in window.lines.iter().filter_map(|line| line.text.strip_prefix("built ")) {
                line += 1;
                assert_eq!(text, line.to_string());
            }
        }
        // Cancel does not queue behind it either: the service itself can be stopped.
        sdp.admin.stop_instance(id).await.expect("taken");
        let end = loop {
            if let OutputItem::End(end) = next(&mut stream).await {
                break end;
            }
        };
        assert_eq!(end.reason, OutputEndReason::Ended);
    });
}

#[test]
fn a_reader_is_told_when_the_agent_goes_away() {
    run_test(async |sdp| {
        sdp.hello().await;
        sdp.deployed("hello", "main").await;
        let id = instance(sdp).await;
        let mut stream = sdp.admin.follow_output(id, 0).await.expect("followed");
        assert!(matches!(next(&mut stream).await, OutputItem::Lines(_)), "followed at once");
        sdp.stop_agent().await;
        let end = loop {
            if let OutputItem::End(end) = next(&mut stream).await {
                break end;
            }
        };
        // Its services end with it, and it says so before it goes, or its connection ends first.
        assert!(matches!(end.reason, OutputEndReason::Ended | OutputEndReason::AgentAway), "{end:?}");
    });
}

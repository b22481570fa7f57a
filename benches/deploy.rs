//! How long a deploy takes beside what it cannot do without, in one run: `cargo bench --bench deploy`.
//!
//! The service has nothing to build. Floor: fetch nothing, start its program, and ask until its port answers. Whole: request
//! over REST, agent over a WebSocket, resolve, fetch and checkout from a local repository, start, check, switch, until
//! `?wait` says that it has ended; a replaced instance is drained and stopped beside it.

#![expect(clippy::print_stdout, reason = "it prints figures")]

#[path = "../examples/quickstart/samples.rs"]
#[expect(dead_code, reason = "shared with the quickstart, which uses more of it")]
mod samples;

#[path = "../tests/it/harness.rs"]
#[expect(dead_code, reason = "shared with the integration tests, which use more of it")]
mod harness;

use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

const RUNS: usize = 41;

fn main() {
    harness::run_test(async |sdp| {
        sdp.push("hello", "main", &[("greeting.txt", "hello")]);
        sdp.service("hello", json!({ "health": { "type": "tcp" } })).await;
        sdp.deployed("hello", "main").await;
        let (mut floor, mut whole) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            floor.push(start_and_ask());
            let begun = Instant::now();
            sdp.deployed("hello", "main").await;
            whole.push(begun.elapsed());
        }
        let (floor, whole) = (median(floor), median(whole));
        println!("start a program until its port answers: {:.1} ms", ms(floor));
        println!(
            "a whole deploy of it:                   {:.1} ms, {:.1} ms over it",
            ms(whole),
            ms(whole) - ms(floor)
        );
    });
}

fn start_and_ask() -> Duration {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("greeting.txt"), "hello").expect("written");
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
    let begun = Instant::now();
    let mut child = Command::new(harness::greeter())
        .current_dir(folder.path())
        .env("PORT", port.to_string())
        .stdout(Stdio::null())
        .spawn()
        .expect("starts");
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        std::thread::yield_now();
    }
    let took = begun.elapsed();
    child.kill().expect("killed");
    child.wait().expect("ended");
    took
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

//! A second sample service: it keeps no accounts, but shows some. Built with `rustc --edition 2021 -o ledger main.rs`.
//!
//! It listens on `PORT`, answers `/healthz`, and shows the accounts as JSON to everybody else. Each connection has a
//! thread, so a slow client holds up nobody. On SIGTERM it finishes what it is answering.

use std::io::{BufRead, BufReader, Read, Result, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering::SeqCst};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

/// So many requests are being answered.
static BUSY: Mutex<usize> = Mutex::new(0);
static DONE: Condvar = Condvar::new();
static STOPPING: AtomicBool = AtomicBool::new(false);
static LISTENER: AtomicI32 = AtomicI32::new(-1);

extern "C" {
    fn signal(number: i32, handler: extern "C" fn(i32)) -> usize;
    fn shutdown(socket: i32, how: i32) -> i32;
}

/// Ends the wait for the next client.
extern "C" fn stop(_signal: i32) {
    STOPPING.store(true, SeqCst);
    unsafe { shutdown(LISTENER.load(SeqCst), 2) };
}

fn main() -> Result<()> {
    let port = std::env::var("PORT").unwrap_or_else(|_| "8000".to_owned());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}"))?;
    LISTENER.store(listener.as_raw_fd(), SeqCst);
    unsafe { signal(15, stop) };
    println!("ledger listens on port {port}");
    for client in listener.incoming() {
        match client {
            Ok(client) => drop(std::thread::spawn(move || serve(&client))),
            Err(_) if STOPPING.load(SeqCst) => break,
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
    let busy = BUSY.lock().unwrap();
    drop(DONE.wait_timeout_while(busy, Duration::from_secs(10), |busy| *busy > 0));
    Ok(())
}

/// Answers one request after the other until the client leaves.
fn serve(client: &TcpStream) -> Result<()> {
    client.set_nodelay(true)?;
    client.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut reader = BufReader::new(client);
    while !reader.fill_buf()?.is_empty() {
        *BUSY.lock().unwrap() += 1;
        let again = exchange(&mut reader, client);
        *BUSY.lock().unwrap() -= 1;
        DONE.notify_all();
        if !again? {
            break;
        }
    }
    Ok(())
}

/// One request and its answer; says whether there may be another.
fn exchange(reader: &mut BufReader<&TcpStream>, mut client: &TcpStream) -> Result<bool> {
    let mut head = Vec::new();
    while !head.ends_with(b"\n\r\n") && !head.ends_with(b"\n\n") {
        if head.len() > 16 * 1024 || reader.by_ref().take(8192).read_until(b'\n', &mut head)? == 0 {
            return Ok(false);
        }
    }
    let head = String::from_utf8_lossy(&head);
    let mut words = head.split_whitespace();
    let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or("/"));
    let header = |name: &str| {
        let lines = head.lines().filter_map(|line| line.split_once(':'));
        lines
            .filter(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
            .next()
            .unwrap_or("")
    };
    let length: u64 = header("content-length").parse().unwrap_or(0);
    let again = !header("connection").eq_ignore_ascii_case("close")
        && header("transfer-encoding").is_empty()
        && length <= 1024 * 1024
        && !STOPPING.load(SeqCst);
    if again {
        std::io::copy(&mut reader.take(length), &mut std::io::sink())?;
    }
    let (kind, body) = ("application/json", answer(path));
    let connection = if again { "keep-alive" } else { "close" };
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: {connection}\r\n\r\n",
        body.len()
    );
    if method != "HEAD" {
        answer += &body;
    }
    client.write_all(answer.as_bytes())?;
    println!("{method} {path}");
    Ok(again)
}

fn answer(path: &str) -> String {
    if path == "/healthz" {
        return "{\"status\":\"ok\"}\n".to_owned();
    }
    let sandbox = std::env::var("SDP_SANDBOX").unwrap_or_else(|_| "nobody".to_owned());
    format!("{{\"sandbox\":\"{sandbox}\",\"accounts\":[{{\"name\":\"cash\",\"balance\":120}},{{\"name\":\"rent\",\"balance\":-80}}]}}\n")
}

//! A sample service: a web server of the standard library alone, built with `rustc --edition 2021 -o hello main.rs`.
//!
//! It listens on `PORT`, answers `/healthz`, and says `greeting.txt` to everybody else: to browsers as a page. Each
//! connection has a thread, so a slow client holds up nobody. On SIGTERM it finishes what it is answering.
//!
//! For `/accounts` it asks the ledger, in whatever sandbox the request came from.

use std::io::{BufRead, BufReader, Read, Result, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering::SeqCst};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

const GREETING: &str = include_str!("greeting.txt");

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
    println!("hello listens on port {port}");
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
    // What marks the request as a sandbox's: passed on to whatever is called because of it, the whole chain stays there.
    let marks = ["baggage", "sdp-routing-key"].map(|name| (name, header(name)));
    let (kind, body) = match path {
        "/accounts" => ("application/json", accounts(&marks)),
        _ => answer(path, header("accept").contains("text/html")),
    };
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

fn answer(path: &str, html: bool) -> (&'static str, String) {
    if path == "/healthz" {
        return ("text/plain; charset=utf-8", "ok\n".to_owned());
    }
    let variable = |name| std::env::var(name).unwrap_or_else(|_| "nobody".to_owned());
    let (sandbox, port) = (variable("SDP_SANDBOX"), variable("PORT"));
    let commit: String = variable("SDP_COMMIT").chars().take(8).collect();
    let (greeting, facts) = (GREETING.trim(), format!("sandbox {sandbox}, commit {commit}, port {port}"));
    if !html {
        return ("text/plain; charset=utf-8", format!("{greeting}\n{facts}\n"));
    }
    let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;");
    let (greeting, facts) = (escape(greeting), escape(&facts));
    let style = "body{font:1.2rem system-ui;margin:4rem}";
    let page = format!(
        "<!doctype html><title>{greeting}</title><style>{style}</style><h1>{greeting}</h1><p>{facts}\n"
    );
    ("text/html; charset=utf-8", page)
}

/// What the ledger says, or why it says nothing.
fn accounts(marks: &[(&str, &str)]) -> String {
    // In a sandbox what SDP says, elsewhere what LEDGER_URL does.
    let ledger = std::env::var("SDP_ROUTE_LEDGER").or_else(|_| std::env::var("LEDGER_URL"));
    let answer = ledger.map_err(|_| "nobody has said where the ledger is".to_owned()).and_then(|ledger| {
        get(&format!("{}/accounts", ledger.trim_end_matches('/')), marks).map_err(|error| error.to_string())
    });
    answer.unwrap_or_else(|why| {
        format!("{{\"error\":\"the ledger cannot be asked: {}\"}}\n", why.replace('"', "'"))
    })
}

/// The body that a plain http address answers.
fn get(url: &str, headers: &[(&str, &str)]) -> Result<String> {
    let rest = url.strip_prefix("http://").unwrap_or(url);
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let address = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
    let mut server = TcpStream::connect(address)?;
    server.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut request = format!("GET /{path} HTTP/1.0\r\nhost: {host}\r\n");
    for (name, value) in headers.iter().filter(|(_, value)| !value.is_empty()) {
        request += &format!("{name}: {value}\r\n");
    }
    server.write_all((request + "\r\n").as_bytes())?;
    let mut answer = String::new();
    server.take(1024 * 1024).read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    match head.split(' ').nth(1) {
        Some("200") => Ok(body.to_owned()),
        status => Err(std::io::Error::other(format!("it answers {}", status.unwrap_or("nothing")))),
    }
}

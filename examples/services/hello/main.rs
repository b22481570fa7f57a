//! A sample service: a web server of the standard library alone, built with `rustc -o hello main.rs`.
//!
//! It listens on `PORT`, answers `/healthz`, and says `greeting.txt` to everybody else.

use std::io::{BufRead, BufReader, Read, Result, Write};
use std::net::{TcpListener, TcpStream};

const GREETING: &str = include_str!("greeting.txt");

fn main() -> Result<()> {
    let port = std::env::var("PORT").unwrap_or_else(|_| "8000".to_owned());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}"))?;
    println!("hello listens on port {port}");
    for client in listener.incoming().flatten() {
        std::thread::spawn(move || serve(client));
    }
    Ok(())
}

/// Answers one request after the other until the client leaves.
fn serve(mut client: TcpStream) -> Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    loop {
        let mut request = String::new();
        if reader.by_ref().take(8192).read_line(&mut request)? == 0 {
            return Ok(());
        }
        let mut header = String::from("-");
        while header.trim() != "" {
            header.clear();
            if reader.by_ref().take(8192).read_line(&mut header)? == 0 {
                return Ok(());
            }
        }
        let mut words = request.split(' ');
        let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or("/"));
        println!("{method} {path}");
        let body = answer(path);
        let kind = "text/plain; charset=utf-8";
        write!(client, "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n", body.len())?;
        if method != "HEAD" {
            client.write_all(body.as_bytes())?;
        }
    }
}

fn answer(path: &str) -> String {
    if path == "/healthz" {
        return "ok\n".to_owned();
    }
    let variable = |name| std::env::var(name).unwrap_or_else(|_| "nobody".to_owned());
    let commit: String = variable("SDP_COMMIT").chars().take(8).collect();
    format!("{}\nsandbox {}, commit {commit}\n", GREETING.trim(), variable("SDP_SANDBOX"))
}

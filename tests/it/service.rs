//! The service that the tests deploy: a small web server on `PORT` that answers with the file `greeting.txt` of its commit.
//! `GET /slow` answers after 500 ms, `GET /env/NAME` with a variable, `GET /crash` ends the process with code 3,
//! `GET /end` without an error.
//! `GET /call/NAME` asks the service `NAME` at the address in `SDP_ROUTE_NAME`; `GET /pass/PATH` and `GET /drop/PATH` ask for `/PATH` at the
//! address in `GATEWAY`, with the request's `baggage` and `traceparent`, or with the latter alone. Both answer with both answers.
//! `GET /print/N` prints N numbered lines, `GET /print/flood` prints for as long as it lives.
//! The file `behaviour.txt`, if there is one, says what is odd about it: `deaf` never listens, `ends` ends at once with code 7.
//! While there is a file `sick` in its folder all its answers are 500.
//!
//! It is compiled once, by `rustc`, and not part of the test binary.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

fn main() {
    let greeting = std::fs::read_to_string("greeting.txt").expect("greeting.txt");
    let behaviour = std::fs::read_to_string("behaviour.txt").unwrap_or_default();
    println!("starting with {greeting:?}");
    match behaviour.trim() {
        "ends" => {
            eprintln!("fatal: no database");
            std::process::exit(7);
        }
        "deaf" => loop {
            std::thread::sleep(Duration::from_secs(3600));
        },
        _ => {}
    }
    let port: u16 = std::env::var("PORT").expect("PORT").parse().expect("a port");
    let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port is free");
    println!("listening on {port}");
    for stream in listener.incoming().flatten() {
        let greeting = greeting.clone();
        std::thread::spawn(move || drop(serve(stream, &greeting)));
    }
}

fn serve(stream: TcpStream, greeting: &str) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    loop {
        let mut head = String::new();
        if reader.read_line(&mut head)? == 0 {
            return Ok(());
        }
        let path = head.split(' ').nth(1).unwrap_or("/").to_owned();
        let (mut line, mut passed) = (String::new(), Vec::new());
        while reader.read_line(&mut line)? > 2 {
            let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
            if name == "baggage" || name == "traceparent" {
                passed.push(line.trim().to_owned());
            }
            line.clear();
        }
        let body = match path.as_str() {
            "/crash" => {
                eprintln!("fatal: asked to crash");
                std::process::exit(3);
            }
            "/end" => {
                println!("asked to end");
                std::process::exit(0);
            }
            "/slow" => {
                std::thread::sleep(Duration::from_millis(500));
                greeting.to_owned()
            }
            "/print/flood" => {
                std::thread::spawn(flood);
                greeting.to_owned()
            }
            other if other.starts_with("/call/") => {
                let address = std::env::var(format!("SDP_ROUTE_{}", &other[6..])).unwrap_or_default();
                format!("{greeting} → {}", ask(&address, "/", &passed)?)
            }
            other if other.starts_with("/pass/") || other.starts_with("/drop/") => {
                let address = std::env::var("GATEWAY").unwrap_or_default();
                let marks = other.starts_with("/pass/");
                passed.retain(|line| marks || !line.to_ascii_lowercase().starts_with("baggage"));
                format!("{greeting} → {}", ask(&address, &other[5..], &passed)?)
            }
            other => match (other.strip_prefix("/env/"), other.strip_prefix("/print/")) {
                (Some(name), _) => std::env::var(name).unwrap_or_default(),
                (None, Some(lines)) => {
                    let lines: u32 = lines.parse().unwrap_or(0);
                    (1..=lines).for_each(|n| println!("line {n}"));
                    greeting.to_owned()
                }
                (None, None) => greeting.to_owned(),
            },
        };
        println!("GET {path}");
        let sick = std::path::Path::new("sick").exists();
        let status = if sick { "500 Internal Server Error" } else { "200 OK" };
        write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {}\r\ncontent-type: text/plain\r\n\r\n{body}", body.len())?;
        stream.flush()?;
    }
}

/// The body of an answer to a plain GET.
fn ask(address: &str, path: &str, headers: &[String]) -> std::io::Result<String> {
    let rest = address.strip_prefix("http://").unwrap_or(address);
    let (host, base) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let mut stream = TcpStream::connect(host)?;
    let lines: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    write!(stream, "GET {base}{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{lines}\r\n")?;
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut stream, &mut answer)?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    // Of a chunked answer the first piece.
    let chunked = answer.to_ascii_lowercase().contains("transfer-encoding: chunked");
    Ok(if chunked { body.lines().nth(1).unwrap_or_default() } else { body }.to_owned())
}

/// Past the lock of `println!`, which others need; a line is one write, so that none is torn.
fn flood() {
    let mut out = std::fs::File::options().write(true).open("/dev/stdout").expect("a pipe");
    for n in 1_u64.. {
        let line = format!("flood {n} {}\n", "x".repeat(80));
        if out.write_all(line.as_bytes()).is_err() {
            return;
        }
    }
}

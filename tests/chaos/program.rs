//! What the deployments of the chaos build and run: one program of two words, compiled once by `rustc`, static, so that it
//! runs in any container. It is no part of the chaos program itself.
//!
//! `build` prints numbered lines as `plan.txt` says, and writes each of them to a file of its own **before** it prints it:
//! that file is the truth, of which what reaches the server is a beginning, and the whole if the build ended by itself.
//! `serve` answers on `PORT` with the token of its plan. `linger` is what a build leaves behind that does not want to go.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

extern "C" {
    fn signal(number: i32, action: usize) -> usize;
    fn setsid() -> i32;
}
const SIGTERM: i32 = 15;
const IGNORE: usize = 1;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("build") => build(&plan()),
        Some("serve") => serve(&plan()),
        Some("linger") => linger(),
        other => panic!("build, serve or linger, not {other:?}"),
    }
}

struct Plan(HashMap<String, String>);

fn plan() -> Plan {
    let text = std::fs::read_to_string("plan.txt").expect("plan.txt");
    Plan(text.lines().filter_map(|line| line.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect())
}

impl Plan {
    fn text(&self, name: &str) -> &str {
        self.0.get(name).unwrap_or_else(|| panic!("{name} is missing in plan.txt"))
    }

    fn number(&self, name: &str) -> u64 {
        self.text(name).parse().unwrap_or_else(|_| panic!("{name} is no number"))
    }

    /// Whether the `n`th is one of those that come every so often; 0: never.
    fn is_turn(&self, name: &str, n: u64) -> bool {
        let every = self.number(name);
        every > 0 && n % every == 0
    }
}

/// One of the two streams: its truth, and how far it has come.
struct Out {
    word: &'static str,
    truth: File,
    count: u64,
    pending: Vec<u8>,
}

impl Out {
    fn line(&mut self, plan: &Plan, n: u64, is_last: bool) {
        self.count += 1;
        let (word, token, count) = (self.word, plan.text("token"), self.count);
        self.pending.extend_from_slice(format!("{word} {token} {count} ").as_bytes());
        if plan.is_turn("long_every", n) {
            self.pending.extend((0..plan.number("long_bytes")).map(|at| b'a' + (at % 26) as u8));
        }
        if plan.is_turn("binary_every", n) {
            let bytes = (0..64u64).map(|at| (at.wrapping_mul(n).wrapping_mul(2_654_435_761) >> 7) as u8);
            self.pending.extend(bytes.filter(|byte| *byte != b'\n'));
        }
        if !(is_last && plan.number("open_end") == 1) {
            self.pending.push(b'\n');
        }
    }

    fn flush(&mut self, mut to: impl Write) {
        self.truth.write_all(&self.pending).expect("the truth");
        // Nobody reads any more: whoever ends the build has closed the pipe.
        if to.write_all(&self.pending).and_then(|()| to.flush()).is_err() {
            std::process::exit(9);
        }
        self.pending.clear();
    }
}

fn build(plan: &Plan) -> ExitCode {
    let side = plan.text("side");
    let token = plan.text("token");
    // Each time that it is run has files of its own; the first name that is not there yet is this one's.
    let run = (1..).find_map(|run| {
        let made = File::options().write(true).create_new(true).open(format!("{side}/{token}.{run}.out")).ok();
        made.map(|out| (run, out))
    });
    let (run, out) = run.expect("a run");
    let err = File::create(format!("{side}/{token}.{run}.err")).expect("the truth");
    let mut out = Out { word: "out", truth: out, count: 0, pending: Vec::new() };
    let mut err = Out { word: "err", truth: err, count: 0, pending: Vec::new() };
    let ends = plan.text("ends");
    if ends == "deaf" {
        // Safety: both are plain calls of the C library.
        unsafe { signal(SIGTERM, IGNORE) };
        let mut child = Command::new(std::env::current_exe().expect("a path"));
        child.arg("linger").stdin(Stdio::null());
        unsafe { child.pre_exec(|| { setsid(); Ok(()) }) };
        child.spawn().expect("it lingers");
    }
    std::fs::copy("/proc/self/exe", "service").expect("copied");
    let lines = plan.number("lines");
    for n in 1..=lines {
        let to = if plan.is_turn("err_every", n) { &mut err } else { &mut out };
        to.line(plan, n, n == lines);
        if n == lines || !is_burst(plan, n) {
            out.flush(std::io::stdout());
            err.flush(std::io::stderr());
            std::thread::sleep(Duration::from_micros(plan.number("pause_us")));
        }
    }
    // Until somebody ends it.
    let mut n = lines;
    while matches!(ends, "hangs" | "deaf") {
        n += 1;
        out.line(plan, n, false);
        out.flush(std::io::stdout());
        std::thread::sleep(Duration::from_millis(100));
    }
    if ends == "fails" { ExitCode::from(3) } else { ExitCode::SUCCESS }
}

/// Whether this line and the next are written at once.
fn is_burst(plan: &Plan, n: u64) -> bool {
    let every = plan.number("burst_every");
    every > 0 && n % every >= every / 2
}

/// Away from its terminal and deaf, for an hour.
fn linger() -> ExitCode {
    unsafe { signal(SIGTERM, IGNORE) };
    std::thread::sleep(Duration::from_secs(3600));
    ExitCode::SUCCESS
}

fn serve(plan: &Plan) -> ExitCode {
    std::thread::sleep(Duration::from_millis(plan.number("slow_start_ms")));
    let port: u16 = std::env::var("PORT").expect("PORT").parse().expect("a port");
    let listener = TcpListener::bind((plan.text("bind"), port)).expect("the port is free");
    println!("listening on {port}");
    for stream in listener.incoming().flatten() {
        let token = plan.text("token").to_owned();
        std::thread::spawn(move || drop(answer(stream, &token)));
    }
    ExitCode::FAILURE
}

/// One request, whatever it is: who this is.
fn answer(mut stream: TcpStream, token: &str) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut piece = [0; 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut piece)? {
            0 => return Ok(()),
            n => head.extend_from_slice(&piece[..n]),
        }
    }
    let length = token.len();
    write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\n{token}")
}

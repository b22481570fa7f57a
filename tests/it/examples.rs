//! The examples as a newcomer runs them.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Output, Stdio};

/// An example's program. `cargo test` builds examples before it runs tests.
fn example(name: &str) -> Command {
    let mut folder = std::env::current_exe().expect("a path");
    folder.pop();
    folder.pop();
    Command::new(folder.join("examples").join(name))
}

fn piped(mut command: Command, input: &str) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts; `cargo build --examples` makes it");
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("written");
    child.wait_with_output().expect("it ends")
}

#[test]
fn the_quickstart_tells_both_stories_and_ends_well() {
    let output = piped(example("quickstart"), "/sdp deploy hello main\n/sdp deploy hello feature/greeting\n");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    for wanted in ["hello", "main", "feature/greeting", "/~", "#1", "#2"] {
        assert!(out.contains(wanted), "{wanted} is missing from\n{out}");
    }
    // The same path with and without the sandbox's key, and the service that nobody touched.
    let served: Vec<_> = out.lines().filter_map(|line| line.split_once("  →  ")).map(|(_, by)| by).collect();
    let [plain, own, other, others] = served[..] else { panic!("four requests are shown:\n{out}") };
    assert_eq!([plain, other, others], ["baseline/hello", "baseline/ledger", "baseline/ledger"]);
    assert!(own.starts_with("sandbox/") && own.contains("/hello@"), "{own}");
    assert!(!out.contains('\x1b'), "no escape codes into a pipe:\n{out}");
}

#[test]
fn the_quickstart_goes_on_in_a_folder_that_it_was_given() {
    let folder = tempfile::tempdir().expect("a folder");
    for number in ["#1", "#2"] {
        let mut command = example("quickstart");
        command.env("SDP_QUICKSTART_DATA", folder.path());
        let output = piped(command, "/sdp deploy ledger main\n");
        let out = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && out.contains(number), "{out}");
    }
}

#[test]
fn the_quickstart_ends_badly_when_a_deploy_does() {
    let output = piped(example("quickstart"), "/sdp deploy hello no-such-branch\n");
    let out = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{out}");
    assert!(out.contains("no-such-branch"), "{out}");
}

#[test]
fn the_embedding_example_prints_the_url() {
    let output = piped(example("embed"), "\n");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    assert!(out.contains("it answers at http://127.0.0.1:") && out.contains("/~me/hello/"), "{out}");
}

#[test]
fn ctrl_c_leaves_nothing_running_and_nothing_behind() {
    let mut child = example("quickstart")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let mut input = child.stdin.take().expect("piped");
    input.write_all(b"/sdp deploy hello main\n").expect("written");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("running after")), "it never ran");
    let children = descendants(child.id());
    let folders: Vec<_> =
        children.iter().filter_map(|pid| std::fs::read_link(format!("/proc/{pid}/cwd")).ok()).collect();
    assert!(!folders.is_empty(), "the service runs");
    let interrupt = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(interrupt.expect("kill runs").success());
    let status = child.wait().expect("it ends");
    assert!(status.code().is_some(), "it ended by itself: {status}");
    for pid in children {
        assert!(!std::path::Path::new(&format!("/proc/{pid}/cwd")).exists(), "{pid} still runs");
    }
    for folder in folders {
        assert!(!folder.exists(), "{} is still there", folder.display());
    }
    drop(input);
}

/// The processes that a process has started, and those that they have.
fn descendants(pid: u32) -> Vec<u32> {
    let mut found = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|child| child.parse().ok()) {
            found.push(child);
            found.extend(descendants(child));
        }
    }
    found
}

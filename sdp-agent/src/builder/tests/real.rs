//! Plans that are really carried out: Go with vendored modules and with a file tree as its proxy, composer with a mirror,
//! Apache in the PHP image.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use super::*;
use crate::workspace;

fn write(folder: &Path, files: &[(&str, &str)]) {
    for (name, text) in files {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

fn with_env(cx: &BuildContext, variables: &[(&str, &str)]) -> BuildContext {
    let base_env = variables.iter().map(|(name, value)| (name.into(), value.into())).collect();
    BuildContext { base_env, ..cx.clone() }
}

/// A zip file of these, not compressed.
fn zip(files: &[(&str, &str)]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, text) in files {
        let (offset, size) = (u32::try_from(out.len()).unwrap(), u32::try_from(text.len()).unwrap());
        let mut entry = Vec::new();
        entry.extend_from_slice(&[20, 0, 0, 0, 0, 0, 0, 0, 0x21, 0]);
        entry.extend_from_slice(&crc32fast::hash(text.as_bytes()).to_le_bytes());
        entry.extend_from_slice(&[size.to_le_bytes(), size.to_le_bytes()].concat());
        entry.extend_from_slice(&u16::try_from(name.len()).unwrap().to_le_bytes());
        entry.extend_from_slice(&[0, 0]);
        out.extend([b"PK\x03\x04", entry.as_slice(), name.as_bytes(), text.as_bytes()].concat());
        directory.extend(
            [b"PK\x01\x02\x14\x00", entry.as_slice(), &[0; 10], &offset.to_le_bytes(), name.as_bytes()]
                .concat(),
        );
    }
    let (count, start) = (u16::try_from(files.len()).unwrap(), u32::try_from(out.len()).unwrap());
    let size = u32::try_from(directory.len()).unwrap();
    out.extend(directory);
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend([count.to_le_bytes(), count.to_le_bytes()].concat());
    out.extend([size.to_le_bytes(), start.to_le_bytes()].concat());
    out.extend([0, 0]);
    out
}

const PAD: &str = "package pad\n\nfunc Left() string { return \"padded\" }\n";
const MAIN: &str = "package main\n\nimport \"example.org/left/pad\"\n\nfunc main() { println(pad.Left()) }\n";
const GO_MOD: &str = "module example.com/shop\n\ngo 1.19\n\nrequire example.org/left/pad v1.2.3\n";

#[tokio::test]
#[ignore = "needs Go; scripts/test runs it"]
async fn go_modules_come_from_vendor_or_from_a_file_tree_and_what_is_in_neither_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let cx = go_context(folder.path());
    let proxy = format!("file://{}", folder.path().join("proxy").display());
    let runs = |cx: &BuildContext| {
        let ran = Command::new(cx.output.join("app")).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&ran.stderr), "padded\n");
        std::fs::remove_file(cx.output.join("app")).unwrap();
    };
    let modules = "# example.org/left/pad v1.2.3\n## explicit\nexample.org/left/pad\n";
    write(&cx.source, &[("go.mod", GO_MOD), ("main.go", MAIN)]);
    let vendor = [("vendor/modules.txt", modules), ("vendor/example.org/left/pad/pad.go", PAD)];
    write(&cx.source, &vendor);
    let vendored = plan(&go("."), &with_env(&cx, &[("GOPROXY", "off")])).unwrap();
    let (built, printed) = build(&vendored).await;
    assert!(built, "{printed}");
    runs(&cx);

    std::fs::remove_dir_all(cx.source.join("vendor")).unwrap();
    let variables = [("GOPROXY", proxy.as_str()), ("GOSUMDB", "off"), ("GOFLAGS", "-mod=mod")];
    let from_tree = plan(&go("."), &with_env(&cx, &variables)).unwrap();
    let (built, printed) = build(&from_tree).await;
    assert!(!built, "{printed}");
    let known = explain(&go("."), &LastLines::of(&printed), Some(&proxy)).expect(&printed);
    assert_eq!(known.reason, FailureReason::DependencyUnreachable);
    let detail = known.detail.replace(folder.path().to_str().unwrap(), "/DIR");
    insta::assert_snapshot!(detail, @"example.org/left/pad v1.2.3 could not be fetched: reading file:///DIR/proxy/example.org/left/pad/@v/v1.2.3.zip: no such file or directory; commit it to the repository (go mod vendor), or ask an administrator to add it to the mirror (this agent's GOPROXY is file:///DIR/proxy)");

    let versions = folder.path().join("proxy/example.org/left/pad/@v");
    let module = "module example.org/left/pad\n";
    let info = "{\"Version\": \"v1.2.3\", \"Time\": \"2026-01-01T00:00:00Z\"}";
    write(&versions, &[("list", "v1.2.3\n"), ("v1.2.3.info", info), ("v1.2.3.mod", module)]);
    let files = [("example.org/left/pad@v1.2.3/go.mod", module), ("example.org/left/pad@v1.2.3/pad.go", PAD)];
    std::fs::write(versions.join("v1.2.3.zip"), zip(&files)).unwrap();
    let (built, printed) = build(&from_tree).await;
    assert!(built, "{printed}");
    runs(&cx);

    // What the repository says about where modules come from is not listened to.
    write(&cx.source, &[(".env", "GOPROXY=off\nGOFLAGS=-mod=vendor\n"), ("go.env", "GOPROXY=off\n")]);
    let (built, printed) = build(&from_tree).await;
    assert!(built, "{printed}");
}

#[tokio::test]
#[ignore = "needs composer; scripts/test runs it"]
async fn composer_installs_from_the_operators_mirror_and_names_what_it_lacks() {
    let folder = tempfile::tempdir().unwrap();
    let mut cx = go_context(folder.path());
    cx.target = Target::Container;
    let package = r#"{"name": "acme/left-pad", "version": "1.0.0", "autoload": {"files": ["pad.php"]}}"#;
    let mirror = folder.path().join("packages");
    write(
        &mirror,
        &[("left-pad/composer.json", package), ("left-pad/pad.php", "<?php const PADDED = 'padded';")],
    );
    let repositories = serde_json::json!({ "repositories": [
        { "type": "path", "url": format!("{}/*", mirror.display()), "options": { "symlink": false } },
        { "packagist.org": false },
    ]});
    cx.composer_config = Some(Secret::new(repositories.to_string()));
    // Scripts are not run, and an extension that only the image has is not asked for.
    let site = r#"{"require": {"acme/left-pad": "^1.0", "ext-only-in-the-image": "*"}, "scripts": {"post-install-cmd": "touch ran"}}"#;
    write(&cx.source, &[("composer.json", site)]);
    let top = sdp_core::name::RepoPath::parse(".").unwrap();
    let mut carried_out = async || {
        cx.facts = survey(&php(), &cx.tree, &top, OsStr::new(DEFAULT_PATH)).unwrap().facts;
        let plan = plan(&php(), &cx).unwrap();
        plan.before.iter().for_each(|file| workspace::write_file(file, None).unwrap());
        let (built, printed) = build(&plan).await;
        (built, printed, cx.source.clone())
    };
    let (built, printed, source) = carried_out().await;
    assert!(built, "{printed}");
    let ran = Command::new("php")
        .args(["-r", "require 'vendor/autoload.php'; echo PADDED;"])
        .current_dir(&source)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&ran.stdout), "padded");
    assert!(!source.join("ran").exists());

    // What is locked and committed needs no mirror.
    std::fs::remove_dir_all(&mirror).unwrap();
    let (built, printed, _) = carried_out().await;
    assert!(built && printed.contains("Nothing to install"), "{printed}");

    std::fs::remove_file(source.join("composer.lock")).unwrap();
    std::fs::remove_dir_all(source.join("vendor")).unwrap();
    std::fs::create_dir(&mirror).unwrap();
    let (built, printed, _) = carried_out().await;
    assert!(!built, "{printed}");
    let known = explain(&php(), &LastLines::of(&printed), Some("composer_config")).expect(&printed);
    assert_eq!(known.reason, FailureReason::DependencyUnreachable);
    let detail = known.detail.replace(folder.path().to_str().unwrap(), "/DIR");
    insta::assert_snapshot!(detail, @"acme/left-pad could not be fetched: Root composer.json requires acme/left-pad, it could not be found in any version, there may be a typo in the package name; commit vendor/ to the repository, or ask an administrator to add it to the mirror that the agent's composer_config names");
}

/// A container; gone when dropped.
struct Container {
    name: String,
    logs: Child,
}

impl Drop for Container {
    fn drop(&mut self) {
        drop(self.logs.kill());
        drop(self.logs.wait());
        docker(&["rm", "--force", &self.name]);
    }
}

fn docker(words: &[&str]) -> String {
    let ran = Command::new("docker").args(words).output().unwrap();
    assert!(ran.status.success(), "{words:?}: {}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8_lossy(&[ran.stdout, ran.stderr].concat()).trim().to_owned()
}

impl Container {
    /// As the Docker runtime starts it, and waits until it serves.
    fn start(plan: &RunPlan) -> Self {
        let contained = plan.container.as_ref().unwrap();
        let name = format!("sdp-test-apache-{}", std::process::id());
        let mut words: Vec<String> = [
            "run --detach --read-only --cap-drop=ALL --security-opt=no-new-privileges --user=64100:64100 --memory=256m",
            "--pids-limit=64 --tmpfs=/tmp --label=sdp.test --env=PORT=8080 --env=HOME=/tmp --env=TMPDIR=/tmp",
        ]
        .iter()
        .flat_map(|words| words.split(' '))
        .map(str::to_owned)
        .collect();
        words.push(format!("--name={name}"));
        words.push(format!("--workdir={}", plan.cwd.display()));
        words.extend(contained.env.iter().map(|(name, value)| format!("--env={name}={value}")));
        words.extend(
            contained
                .mounts
                .iter()
                .map(|mount| format!("--volume={}:{}:ro", mount.source.display(), mount.target.display())),
        );
        words.push(contained.image.to_string());
        words.extend(plan.argv.clone());
        docker(&words.iter().map(String::as_str).collect::<Vec<_>>());
        let mut logs = Command::new("docker");
        logs.args(["logs", "--follow", &name]).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut container = Self { name, logs: logs.spawn().unwrap() };
        let lines = BufReader::new(container.logs.stderr.take().unwrap()).lines();
        let mut seen = Vec::new();
        for line in lines.map_while(Result::ok) {
            if line.contains("resuming normal operations") {
                return container;
            }
            seen.push(line);
        }
        panic!("it did not start: {seen:?}");
    }

    /// Status and body.
    fn ask(&self, path: &str) -> (u16, String) {
        let address = docker(&["inspect", "--format", "{{.NetworkSettings.IPAddress}}", &self.name]);
        let mut socket = TcpStream::connect((address.as_str(), 8080)).unwrap();
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: shop.example\r\nx-forwarded-proto: https\r\nx-forwarded-for: 203.0.113.9\r\n\r\n"
        );
        socket.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
    }
}

#[test]
#[ignore = "needs Docker and the image php:8.3-apache; scripts/test runs it"]
fn apache_serves_a_php_site_locked_down_and_ends_well() {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().canonicalize().unwrap().join("source");
    let output = folder.path().canonicalize().unwrap().join("output");
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/services/shop/public");
    let public = "a shop/public";
    for name in ["index.php", ".htaccess", "style.css"] {
        let text = std::fs::read_to_string(sample.join(name)).unwrap();
        write(&tree.join(public), &[(name, text.as_str())]);
    }
    let facts = "<?php echo implode(' ', [$_SERVER['HTTPS'] ?? '-', $_SERVER['REMOTE_ADDR'], PHP_SAPI, getcwd()]); \
                 session_start(); file_put_contents('/tmp/x', 'x');";
    write(
        &tree.join(public),
        &[
            ("facts.php", facts),
            ("fatal.php", "<?php no_such_function();"),
            (".env", "SECRET=1"),
            (".git/config", "x"),
            (".well-known/hello", "hello"),
            ("composer.json", "{}"),
            ("pictures/a.txt", "a"),
            ("writes.php", "<?php var_dump(@file_put_contents(__DIR__ . '/x', 'x'));"),
        ],
    );
    std::fs::create_dir_all(&output).unwrap();
    let subdir = sdp_core::name::RepoPath::parse("a shop").unwrap();
    let found = survey(&php(), &tree, &subdir, OsStr::new(DEFAULT_PATH)).unwrap();
    let cx =
        BuildContext { tree, source: found.source, output, facts: found.facts, ..context(Target::Container) };
    let plan = plan(&php(), &cx).unwrap();
    assert!(plan.build.is_empty());
    plan.after.iter().for_each(|file| workspace::write_file(file, None).unwrap());

    let container = Container::start(&plan.run);
    let (status, page) = container.ask("/");
    assert!(status == 200 && page.contains("<h1>Shop</h1>"), "{status} {page}");
    assert_eq!(container.ask("/orders/7?x=1"), (200, "{\"order\":7,\"sandbox\":null}\n".to_owned()));
    let (status, style) = container.ask("/style.css");
    assert!(status == 200 && style.starts_with("body {"), "{status} {style}");
    assert_eq!(container.ask("/no/such/page").0, 404);
    for hidden in ["/.env", "/.git/config", "/.htaccess", "/composer.json", "/pictures/"] {
        assert_eq!(container.ask(hidden).0, 403, "{hidden}");
    }
    assert_eq!(container.ask("/.well-known/hello"), (200, "hello".to_owned()));
    assert_eq!(container.ask("/facts.php").1, "on 203.0.113.9 apache2handler /app/a shop/public");
    assert_eq!(container.ask("/writes.php").1.trim(), "bool(false)");
    let (status, page) = container.ask("/fatal.php");
    assert_eq!((status, page.as_str()), (500, ""), "the reason is for the log alone");
    docker(&["stop", &container.name]);
    let ended = docker(&["inspect", "--format", "{{.State.ExitCode}} {{.State.OOMKilled}}", &container.name]);
    assert_eq!(ended, "0 false");
    let log = docker(&["logs", &container.name]);
    assert!(log.contains("Call to undefined function no_such_function()"), "{log}");
    assert!(log.contains("203.0.113.9 \"GET /orders/7?x=1 HTTP/1.1\" 200"), "{log}");
}

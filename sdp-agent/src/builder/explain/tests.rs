//! What Go 1.19 and composer 2.5 really printed, on a machine without a way out, for a module that is not to be had.

use super::*;

fn told(builder: &str, mirror: Option<&str>, text: &str) -> String {
    let builder: Builder = serde_json::from_value(match builder {
        "command" => serde_json::json!({ "type": "command", "run": ["x"] }),
        other => serde_json::json!({ "type": other }),
    })
    .expect("a builder");
    match explain(&builder, &LastLines::of(text), mirror) {
        None => "-".to_owned(),
        Some(Explanation { reason, detail, line }) => {
            format!("{} (line {}): {detail}", reason.code(), line.expect("a line"))
        }
    }
}

#[test]
fn go_says_which_module_is_not_to_be_had_and_why() {
    const DOWNLOADING: &str = "go: downloading example.org/left/pad v1.2.3\n";
    let all = [
        (Some("off"), "main.go:3:8: module lookup disabled by GOPROXY=off"),
        (Some("off"), "go: example.org/left/pad@v1.2.3: module lookup disabled by GOPROXY=off"),
        (
            Some("file:///srv/go"),
            "main.go:3:8: example.org/left/pad@v1.2.3: reading file:///srv/go/example.org/left/pad/@v/v1.2.3.zip: no such file or directory",
        ),
        (
            Some("http://me:hunter2@127.0.0.1:1,direct"),
            "main.go:3:8: example.org/left/pad@v1.2.3: Get \"http://127.0.0.1:1/example.org/left/pad/@v/v1.2.3.zip\": dial tcp 127.0.0.1:1: connect: connection refused",
        ),
        (
            Some("https://goproxy.invalid"),
            "main.go:3:8: example.org/left/pad@v1.2.3: Get \"https://goproxy.invalid/example.org/left/pad/@v/v1.2.3.zip\": dial tcp: lookup goproxy.invalid on 10.255.255.53:53: no such host",
        ),
        (
            Some("http://mirror/go"),
            "main.go:3:8: example.org/left/pad@v1.2.3: reading http://mirror/go/example.org/left/pad/@v/v1.2.3.zip: 404 Not Found",
        ),
        (
            Some("http://mirror/go"),
            "go: example.org/left/pad@v1.2.3: reading http://mirror/go/example.org/left/pad/@v/v1.2.3.mod: 410 Gone",
        ),
        (
            Some("http://mirror/go"),
            "main.go:3:8: example.org/left/pad@v1.2.3: reading http://mirror/go/example.org/left/pad/@v/v1.2.3.zip: 401 Unauthorized",
        ),
        (
            None,
            "main.go:3:8: unrecognized import path \"example.org/left/pad\": https fetch: Get \"https://example.org/left/pad?go-get=1\": dial tcp: lookup example.org on 10.255.255.53:53: no such host",
        ),
        (
            None,
            "main.go:3:8: git init --bare in /c/vcs/7a82: exec: \"git\": executable file not found in $PATH",
        ),
        (
            None,
            "main.go:3:8: reading github.com/left/pad/go.mod at revision v1.2.3: git ls-remote -q origin in /c/vcs/7a82: exit status 128:\n\tfatal: unable to access 'https://github.com/left/pad/': Could not resolve host: github.com",
        ),
        (
            Some("file:///srv/go"),
            "main.go:3:8: github.com/left/pad@v1.2.3: verifying module: github.com/left/pad@v1.2.3: Get \"https://sum.golang.org/lookup/github.com/left/pad@v1.2.3\": dial tcp: lookup sum.golang.org on 10.255.255.53:53: no such host",
        ),
    ];
    let all = all.map(|(mirror, text)| told("go", mirror, &format!("{DOWNLOADING}{text}")));
    assert!(!all.join("").contains("hunter2"));
    insta::assert_snapshot!(all.join("\n"), @r#"
    dependency_unreachable (line 2): example.org/left/pad v1.2.3 could not be fetched: this agent's GOPROXY is off; commit it to the repository (go mod vendor), or ask an administrator to add it to the mirror that GOPROXY in the agent's [build.env] names
    dependency_unreachable (line 2): example.org/left/pad v1.2.3 could not be fetched: this agent's GOPROXY is off; commit it to the repository (go mod vendor), or ask an administrator to add it to the mirror that GOPROXY in the agent's [build.env] names
    dependency_unreachable (line 2): example.org/left/pad v1.2.3 could not be fetched: reading file:///srv/go/example.org/left/pad/@v/v1.2.3.zip: no such file or directory; commit it to the repository (go mod vendor), or ask an administrator to add it to the mirror (this agent's GOPROXY is file:///srv/go)
    dependency_unreachable (line 2): example.org/left/pad v1.2.3 could not be fetched: Get "http://127.0.0.1:1/example.org/left/pad/@v/v1.2.3.zip": dial tcp 127.0.0.1:1: connect: connection refused; commit it to the repository (go mod vendor), or ask an administrator to add it to the mirror (this agent's GOPROXY is http://127.0.0.1:1,direct)
    dependency_unreachable (line 2): example.org/left/pad v1.2.3 could not be fetched: Get "https://goproxy.invalid/example.org/left/pad/@v/v1.2.3.zip": dial tcp: lookup goproxy.invalid on 10.255.255.53:53: no such host; commit it to the repository (go mod vendor), or ask an administrator to add it to the mirror (this agent's GOPROXY is https://goproxy.invalid)
    dependency_unreachable (line 2): example.org/left/pad v1.2.3 could not be fetched: reading http://mirror/go/example.org/left/pad/@v/v1.2.3.zip: 404 Not Found; commit it to the repository (go mod vendor), or ask an administrator to add it to the mirror (this agent's GOPROXY is http://mirror/go)
    dependency_unreachable (line 2): example.org/left/pad v1.2.3 could not be fetched: reading http://mirror/go/example.org/left/pad/@v/v1.2.3.mod: 410 Gone; commit it to the repository (go mod vendor), or ask an administrator to add it to the mirror (this agent's GOPROXY is http://mirror/go)
    dependency_unreachable (line 2): example.org/left/pad v1.2.3 could not be fetched: reading http://mirror/go/example.org/left/pad/@v/v1.2.3.zip: 401 Unauthorized; commit it to the repository (go mod vendor), or ask an administrator to add it to the mirror (this agent's GOPROXY is http://mirror/go)
    dependency_unreachable (line 2): example.org/left/pad could not be fetched: Get "https://example.org/left/pad?go-get=1": dial tcp: lookup example.org on 10.255.255.53:53: no such host; commit it to the repository (go mod vendor), or ask an administrator to add it to the mirror that GOPROXY in the agent's [build.env] names
    dependency_unreachable (line 2): example.org/left/pad v1.2.3 could not be fetched: it would be fetched with git, which is not on this agent; commit it to the repository (go mod vendor), or ask an administrator to add it to the mirror that GOPROXY in the agent's [build.env] names
    dependency_unreachable (line 2): github.com/left/pad v1.2.3 could not be fetched: fatal: unable to access 'https://github.com/left/pad/': Could not resolve host: github.com; commit it to the repository (go mod vendor), or ask an administrator to add it to the mirror that GOPROXY in the agent's [build.env] names
    dependency_unreachable (line 2): github.com/left/pad v1.2.3 could not be fetched: the checksum database cannot be asked: Get "https://sum.golang.org/lookup/github.com/left/pad@v1.2.3": dial tcp: lookup sum.golang.org on 10.255.255.53:53: no such host; commit it to the repository (go mod vendor), or ask an administrator to set GONOSUMDB or GOSUMDB in the agent's [build.env]
    "#);
}

#[test]
fn gos_other_errors_stay_what_they_are() {
    for text in [
        "main.go:3:8: missing go.sum entry for module providing package example.org/left/pad (imported by example.com/shop); to add:\n\tgo get example.com/shop",
        "go: inconsistent vendoring in /w/1/source:\n\texample.org/left/pad@v1.2.3: is explicitly required in go.mod, but not marked as explicit in vendor/modules.txt",
        "# example.com/shop\n./main.go:6:1: syntax error: non-declaration statement outside function body",
        "main.go:3:8: no required module provides package example.org/left/pad; to add it:\n\tgo get example.org/left/pad",
        "verifying example.org/left/pad@v1.2.3: checksum mismatch\n\tdownloaded: h1:a\n\tgo.sum: h1:b",
        "./main.go:4:2: \"reading http://x: 404\" declared and not used",
    ] {
        assert_eq!(told("go", None, text), "-", "{text}");
    }
    let toolchain = [
        "go: errors parsing go.mod:\n/w/1/source/go.mod:5: unknown directive: toolchain",
        "go: go.mod requires go >= 9.99 (running go 1.22.1; GOTOOLCHAIN=local)",
        "# example.com/shop\n./main.go:6:14: undefined: slices.Max\nnote: module requires Go 1.23",
    ];
    insta::assert_snapshot!(toolchain.map(|text| told("go", None, text)).join("\n"), @r"
    build_failed (line 2): the module wants a newer Go than this agent's, and none is downloaded (/w/1/source/go.mod:5: unknown directive: toolchain); ask an administrator for a [[toolchain]] and name its label in the catalog, or lower the go and toolchain lines of go.mod
    build_failed (line 1): the module wants a newer Go than this agent's, and none is downloaded (go: go.mod requires go >= 9.99 (running go 1.22.1; GOTOOLCHAIN=local)); ask an administrator for a [[toolchain]] and name its label in the catalog, or lower the go and toolchain lines of go.mod
    build_failed (line 3): the module wants a newer Go than this agent's, and none is downloaded (note: module requires Go 1.23); ask an administrator for a [[toolchain]] and name its label in the catalog, or lower the go and toolchain lines of go.mod
    ");
}

#[test]
fn composer_says_which_package_is_not_to_be_had_and_why() {
    let all = [
        (
            None,
            "Loading composer repositories with package information\n\nIn RemoteFilesystem.php line 476:\n\n  The \"https://repo.packagist.org/packages.json\" file could not be downloaded: php_network_getaddresses: getaddrinfo for repo.packagist.org failed: Name or service not known  \n  Failed to open stream: php_network_getaddresses: getaddrinfo for repo.packagist.org failed: Name or service not known\n",
        ),
        (
            Some("m"),
            "In CurlDownloader.php line 371:\n\n  curl error 6 while downloading https://repo.packagist.org/packages.json: Could not resolve host: repo.packagist.org\n",
        ),
        (
            Some("m"),
            "In RemoteFilesystem.php line 407:\n\n  The \"http://mirror/packages.json\" file could not be downloaded (HTTP/1.0 404 Not Found)\n",
        ),
        (
            Some("m"),
            "In AuthHelper.php line 197:\n\n  The 'http://mirror/packages.json' URL required authentication (HTTP 401).\n  You must be using the interactive console to authenticate\n",
        ),
        (
            Some("m"),
            "In AuthHelper.php line 197:\n\n  The 'http://mirror/packages.json' URL could not be accessed (HTTP 403): HTTP/1.0 403 Forbidden\n",
        ),
        (
            Some("m"),
            "  Problem 1\n    - Root composer.json requires acme/left-pad, it could not be found in any version, there may be a typo in the package name.\n",
        ),
        (
            Some("m"),
            "Package operations: 1 install, 0 updates, 0 removals\n  - Downloading acme/left-pad (1.0.0)\nWarning: Accessing 127.0.0.1 over http which is an insecure protocol.\n  - Downloading acme/left-pad (1.0.0)\n\nIn RemoteFilesystem.php line 476:\n\n  The \"http://127.0.0.1:1/x.zip\" file could not be downloaded: Failed to open stream: Connection refused\n",
        ),
    ];
    let all = all.map(|(mirror, text)| told("php", mirror, text));
    insta::assert_snapshot!(all.join("\n"), @r#"
    dependency_unreachable (line 5): the list of packages could not be fetched: The "https://repo.packagist.org/packages.json" file could not be downloaded: php_network_getaddresses: getaddrinfo for repo.packagist.org failed: Name or service not known; commit vendor/ to the repository, or ask an administrator to name a mirror in the agent's [build] composer_config
    dependency_unreachable (line 3): the list of packages could not be fetched: curl error 6 while downloading https://repo.packagist.org/packages.json: Could not resolve host: repo.packagist.org; commit vendor/ to the repository, or ask an administrator to add it to the mirror that the agent's composer_config names
    dependency_unreachable (line 3): the list of packages could not be fetched: The "http://mirror/packages.json" file could not be downloaded (HTTP/1.0 404 Not Found); commit vendor/ to the repository, or ask an administrator to add it to the mirror that the agent's composer_config names
    dependency_unreachable (line 3): the list of packages could not be fetched: The 'http://mirror/packages.json' URL required authentication (HTTP 401); commit vendor/ to the repository, or ask an administrator to add it to the mirror that the agent's composer_config names
    dependency_unreachable (line 3): the list of packages could not be fetched: The 'http://mirror/packages.json' URL could not be accessed (HTTP 403): HTTP/1.0 403 Forbidden; commit vendor/ to the repository, or ask an administrator to add it to the mirror that the agent's composer_config names
    dependency_unreachable (line 2): acme/left-pad could not be fetched: Root composer.json requires acme/left-pad, it could not be found in any version, there may be a typo in the package name; commit vendor/ to the repository, or ask an administrator to add it to the mirror that the agent's composer_config names
    dependency_unreachable (line 8): acme/left-pad could not be fetched: The "http://127.0.0.1:1/x.zip" file could not be downloaded: Failed to open stream: Connection refused; commit vendor/ to the repository, or ask an administrator to add it to the mirror that the agent's composer_config names
    "#);
    for text in [
        "  \"./composer.json\" does not contain valid JSON\n  Parse error on line 1:",
        "    - Root composer.json requires php ^9.1 but your php version (8.2.36) does not satisfy that requirement.",
        "    - Root composer.json requires acme/left-pad ^1.0, found acme/left-pad[2.0.0] but it does not match the constraint.",
    ] {
        assert_eq!(told("php", None, text), "-", "{text}");
    }
    assert_eq!(told("command", None, "curl error 6 while downloading x"), "-");
}

#[test]
fn only_the_last_lines_are_kept() {
    let mut lines = LastLines::default();
    for at in 0..10_000_u64 {
        lines.push(Some(at), &[b'x'; 10_000]);
    }
    assert_eq!((lines.0.len(), lines.0[0].0, lines.0[0].1.len()), (LINES, Some(9800), LINE));
}

//! What is taken as a name, and what is not.

use super::*;

#[test]
fn dangerous_refs_are_refused() {
    let long = "x".repeat(10 * 1024);
    for bad in [
        "-h",
        "--upload-pack=touch p",
        "--output=/etc/x",
        "--end-of-options",
        "--",
        "@",
        "@{-1}",
        "HEAD",
        "a..b",
        "a:b",
        "+x:refs/heads/main",
        "x.lock",
        "x~1",
        "^x",
        "x\n",
        "x\r",
        "x\0",
        "x%00",
        "x\u{202E}y",
        "x\u{2028}y",
        &long,
        " x",
        "x ",
        "`id`",
        "a|b",
        "${IFS}",
        "*",
        "refs/notes/x",
        "refs/heads/-foo",
        "/x",
        "x/",
        "x//y",
        ".x",
        "x/.y",
        "../../etc",
        "x.",
        "a/-b",
        "",
        "a\\b",
        "\"x\"",
        "<x>",
        "x\u{200B}y",
    ] {
        assert!(GitRef::parse(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn odd_but_valid_refs_are_taken() {
    let long = "y".repeat(200);
    for good in [
        "main",
        "feature/ünï-ØÅ",
        "a/b/c",
        "release/1.0+x",
        &long,
        "$(id)",
        ";id",
        "it's",
        "fix#123",
        "a%2Fb",
        "refs/heads/main",
        "refs/tags/v1",
        "v1.2.3",
        "0123abc",
        "日本語",
    ] {
        assert!(GitRef::parse(good).is_ok(), "{good:?}");
    }
}

#[test]
fn dangerous_names_and_paths_are_refused() {
    let long = "x".repeat(300);
    for bad in [
        "../../etc",
        "..",
        ".",
        "/abs",
        "a/../../b",
        "..%2f",
        "....//",
        "a\\b",
        "CON",
        "",
        &long,
        "a;b",
        "$host",
    ] {
        assert!(ServiceName::parse(bad).is_err(), "{bad:?}");
        assert!(SandboxName::parse(bad).is_err(), "{bad:?}");
    }
    for bad in [
        "../../etc",
        "..",
        "/abs",
        "a/../../b",
        "a\\b",
        "",
        "a:b",
        "a,b",
        ".git/hooks",
        "a//b",
        "-x",
        "a/./b",
    ] {
        assert!(RepoPath::parse(bad).is_err(), "{bad:?}");
    }
    for good in [".", "cmd/payments", "a.b/c-d_e", "src/ünï"] {
        assert!(RepoPath::parse(good).is_ok(), "{good:?}");
    }
}

#[test]
fn dangerous_repositories_are_refused() {
    for bad in [
        "ext::sh -c id",
        "ssh://-oProxyCommand=id/x",
        "git://host/x",
        "https://bitbucket.org@evil.tld/x",
        "https://user:pw@bitbucket.org/x",
        "bitbucket.org\\@evil",
        "https://@evil/x",
        "relative/path",
        "//host/x",
        "https://host",
        "https://host/x?y",
        "https://host/x#y",
        "https://host/../x",
        "--upload-pack=x",
        "file://host/x",
        "https://host/a b",
        "",
    ] {
        assert!(RepoUrl::parse(bad).is_err(), "{bad:?}");
    }
    for good in [
        "https://bitbucket.org/team/payments.git",
        "http://127.0.0.1:8080/x.git",
        "/srv/git/x.git",
        "file:///srv/x",
    ] {
        assert!(RepoUrl::parse(good).is_ok(), "{good:?}");
    }
}

#[test]
fn variables_that_change_how_programs_load_are_refused() {
    for bad in [
        "LD_PRELOAD",
        "PATH",
        "DOCKER_HOST",
        "GIT_SSH_COMMAND",
        "A=B",
        "A\nB",
        "a",
        "1A",
        "SDP_COMMIT",
        "PORT",
    ] {
        assert!(EnvName::parse(bad).is_err(), "{bad:?}");
    }
    for good in ["A", "DATABASE_URL", "X1"] {
        assert!(EnvName::parse(good).is_ok(), "{good:?}");
    }
}

#[test]
fn images_are_names_and_nothing_else() {
    let digest = format!("alpine@sha256:{}", "0a".repeat(32));
    for good in [
        "alpine",
        "alpine:3.20",
        "php:8.3-apache",
        "library/alpine:3.20",
        "registry.example.com/base/php:8.3",
        "registry.example.com:5000/base/php_x:v1",
        "localhost:5000/a",
        &digest,
    ] {
        assert!(ImageRef::parse(good).is_ok(), "{good:?}");
    }
    for bad in [
        "",
        "Alpine",
        "alpine:",
        "alpine:-x",
        "--privileged",
        "alpine latest",
        "alpine@sha256:12",
        "a//b",
        "/a",
        "a/",
        "host:port/a",
        "http://host/a",
        "a:b:c",
        "../a",
        "a$(id)",
    ] {
        assert!(ImageRef::parse(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn writable_paths_stay_where_they_are() {
    for good in ["storage", "var/cache", "/var/lib/payments", "/data"] {
        assert!(WritablePath::parse(good).is_ok(), "{good:?}");
    }
    for bad in [
        "", ".", "/", "/.", "..", "a/../b", "/proc/1", "/sys", "/dev/shm", "a:b", "a,b", "//a", "/a/", ".git",
    ] {
        assert!(WritablePath::parse(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn a_channel_is_an_id_or_a_name_and_calls_nobody() {
    let longest = format!("#{}", "x".repeat(80));
    for (good, id, name) in [
        ("C024BE91L", Some("C024BE91L"), None),
        ("G012AB3CDEF", Some("G012AB3CDEF"), None),
        ("#payments-ci", None, Some("payments-ci")),
        ("payments-ci", None, Some("payments-ci")),
        ("#1.0_release", None, Some("1.0_release")),
        ("#-x-", None, Some("-x-")),
        ("#équipe-paie", None, Some("équipe-paie")),
        ("#支払い", None, Some("支払い")),
        (&longest, None, Some(&longest[1..])),
    ] {
        let channel = ChannelName::parse(good).unwrap_or_else(|error| panic!("{good:?}: {error}"));
        assert_eq!((channel.id(), channel.plain_name()), (id, name), "{good}");
    }
    let long = format!("#{}", "x".repeat(81));
    for bad in [
        "",
        "#",
        "##x",
        "#-",
        "...",
        "#Payments",
        "C024",
        "c024BE91L",
        "#C024BE91L",
        "U024BE91L",
        "W024BE91L",
        "D024BE91L",
        "C024BE91L0123456789AB",
        "<#C024BE91L>",
        "<#C024BE91L|x>",
        "<!channel>",
        "<!here>",
        "@here",
        "@alice",
        "#a b",
        "#a,b",
        "#a/../b",
        "#a&b",
        "#a|b",
        "#a\n",
        "#a\0",
        "#a\u{202e}b",
        "#a\u{200b}",
        "`id`",
        "https://evil.example/x",
        "payments-ci;rm",
        &"x".repeat(81),
        &long,
        &"é".repeat(41),
    ] {
        let error = ChannelName::parse(bad).expect_err(bad);
        assert_eq!(error.code(), "invalid_channel");
    }
}

#[test]
fn prefixes_are_plain() {
    for bad in ["", "x", "/x/", "//", "/~alice", "/a b", "/a;b", "/a/../b", "/$x", "/{x}"] {
        assert!(PathPrefix::parse(bad).is_err(), "{bad:?}");
    }
    for good in ["/", "/hello", "/api/v1", "/a.b-c_d~e"] {
        assert!(PathPrefix::parse(good).is_ok(), "{good:?}");
    }
}

proptest::proptest! {
    #[test]
    fn every_text_gives_a_valid_sandbox_name(text in "\\PC*") {
        let name = SandboxName::from_text(&text);
        proptest::prop_assert!(SandboxName::parse(name.as_str()).is_ok(), "{:?}", name);
    }
}

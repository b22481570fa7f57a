mod real;

use sdp_core::catalog::Limits;
use sdp_core::id::DeploymentNumber;
use sdp_core::name::{SandboxName, ServiceName};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::*;
use crate::exec::{self, OnLine};
use crate::runtime::{ProcessRuntime, RuntimeConfig, StartSpec};

fn context(target: Target) -> BuildContext {
    BuildContext {
        target,
        tree: "/w/1/source".into(),
        source: "/w/1/source/shop".into(),
        output: "/w/1/output".into(),
        caches: "/caches".into(),
        base_env: [
            ("PATH", "/usr/bin"),
            ("GOPROXY", "https://proxy.example.com"),
            ("GOFLAGS", "-mod=vendor"),
        ]
        .into_iter()
        .map(|(name, value)| (name.into(), value.into()))
        .collect(),
        composer_config: None,
        image: None,
        limits: Limits::default(),
        facts: Facts::default(),
    }
}

fn show(plan: &BuildPlan) -> String {
    let programs = plan.build.iter().map(|program| {
        let env: Vec<_> = program
            .env
            .iter()
            .map(|(name, value)| format!("  {}={}", name.to_string_lossy(), value.to_string_lossy()))
            .collect();
        format!("{:?} in {}\n{}", program.argv, program.cwd.display(), env.join("\n"))
    });
    programs.chain([show_run(plan)]).collect::<Vec<_>>().join("\n")
}

fn show_run(plan: &BuildPlan) -> String {
    let mut lines: Vec<String> = plan.notes.iter().map(|note| format!("says {note}")).collect();
    let files = |when: &str, files: &[PlannedFile]| {
        let lines = files.iter().map(|file| format!("{when} writes {}", file.path.display()));
        lines.collect::<Vec<_>>()
    };
    lines.extend(files("before", &plan.before));
    lines.extend(files("after", &plan.after));
    lines.push(format!("run {:?} in {}", plan.run.argv, plan.run.cwd.display()));
    if let Some(container) = &plan.run.container {
        lines.push(format!("  image {}, begins with {}", container.image, container.source.display()));
        let mounts = container.mounts.iter();
        lines.extend(
            mounts.map(|mount| format!("  {} at {}", mount.source.display(), mount.target.display())),
        );
        lines.extend(container.env.iter().map(|(name, value)| format!("  {name}={value}")));
        assert!(container.capabilities.is_empty() && container.tmpfs.is_empty());
    }
    lines.join("\n")
}

fn builder(json: serde_json::Value) -> Builder {
    serde_json::from_value(json).unwrap()
}

#[test]
fn go_builds_one_static_binary_with_shared_caches() {
    let go = builder(
        serde_json::json!({"type": "go", "main_package": "cmd/shop", "args": ["--verbose", "$(id)"]}),
    );
    insta::assert_snapshot!(show(&plan(&go, &context(Target::Process)).unwrap()), @r#"
    ["go", "build", "-trimpath", "-o", "/w/1/output/app", "./cmd/shop"] in /w/1/source/shop
      CGO_ENABLED=0
      CI=true
      GOCACHE=/caches/go/build
      GOENV=off
      GOFLAGS=-mod=vendor -buildvcs=false -modcacherw
      GOMODCACHE=/caches/go/mod
      GOPATH=/caches/go/path
      GOPROXY=https://proxy.example.com
      GOTOOLCHAIN=local
      HOME=/caches/go
      LANG=C.UTF-8
      PATH=/usr/bin
      TMPDIR=/w/1/tmp
    run ["/w/1/output/app", "--verbose", "$(id)"] in /w/1/source/shop
    "#);
    let mut cx = context(Target::Container);
    let contained = plan(&go, &cx).unwrap();
    assert_eq!(contained.build, plan(&go, &context(Target::Process)).unwrap().build);
    insta::assert_snapshot!(show_run(&contained), @r#"
    run ["/out/app", "--verbose", "$(id)"] in /src/shop
      image alpine:3.20, begins with /w/1/source/shop
      /w/1/source at /src
      /w/1/output at /out
    "#);
    cx.image = Some(ImageRef::parse("registry.example.com/base/go:1").unwrap());
    cx.source.clone_from(&cx.tree);
    insta::assert_snapshot!(show_run(&plan(&go, &cx).unwrap()), @r#"
    run ["/out/app", "--verbose", "$(id)"] in /src
      image registry.example.com/base/go:1, begins with /w/1/source
      /w/1/source at /src
      /w/1/output at /out
    "#);
}

#[test]
fn commands_are_words_and_see_only_the_operators_environment() {
    let command = builder(serde_json::json!({
        "type": "command",
        "build": [["make", "all; rm -rf /"], ["./configure", "--prefix=$HOME"]],
        "run": ["./run.sh", "*"],
    }));
    insta::assert_snapshot!(show(&plan(&command, &context(Target::Process)).unwrap()), @r#"
    ["make", "all; rm -rf /"] in /w/1/source/shop
      CI=true
      GOFLAGS=-mod=vendor
      GOPROXY=https://proxy.example.com
      HOME=/w/1/home
      LANG=C.UTF-8
      PATH=/usr/bin
      TMPDIR=/w/1/tmp
    ["./configure", "--prefix=$HOME"] in /w/1/source/shop
      CI=true
      GOFLAGS=-mod=vendor
      GOPROXY=https://proxy.example.com
      HOME=/w/1/home
      LANG=C.UTF-8
      PATH=/usr/bin
      TMPDIR=/w/1/tmp
    run ["./run.sh", "*"] in /w/1/source/shop
    "#);
    let mut cx = context(Target::Container);
    let failure = plan(&command, &cx).unwrap_err();
    insta::assert_snapshot!(format!("{}: {}", failure.reason.code(), failure.detail), @r#"image_missing: this agent runs services in containers, and a service with the builder command has no usual image: set `image` in the catalog, e.g. image = "debian:12-slim""#);
    cx.image = Some(ImageRef::parse("debian:12-slim").unwrap());
    insta::assert_snapshot!(show_run(&plan(&command, &cx).unwrap()), @r#"
    run ["./run.sh", "*"] in /src/shop
      image debian:12-slim, begins with /w/1/source/shop
      /w/1/source at /src
    "#);
}

#[test]
fn the_main_package_may_be_the_folder_itself() {
    let plan = plan(&builder(serde_json::json!({"type": "go"})), &context(Target::Process)).unwrap();
    assert_eq!(plan.build[0].argv.last().unwrap(), ".");
}

fn php() -> Builder {
    builder(serde_json::json!({"type": "php"}))
}

#[test]
fn php_installs_what_is_locked_and_serves_its_public_folder() {
    let mut cx = context(Target::Container);
    cx.composer_config = Some(Secret::new("{}"));
    cx.facts = Facts {
        document_root: Some("/w/1/source/shop/public".into()),
        composer_json: true,
        composer_lock: true,
        ..Facts::default()
    };
    insta::assert_snapshot!(show(&plan(&php(), &cx).unwrap()), @r#"
    ["composer", "install", "--no-dev", "--no-scripts", "--no-plugins", "--no-interaction", "--no-progress", "--prefer-dist", "--optimize-autoloader", "--ignore-platform-reqs"] in /w/1/source/shop
      CI=true
      COLUMNS=1000
      COMPOSER_ALLOW_SUPERUSER=1
      COMPOSER_CACHE_DIR=/caches/composer
      COMPOSER_HOME=/w/1/home/composer
      COMPOSER_NO_INTERACTION=1
      GOFLAGS=-mod=vendor
      GOPROXY=https://proxy.example.com
      HOME=/w/1/home
      LANG=C.UTF-8
      PATH=/usr/bin
      TMPDIR=/w/1/tmp
    says Apache serves shop/public
    before writes /w/1/home/composer/config.json
    after writes /w/1/output/apache.conf
    run ["apache2-foreground", "-f", "/sdp/apache.conf"] in /app/shop
      image php:8.3-apache, begins with /w/1/source/shop
      /w/1/source at /app
      /w/1/output at /sdp
      APACHE_DOCUMENT_ROOT=/app/shop/public
      APACHE_LOCK_DIR=/tmp/apache2
      APACHE_LOG_DIR=/tmp/apache2
      APACHE_PID_FILE=/tmp/apache2/apache2.pid
      APACHE_RUN_DIR=/tmp/apache2
    "#);
}

#[test]
fn php_says_why_composer_is_not_run() {
    let mut cx = context(Target::Container);
    cx.source.clone_from(&cx.tree);
    insta::assert_snapshot!(show(&plan(&php(), &cx).unwrap()), @r#"
    says Apache serves the top of the repository
    after writes /w/1/output/apache.conf
    run ["apache2-foreground", "-f", "/sdp/apache.conf"] in /app
      image php:8.3-apache, begins with /w/1/source
      /w/1/source at /app
      /w/1/output at /sdp
      APACHE_DOCUMENT_ROOT=/app
      APACHE_LOCK_DIR=/tmp/apache2
      APACHE_LOG_DIR=/tmp/apache2
      APACHE_PID_FILE=/tmp/apache2/apache2.pid
      APACHE_RUN_DIR=/tmp/apache2
    "#);
    cx.facts.composer_json = true;
    cx.facts.missing_tool = Some("composer");
    let plan_without = plan(&php(), &cx).unwrap();
    assert!(plan_without.build.is_empty());
    insta::assert_snapshot!(plan_without.notes[0], @"there is a composer.json, but no composer on this agent: nothing is installed");
    cx.facts.missing_tool = None;
    let unlocked = plan(&php(), &cx).unwrap();
    let words: Vec<_> = unlocked.build[0].argv.iter().rev().take(2).collect();
    assert_eq!(
        words,
        ["--ignore-platform-req=lib-*", "--ignore-platform-req=ext-*"],
        "PHP itself is asked for"
    );
    cx.facts.vendored = true;
    let vendored = plan(&php(), &cx).unwrap();
    assert!(vendored.build.is_empty());
    insta::assert_snapshot!(vendored.notes[0], @"vendor/ is in the commit and there is no composer.lock: composer is not run");
    cx.target = Target::Process;
    let failure = plan(&php(), &cx).unwrap_err();
    insta::assert_snapshot!(format!("{}: {}", failure.reason.code(), failure.detail), @"tool_missing: a PHP service needs an agent that runs containers, and this one runs plain processes");
}

#[test]
fn a_document_root_may_have_any_name_that_a_folder_can_have() {
    let mut cx = context(Target::Container);
    cx.facts.document_root = Some("/w/1/source/shop/my ${PORT} \"pages\" [ü]".into());
    let plan = plan(&php(), &cx).unwrap();
    let env = &plan.run.container.as_ref().unwrap().env;
    assert_eq!(env["APACHE_DOCUMENT_ROOT"], "/app/shop/my ${PORT} \"pages\" [ü]");
    assert!(!plan.after[0].text.contains("pages"), "a name is never written into the configuration");
}

#[test]
fn the_example_catalog_can_be_built_where_it_says() {
    #[derive(serde::Deserialize)]
    struct Catalog {
        service: Vec<sdp_core::catalog::Service>,
    }
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/config/catalog.toml");
    let catalog: Catalog = toml::from_str(&std::fs::read_to_string(example).unwrap()).unwrap();
    for service in &catalog.service {
        service.check().unwrap();
        let cx = BuildContext { image: service.image.clone(), ..context(Target::Container) };
        plan(&service.builder, &cx).unwrap();
    }
    assert_eq!(catalog.service.len(), 3);
}

#[test]
fn composers_configuration_is_not_shown() {
    let file =
        PlannedFile { path: "/w/1/home/composer/config.json".into(), text: "hunter2".into(), secret: true };
    assert!(!format!("{file:?}").contains("hunter2"));
}

/// A tree of somebody's monorepo: a module in a folder, its main package below that, a page beside it.
fn go_service(source: &Path) {
    let write = |name: &str, text: &str| {
        let path = source.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("go.mod", "module example.com/shop\n\ngo 1.19\n");
    write("greet/greet.go", "package greet\n\nfunc Greeting() string { return \"hello from go\" }\n");
    write("page.html", "a page");
    write(
        "cmd/shop/main.go",
        r#"package main

import (
	"fmt"
	"net/http"
	"os"

	"example.com/shop/greet"
)

func main() {
	page, err := os.ReadFile("page.html")
	if err != nil {
		panic(err)
	}
	fmt.Println(greet.Greeting(), os.Args[1:], string(page), os.Getenv("GREETING"))
	http.HandleFunc("/healthz", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "ok") })
	panic(http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), nil))
}
"#,
    );
}

fn go_context(folder: &Path) -> BuildContext {
    let (source, output) = (folder.join("source"), folder.join("work/output"));
    for path in [&source, &output, &folder.join("work/home"), &folder.join("work/tmp")] {
        std::fs::create_dir_all(path).unwrap();
    }
    BuildContext {
        tree: source.clone(),
        source,
        output,
        caches: folder.join("caches"),
        base_env: BTreeMap::new(),
        ..context(Target::Process)
    }
}

async fn build(plan: &BuildPlan) -> (bool, String) {
    let printed = Arc::new(Mutex::new(String::new()));
    let on_line: OnLine = {
        let printed = printed.clone();
        Arc::new(move |_, line| printed.lock().unwrap().push_str(&(String::from_utf8_lossy(line) + "\n")))
    };
    let stop = CancellationToken::new();
    let status = exec::run(plan.build[0].clone(), on_line, &stop, Duration::from_secs(300)).await.unwrap();
    let printed = printed.lock().unwrap().clone();
    (status.success(), printed)
}

fn go(main_package: &str) -> Builder {
    serde_json::from_value(
        serde_json::json!({"type": "go", "main_package": main_package, "args": ["-v", "a b"]}),
    )
    .unwrap()
}

#[tokio::test]
#[ignore = "needs Go; scripts/test runs it"]
async fn a_go_service_with_its_main_package_in_a_subfolder_builds_runs_and_is_healthy() {
    let folder = tempfile::tempdir().unwrap();
    let cx = go_context(folder.path());
    go_service(&cx.source);
    let plan = plan(&go("cmd/shop"), &cx).unwrap();
    let (built, printed) = build(&plan).await;
    assert!(built, "{printed}");

    let runtime = ProcessRuntime::new(RuntimeConfig {
        data_dir: folder.path().join("instances"),
        ports: 20_000..=29_999,
        advertise: std::net::Ipv4Addr::LOCALHOST.into(),
        stop_grace: Duration::from_secs(10),
        restart_pause: Duration::from_millis(10),
        base_env: BTreeMap::new(),
        isolation: crate::exec::Isolation::default(),
    })
    .unwrap();
    let spec = StartSpec {
        instance: sdp_core::id::InstanceId::new(),
        deployment: sdp_core::id::DeploymentId::new(),
        run: plan.run,
        env: [("GREETING".to_owned(), "moin".to_owned())].into(),
        secrets: BTreeMap::new(),
        number: DeploymentNumber(1),
        attempt: 1,
        build: sdp_core::id::DeploymentId::new(),
        service: ServiceName::parse("hello").unwrap(),
        sandbox: SandboxName::parse("alice").unwrap(),
        port: None,
        limits: Limits::default(),
        writable: BTreeSet::new(),
        context: None,
        health: sdp_core::catalog::HealthCheck::Http { path: "/healthz".into() },
        check_limit: Duration::from_secs(60),
        redactor: crate::redact::Redactor::default(),
    };
    let instance = spec.instance;
    runtime.start(spec).await.unwrap();
    let check = sdp_core::catalog::HealthCheck::Http { path: "/healthz".into() };
    runtime.check(instance, &check, Duration::from_secs(60), &CancellationToken::new()).await.unwrap();
    assert_eq!(runtime.output(instance, 1).await.unwrap(), ["hello from go [-v a b] a page moin"]);
    runtime.stop_all().await;
}

#[tokio::test]
#[ignore = "needs Go; scripts/test runs it"]
async fn a_go_repository_cannot_fetch_toolchains_or_link_c() {
    let folder = tempfile::tempdir().unwrap();
    let cx = go_context(folder.path());
    go_service(&cx.source);
    let toolchain = "module example.com/shop\n\ngo 9.99\n\ntoolchain go9.99.0\n";
    std::fs::write(cx.source.join("go.mod"), toolchain).unwrap();
    let (built, printed) = build(&plan(&go("cmd/shop"), &cx).unwrap()).await;
    assert!(!built && printed.contains("toolchain"), "{printed}");

    go_service(&cx.source);
    std::fs::create_dir_all(cx.source.join("cmd/c")).unwrap();
    let cgo = "package main\n\n// #cgo LDFLAGS: -Wl,--evil\nimport \"C\"\n\nfunc main() {}\n";
    std::fs::write(cx.source.join("cmd/c/main.go"), cgo).unwrap();
    let (built, printed) = build(&plan(&go("cmd/c"), &cx).unwrap()).await;
    assert!(!built && printed.contains("build constraints exclude all Go files"), "{printed}");

    let (built, printed) = build(&plan(&go("cmd/nothing"), &cx).unwrap()).await;
    assert!(!built && printed.contains("cmd/nothing"), "{printed}");
}

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

fn context() -> BuildContext {
    BuildContext {
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
    let run = format!("run {:?} in {}", plan.run.argv, plan.run.cwd.display());
    programs.chain([run]).collect::<Vec<_>>().join("\n")
}

#[test]
fn go_builds_one_static_binary_with_shared_caches() {
    let builder: Builder = serde_json::from_value(
        serde_json::json!({"type": "go", "main_package": "cmd/shop", "args": ["--verbose", "$(id)"]}),
    )
    .unwrap();
    insta::assert_snapshot!(show(&plan(&builder, &context())), @r#"
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
}

#[test]
fn commands_are_words_and_see_only_the_operators_environment() {
    let builder: Builder = serde_json::from_value(serde_json::json!({
        "type": "command",
        "build": [["make", "all; rm -rf /"], ["./configure", "--prefix=$HOME"]],
        "run": ["./run.sh", "*"],
    }))
    .unwrap();
    insta::assert_snapshot!(show(&plan(&builder, &context())), @r#"
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
}

#[test]
fn the_main_package_may_be_the_folder_itself() {
    let builder: Builder = serde_json::from_value(serde_json::json!({"type": "go"})).unwrap();
    let plan = plan(&builder, &context());
    assert_eq!(plan.build[0].argv.last().unwrap(), ".");
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
    BuildContext { source, output, caches: folder.join("caches"), base_env: BTreeMap::new() }
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
    let plan = plan(&go("cmd/shop"), &cx);
    let (built, printed) = build(&plan).await;
    assert!(built, "{printed}");

    let runtime = ProcessRuntime::new(RuntimeConfig {
        data_dir: folder.path().join("instances"),
        ports: 20_000..=29_999,
        advertise: std::net::Ipv4Addr::LOCALHOST.into(),
        stop_grace: Duration::from_secs(10),
        base_env: BTreeMap::new(),
    })
    .unwrap();
    let spec = StartSpec {
        instance: sdp_core::id::InstanceId::new(),
        deployment: sdp_core::id::DeploymentId::new(),
        run: plan.run,
        env: [("GREETING".to_owned(), "moin".to_owned())].into(),
        number: DeploymentNumber(1),
        attempt: 1,
        service: ServiceName::parse("hello").unwrap(),
        sandbox: SandboxName::parse("alice").unwrap(),
        port: None,
        limits: Limits::default(),
        writable: BTreeSet::new(),
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
    let (built, printed) = build(&plan(&go("cmd/shop"), &cx)).await;
    assert!(!built && printed.contains("toolchain"), "{printed}");

    go_service(&cx.source);
    std::fs::create_dir_all(cx.source.join("cmd/c")).unwrap();
    let cgo = "package main\n\n// #cgo LDFLAGS: -Wl,--evil\nimport \"C\"\n\nfunc main() {}\n";
    std::fs::write(cx.source.join("cmd/c/main.go"), cgo).unwrap();
    let (built, printed) = build(&plan(&go("cmd/c"), &cx)).await;
    assert!(!built && printed.contains("build constraints exclude all Go files"), "{printed}");

    let (built, printed) = build(&plan(&go("cmd/nothing"), &cx)).await;
    assert!(!built && printed.contains("cmd/nothing"), "{printed}");
}

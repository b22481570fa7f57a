use super::*;

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

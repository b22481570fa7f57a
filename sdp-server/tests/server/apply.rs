//! `sdp-server apply`: the example catalog, and catalogs that cannot be brought in.

use std::path::Path;
use std::process::Stdio;

use sdp_core::catalog::MatchRule;
use tokio::process::Command;

use crate::harness::Host;

impl Host {
    /// What `apply` prints, or says of why it failed.
    async fn apply(&self, catalog: &Path, more: &[&str]) -> Result<String, String> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sdp-server"));
        command.env_clear().env("SDP_TOKEN", &self.admin).stdin(Stdio::null()).kill_on_drop(true);
        let done = command.arg("apply").arg(catalog).args(["--server", &self.url]).args(more).output();
        let done = done.await.expect("runs");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        if done.status.success() { Ok(text(done.stdout)) } else { Err(text(done.stderr)) }
    }
}

fn example() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/config/catalog.toml"))
}

#[tokio::test]
async fn the_example_catalog_is_brought_in_once_and_then_left_alone() {
    let host = Host::start().await;
    let dry = host.apply(example(), &["--dry-run"]).await.expect("said");
    assert!(
        dry.lines().all(|line| line.starts_with("created") && line.ends_with("(not done: dry run)")),
        "{dry}"
    );
    assert_eq!(host.client().services().await.expect("listed"), []);
    insta::assert_snapshot!(host.apply(example(), &[]).await.expect("applied"), @r"
    created   payments
    created   shop
    created   ledger
    created   environment staging
    created   template checkout
    ");
    let again = host.apply(example(), &[]).await.expect("applied");
    assert!(again.lines().all(|line| line.starts_with("unchanged")), "{again}");

    let client = host.client();
    let staging = client.environment(&"staging".parse().expect("a name")).await.expect("there");
    let rules: Vec<_> =
        staging.services.values().map(|own| own.rule.as_ref().map(MatchRule::to_string)).collect();
    assert_eq!(
        rules,
        [Some("the host ledger.shop.example.com".into()), Some("paths below /api/payments".into()), None]
    );
    let checkout = client.template(&"checkout".parse().expect("a name"), None).await.expect("there");
    assert_eq!((checkout.version, checkout.spec.services.len(), checkout.spec.routes.len()), (1, 2, 1));

    let changed = std::fs::read_to_string(example()).expect("read");
    let changed = changed.replace("default_lifetime_hours = 72", "default_lifetime_hours = 71");
    let changed = changed.replace("lifetime_hours = 48", "lifetime_hours = 47");
    let file = host.data().join("changed.toml");
    std::fs::write(&file, changed).expect("written");
    let updated = host.apply(&file, &[]).await.expect("applied");
    let lines: Vec<_> = updated.lines().filter(|line| !line.starts_with("unchanged")).collect();
    assert_eq!(lines, ["updated   environment staging", "updated   template checkout"]);
    assert_eq!(client.template(&checkout.name, None).await.expect("there").version, 2);
    host.stop().await;
}

#[tokio::test]
async fn what_is_wrong_in_a_catalog_is_said_with_its_name() {
    let host = Host::start().await;
    let twice = "[[environment]]\nname = \"a\"\n[[environment]]\nname = \"a\"\n";
    for (catalog, said) in [
        (twice, "environment a is there twice"),
        (
            "[[environment]]\nname = \"a\"\nmax_lifetime_hours = 1\n",
            "default_lifetime_hours: at most max_lifetime_hours",
        ),
        ("[[environment]]\nname = \"a\"\ndomian = \"x.test\"\n", "unknown field `domian`"),
        ("[[environment]]\nname = \"a;b\"\n", "invalid environment name"),
        ("[[environment]]\nname = \"a\"\n[environment.services.nosuch]\n", "no service named nosuch"),
        ("[[template]]\nenvironment = \"default\"\n", "missing field `name`"),
        ("[[template]]\nname = \"t\"\nenvironmint = \"default\"\n", "unknown field `environmint`"),
        ("[[template]]\nname = \"t\"\nenvironment = \"nosuch\"\n", "no environment named nosuch"),
        ("[[template]]\nname = \"t\"\nlifetime_hours = 0\n", "lifetime_hours: 1 to 8760"),
        ("[[place]]\n", "unknown field `place`"),
    ] {
        let file = host.data().join("catalog.toml");
        std::fs::write(&file, catalog).expect("written");
        let error = host.apply(&file, &[]).await.expect_err("refused");
        assert!(error.contains(said), "{said}: {error}");
    }
    let environments = host.client().environments().await.expect("listed");
    assert_eq!(environments.len(), 1, "nothing of it was done: {environments:?}");
    host.stop().await;
}

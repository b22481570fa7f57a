//! A container's secrets: there for the service, hidden in what it prints, also by the agent that finds it again.

use sdp_core::api::{GivenTo, SetSecret};
use sdp_core::client::InstanceFilter;
use sdp_core::secret::Secret;
use serde_json::json;

use super::engine::Engine;
use super::{MODULE, go_program, payments, run_container_test};
use crate::harness::{Sdp, name};

const DB: &str = "postgres://payments:hunter2@db.example/payments";
const KEY: &str = "k3y-that-only-builds-are-given";

/// What the one instance has printed, once that is so much.
async fn printed(sdp: &Sdp, text: &str, times: usize) -> Vec<String> {
    let instance = sdp.admin.instances(&InstanceFilter::default()).await.expect("a list").remove(0).id;
    let lines = async || sdp.admin.instance_output(instance, 500).await.unwrap_or_default();
    sdp.until("it has printed", async |_| {
        lines().await.iter().filter(|line| line.contains(text)).count() >= times
    })
    .await;
    lines().await
}

fn assert_hidden(lines: &[String]) {
    let plain = lines.iter().any(|line| line.contains("given [redacted] end"));
    let encoded = lines.iter().any(|line| line.contains("encoded [redacted]"));
    assert!(plain && encoded && !lines.iter().any(|line| line.contains("hunter2")), "{lines:?}");
}

#[test]
#[ignore = "needs Docker, Go and the base images; scripts/test runs it"]
fn a_containers_secrets_are_hidden_by_the_agent_that_finds_it_again() {
    run_container_test(async |sdp| {
        // Each request is answered with the variable, which is printed as well, plainly and in base64.
        let tells = r#"log.Println("given", os.Getenv("DB"), "end")
		log.Println("encoded", base64.StdEncoding.EncodeToString([]byte(os.Getenv("DB"))))
		fmt.Fprint(w, os.Getenv("DB"), os.Getenv("KEY"))"#;
        let program = go_program("paid")
            .replace("import (", "import (\n\t\"encoding/base64\"")
            .replace(r#"page, _ := os.ReadFile("page.txt")"#, "")
            .replace(r#"fmt.Fprintf(w, "paid %s%s", r.URL.Path, page)"#, tells);
        sdp.push(
            "payments",
            "main",
            &[("services/payments/go.mod", MODULE), ("services/payments/cmd/payments/main.go", &program)],
        );
        payments(sdp, json!({})).await;
        for (variable, value, given_to) in [("DB", DB, GivenTo::Run), ("KEY", KEY, GivenTo::Build)] {
            let secret = SetSecret { value: Some(Secret::new(value)), file: None, given_to };
            sdp.admin.set_secret(&name("payments"), &name(variable), &secret).await.expect("set");
        }
        let url = sdp.deployed("payments", "main").await;
        assert_eq!(sdp.get(&url).await.2, DB, "it has arrived, and what builds are given has not");
        assert_hidden(&printed(sdp, "encoded", 1).await);
        let container = Engine::containers(sdp).first().expect("one").clone();
        let mut seen = Engine::inspect(&container);
        assert_eq!(seen["Config"]["Labels"]["sdp.secrets"], "DB");
        let env = seen["Config"]["Env"].take();
        assert!(env.to_string().contains("hunter2"), "the engine knows it, as the documentation says: {env}");
        assert!(!env.to_string().contains(KEY), "{env}");
        assert!(!seen.to_string().contains("hunter2"), "nowhere else: {seen}");

        let before = printed(sdp, "encoded", 1).await.iter().filter(|line| line.contains("encoded")).count();
        sdp.stop_agent().await;
        sdp.start_agent().await;
        assert_eq!(Engine::containers(sdp).first(), Some(&container), "the same container");
        sdp.until("it answers", async |sdp| sdp.get(&url).await.2 == DB).await;
        assert_hidden(&printed(sdp, "encoded", before + 1).await);
    });
}

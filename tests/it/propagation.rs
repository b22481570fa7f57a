//! The sample services as `examples/propagation.md` says: a chain of calls stays in the sandbox, by address and by what is passed
//! on, through services in the sandbox and through one of the baseline.

use std::path::PathBuf;
use std::process::{Child, Command};

use sdp_core::deployment::Outcome;
use serde_json::{Value, json};

use crate::harness::{Sdp, name, run_test};

const LEDGER: &str = include_str!("../../examples/services/ledger/main.rs");
const HELLO: &str = include_str!("../../examples/services/hello/main.rs");
const GREETING: &str = include_str!("../../examples/services/hello/greeting.txt");
const PAYMENTS: [(&str, &str); 3] = [
    ("go.mod", include_str!("../../examples/services/payments/go.mod")),
    ("main.go", include_str!("../../examples/services/payments/main.go")),
    ("routing.go", include_str!("../../examples/services/payments/routing.go")),
];
const SHOP: &str = include_str!("../../examples/services/shop/public/index.php");

impl Sdp {
    /// One of the samples in Rust.
    async fn rust_sample(&self, service: &str, files: &[(&str, &str)]) {
        self.push(service, "main", files);
        let build = ["rustc", "--edition", "2021", "-o", service, "main.rs"];
        let run = format!("./{service}");
        let builder = json!({ "type": "command", "build": [build], "run": [run] });
        self.service(service, json!({ "builder": builder })).await;
    }

    async fn payments_sample(&self) {
        self.push("payments", "main", &PAYMENTS);
        let builder = json!({ "type": "go", "main_package": "." });
        self.service("payments", json!({ "builder": builder })).await;
    }

    async fn shop_sample(&self) {
        self.push("shop", "main", &[("public/index.php", SHOP)]);
        let run = ["sh", "-c", "exec php -S 127.0.0.1:$PORT -t public public/index.php"];
        let builder = json!({ "type": "command", "run": run });
        self.service("shop", json!({ "builder": builder })).await;
    }

    async fn key(&self, sandbox: &str) -> String {
        let view = self.platform().sandbox(&name(sandbox)).await.expect("a sandbox");
        view.key.to_string()
    }

    /// What a path answers to a request that has the key, or none.
    async fn asked_with(&self, path: &str, key: Option<&str>) -> Value {
        let mut request = self.http.get(self.on_router(path));
        if let Some(key) = key {
            request = request.header("baggage", format!("user=7,sdp-routing-key={key}"));
        }
        let text = request.send().await.expect("an answer").text().await.expect("a body");
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}"))
    }
}

/// A service that somebody else runs, as the baseline's are.
struct Elsewhere(Child);

impl Drop for Elsewhere {
    fn drop(&mut self) {
        self.0.kill().expect("killed");
        self.0.wait().expect("ended");
    }
}

#[test]
fn a_sample_in_rust_asks_the_other_one_in_its_own_sandbox() {
    run_test(async |sdp| {
        sdp.rust_sample("hello", &[("main.rs", HELLO), ("greeting.txt", GREETING)]).await;
        sdp.rust_sample("ledger", &[("main.rs", LEDGER)]).await;
        sdp.deployed("hello", "main").await;
        let lonely = sdp.asked_with("/~alice/hello/accounts", None).await;
        assert_eq!(
            lonely,
            json!({ "error": "the ledger cannot be asked: it answers 404" }),
            "there is none yet"
        );
        sdp.deployed("ledger", "main").await;
        // Nothing was started anew: the address has been there all the time.
        let answer = sdp.asked_with("/~alice/hello/accounts", None).await;
        assert_eq!(answer["sandbox"], "alice", "{answer}");
        assert_eq!(answer["accounts"][0]["name"], "cash");
    });
}

#[test]
#[ignore = "needs Go and PHP; scripts/test runs it"]
fn a_chain_of_three_samples_stays_in_the_sandbox_and_one_through_the_baseline_too() {
    run_test(async |sdp| {
        sdp.rust_sample("ledger", &[("main.rs", LEDGER)]).await;
        sdp.payments_sample().await;
        sdp.shop_sample().await;
        for service in ["ledger", "payments", "shop"] {
            sdp.deployed(service, "main").await;
        }
        let chain = json!({
            "sandbox": "alice",
            "payments": { "balance": 40, "ledger": "alice", "sandbox": "alice" },
        });
        let key = sdp.key("alice").await;
        assert_eq!(sdp.asked_with("/shop/balance", Some(&key)).await, chain);
        assert_eq!(sdp.asked_with("/~alice/shop/balance", None).await, chain);

        // A sandbox with nothing but its own ledger: payments is the baseline's, which calls the router and passes the mark on.
        let made = sdp.folder.path().join("baseline-payments");
        std::fs::create_dir(&made).expect("made");
        for (file, text) in PAYMENTS {
            std::fs::write(made.join(file), text).expect("written");
        }
        let program: PathBuf = made.join("payments");
        let built =
            Command::new("go").args(["build", "-o"]).arg(&program).arg(".").current_dir(&made).status();
        assert!(built.expect("go runs").success());
        let port =
            std::net::TcpListener::bind("127.0.0.1:0").expect("binds").local_addr().expect("bound").port();
        let elsewhere = Command::new(&program)
            .current_dir("/")
            .env("PORT", port.to_string())
            .env("LEDGER_URL", sdp.on_router("/ledger"))
            .spawn()
            .expect("it starts");
        let _elsewhere = Elsewhere(elsewhere);
        sdp.until("the baseline answers", async |sdp| {
            sdp.http.get(format!("http://127.0.0.1:{port}/healthz")).send().await.is_ok()
        })
        .await;
        let baseline = format!("http://127.0.0.1:{port}");
        let builder = json!({ "type": "go", "main_package": "." });
        sdp.service("payments", json!({ "builder": builder, "baseline": baseline })).await;
        let mut request = crate::harness::wanted("ledger", "main");
        request.sandbox = Some(name("qa"));
        let created = sdp.admin.deploy(&request, None).await.expect("taken");
        assert_eq!(sdp.wait(created.id.into()).await.deployment.outcome(), Some(&Outcome::Succeeded {}));
        let key = sdp.key("qa").await;
        sdp.until("the sandbox has a route", async |sdp| {
            let answer = sdp.asked_with("/payments/balance", Some(&key)).await;
            answer == json!({ "balance": 40, "ledger": "qa", "sandbox": "" })
        })
        .await;
    });
}

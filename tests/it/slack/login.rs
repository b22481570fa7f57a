//! Who one is in Slack: a git account, by a link that nobody else sees.

use std::time::Duration;

use super::bot::Bot;
use super::fake::Slack;
use super::trouble::all_is_told;
use crate::git_host::ALICE;
use crate::harness::run_test_with;
use crate::identity::{catalog, host, logs_in};

#[test]
#[ignore = "needs nginx and fcgiwrap"]
fn after_a_login_by_link_a_private_repository_is_deployed_in_ones_own_name() {
    let host = host();
    run_test_with(logs_in(&host), async |sdp| {
        catalog(sdp, &host).await;
        let slack = Slack::start().await;
        let _bot = Bot::started(sdp, &slack).await;
        let alice = slack.person("alice");
        // A stranger may look, and hears how to act.
        alice.slash("#dev", "deploy private main").await.well();
        slack.until("it says how", |m| m.whispers("alice").find(|w| w.says("needs a login")).cloned()).await;
        alice.slash("#dev", "login").await.well();
        let link =
            slack.until("the link", |m| m.whispers("alice").find(|w| w.says("Log in with")).cloned()).await;
        let url = alice.click(&link, "Log in").await.url.expect("a link");
        let fields = [("username", "alice"), ("password", ALICE)];
        let form = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let origin = sdp.url.origin().ascii_serialization();
        let request = sdp.http.post(&url).header("origin", origin).body(form);
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        assert_eq!(request.send().await.expect("answered").status(), 200);

        let ack = alice.slash("#dev", "deploy private secret-plan").await.well();
        assert!(ack.took < Duration::from_secs(1));
        let root = all_is_told(&slack, "#dev").await;
        assert!(root.says("→ alice: running"), "{}", root.words());
        let (_, _, greeting) = sdp.get(sdp.on_router("/~alice/private/")).await;
        assert_eq!(greeting, "alice's plan");
        // Bob, who is nobody here, clicks in vain and hears that alone.
        slack.person("bob").click(&root, "Stop").await.ack.well();
        slack.until("he hears why", |m| m.whispers("bob").find(|w| w.says("needs a login")).cloned()).await;
        assert_eq!(sdp.get(sdp.on_router("/~alice/private/")).await.2, "alice's plan");
        slack.whispers("alice");
        let seen = slack.transcript("#dev");
        assert!(!seen.contains(url.as_str()) && !seen.contains("/login/"), "{seen}");
        slack.finish();
    });
}

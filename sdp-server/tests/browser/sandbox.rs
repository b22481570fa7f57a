//! The page of a sandbox in a real browser: its map, its buttons, and what others do meanwhile.

use jiff::{SignedDuration, Timestamp};
use sdp_core::api::{CreateLock, RenewSandbox, SaveSandbox};
use sdp_core::catalog::Environment;
use sdp_core::name::SandboxName;
use sdp_core::platform::Power;
use sdp_core::sandbox::RouteChoice;

use super::*;

fn bob() -> Principal {
    Principal::person(PersonName::parse("bob").expect("a name"))
}

fn name(text: &str) -> SandboxName {
    SandboxName::parse(text).expect("a name")
}

fn of(text: &str) -> ServiceName {
    ServiceName::parse(text).expect("a name")
}

/// Presses the button that says so inside of this.
fn press(inside: &str, label: &str) -> String {
    format!(
        "[...document.querySelectorAll('{inside} button')].find((one) => one.textContent === '{label}').click()"
    )
}

impl Stage {
    /// A shop with more services, and an environment whose sandboxes may be answered by laptops.
    async fn furnish(&self) {
        let platform = &self.server.platform;
        let mut all = vec!["payments".to_owned(), "ledger".to_owned()];
        all.extend(["gateway", "orders", "search", "users"].map(str::to_owned));
        all.extend((1..=12).map(|n| format!("shop-{n}")));
        for name in all {
            let service: Service = serde_json::from_value(serde_json::json!({
                "name": name, "repo": "https://git.example/acme/shop.git", "builder": { "type": "command", "run": ["./serve"] },
                "baseline": format!("https://{name}-staging.apps.ocp.shop.test"),
            }))
            .expect("a service");
            platform.save_service(&alice(), service, Save::Put).await.expect("saved");
        }
        let environment: Environment = serde_json::from_value(serde_json::json!({
            "name": "default", "every_service": true, "domain": "sandboxes.shop.test", "external_networks": ["10.20.0.0/16"],
        }))
        .expect("an environment");
        platform.save_environment(&alice(), environment, Save::Put).await.expect("saved");
    }

    async fn send(&self, service: &str, choice: Option<RouteChoice>) {
        let platform = &self.server.platform;
        platform
            .choose_route(&alice(), &name("alice"), &of(service), choice, Power::Member)
            .await
            .expect("chosen");
    }
}

const ENDS: &str = "document.querySelector('#head .expiry time').dateTime";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium; scripts/test runs it"]
async fn a_sandbox_is_drawn_extended_and_kept_up_to_date_while_somebody_types() {
    let mut stage = Stage::set().await;
    stage.furnish().await;
    let (_, job) = stage.build("payments", "feature/refund").await;
    job.succeed(&mut stage.agent, 9).await;
    let lend = Deploy::new(of("ledger")).git_ref(GitRef::parse("fix/rounding").expect("a branch"));
    stage.server.platform.deploy(&bob(), lend).await.expect("taken");
    let mut job = stage.agent.take_job().await;
    job.begin(&mut stage.agent, "Round half to even").await;
    job.succeed(&mut stage.agent, 10).await;
    stage.send("ledger", Some(RouteChoice::Borrowed { sandbox: name("bob") })).await;
    stage
        .send(
            "orders",
            Some(RouteChoice::External { address: "10.20.3.4:8080".parse().expect("an address") }),
        )
        .await;
    let short = RenewSandbox { hours: Some(5), pinned: None };
    stage
        .server
        .platform
        .renew_sandbox(&alice(), &name("alice"), short, Power::Member)
        .await
        .expect("renewed");

    // From the list to the map.
    let mut page = stage.visit("/sandboxes").await;
    page.until("document.querySelector('#sandbox-alice .service') !== null").await;
    page.shot("sandboxes").await;
    page.eval("document.querySelector('#sandbox-alice .service').click()").await;
    page.until("location.pathname === '/sandboxes/alice' && document.readyState === 'complete'").await;
    page.until("document.querySelector('#way-payments.own .chip.ok') !== null").await;
    let kinds = page
        .eval("[...document.querySelectorAll('#map .way')].map((way) => `${way.id} ${way.classList[1]}`).slice(0, 4)")
        .await;
    let expected = ["way-ledger borrowed", "way-orders external", "way-payments own", "way-gateway baseline"];
    assert_eq!(kinds, serde_json::json!(expected));
    // It is a picture: drawn, inside of its frame, and coloured by the style sheet.
    let drawn = page
        .eval(
            "(() => {
                const map = document.querySelector('svg.routing').getBoundingClientRect();
                const texts = [...document.querySelectorAll('svg.routing text')].map((text) => text.getBoundingClientRect());
                const inside = texts.every((box) => box.width > 0 && box.right <= map.right + 1 && box.left >= map.left);
                const fill = getComputedStyle(document.querySelector('#way-payments .target .box')).fill;
                return [map.width > 600 && map.height > 300, inside, fill];
            })()",
        )
        .await;
    assert_eq!(drawn, serde_json::json!([true, true, "rgb(227, 245, 234)"]));
    page.size(1280, 1100).await;
    page.shot("map-light").await;
    page.scheme("dark").await;
    page.shot("map-dark").await;
    page.scheme("light").await;
    page.size(390, 844).await;
    page.shot("map-small").await;
    page.size(1280, 800).await;

    // Extended by a button: the new end is shown.
    let before: Timestamp = serde_json::from_value(page.eval(ENDS).await).expect("a time");
    assert!(before < Timestamp::now() + SignedDuration::from_hours(6));
    page.eval(&press("#head", "Extend")).await;
    page.until(&format!(
        "{ENDS} !== '{before}' && document.querySelector('#head .expiry').textContent === 'Ends in 7 days'"
    ))
    .await;
    let after: Timestamp = serde_json::from_value(page.eval(ENDS).await).expect("a time");
    assert!(after > Timestamp::now() + SignedDuration::from_hours(166), "{after}");

    // While somebody types, others act: it is seen, and what was typed stays.
    page.eval("document.querySelector('#lock-form').closest('details').open = true").await;
    page.eval("(() => { const field = document.getElementById('lock-reason'); field.focus(); field.value = 'half a sen'; })()").await;
    stage.send("payments", Some(RouteChoice::Baseline {})).await;
    page.until("document.querySelector('#way-payments.baseline') !== null && document.querySelector('#way-payments.own') === null").await;
    let lock: CreateLock = serde_json::from_value(
        serde_json::json!({ "service": "payments", "sandbox": "alice", "reason": "<b>demo</b>" }),
    )
    .expect("a lock");
    let open = SaveSandbox {
        members: Some([PersonName::parse("bob").expect("a name")].into()),
        ..SaveSandbox::default()
    };
    let platform = &stage.server.platform;
    platform.save_sandbox(&alice(), &name("alice"), open, Save::Put, Power::Member).await.expect("saved");
    platform.lock(&bob(), lock, Power::Member).await.expect("locked");
    page.until("document.querySelector('#locks .row')?.textContent.includes('<b>demo</b>')").await;
    page.until("document.querySelector('#way-payments .padlock') !== null").await;
    let typed = page.eval("[document.getElementById('lock-reason').value, document.activeElement.id]").await;
    assert_eq!(typed, serde_json::json!(["half a sen", "lock-reason"]));

    // A refusal is said in words below the form; then the lock is stolen.
    page.eval("(() => { const form = document.getElementById('lock-form'); form.elements.service.value = 'payments'; form.requestSubmit(); })()").await;
    page.until("document.querySelector('#lock-form .problem').textContent.includes('bob')").await;
    page.eval("(() => { const form = document.querySelector('#locks form'); form.elements.reason.value = 'it is urgent'; form.requestSubmit(); })()").await;
    page.until("document.querySelector('#locks .row').textContent.includes('by you')").await;
    page.eval(&press("#locks", "Unlock")).await;
    page.eval(&press("#locks", "Unlock it?")).await;
    page.until("document.querySelector('#locks .row') === null").await;

    // The route goes back by its button, and elsewhere by the form.
    page.eval(&press("#route-payments", "Reset")).await;
    page.until("document.querySelector('#way-payments.own') !== null").await;
    page.eval(
        "(() => {
            const form = document.getElementById('route-form');
            form.elements.service.value = 'users';
            form.elements.kind.value = 'external';
            form.elements.kind.dispatchEvent(new Event('change'));
            form.elements.address.value = '192.0.2.1:80';
            form.requestSubmit();
        })()",
    )
    .await;
    page.until("document.querySelector('#route-form .problem').textContent.includes('10.20.0.0/16')").await;
    page.eval("(() => { const form = document.getElementById('route-form'); form.elements.address.value = '10.20.9.9:80'; form.requestSubmit(); })()").await;
    page.until("document.querySelector('#way-users.external') !== null").await;
    // Notes are saved, and shown as text.
    page.eval("(() => { const form = document.getElementById('settings-form'); form.elements.notes.value = '<i>ours</i>'; form.elements.members.value = 'carol, dave'; form.requestSubmit(); })()").await;
    page.until("document.querySelector('.sandbox-notes')?.textContent === '<i>ours</i>'").await;
    page.until("document.getElementById('about').textContent.includes('carol, dave')").await;

    // Deleted by somebody else: the page says so.
    stage.server.platform.delete_sandbox(&alice(), &name("alice"), Power::Member).await.expect("deleted");
    page.until("document.getElementById('said').textContent.includes('alice is gone')").await;
    stage.strike(page).await;
}

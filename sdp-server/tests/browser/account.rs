//! The account page and the login page in a real browser: tokens made and revoked, sessions ended, roles changed.

use sdp_core::access::{ChatUser, LoggedIn, Origin, Vouched};
use sdp_core::api::TokenKind;
use sdp_core::principal::Role;
use sdp_core::secret::{GitCredential, Secret};

use super::*;

impl Stage {
    /// Somebody whom their git host has vouched for, with a session elsewhere.
    async fn log_in(&self, user: &str, role: Role, user_agent: &str) -> LoggedIn {
        let vouched = Vouched {
            origin: "https://git.example.com".into(),
            user: user.into(),
            credential: GitCredential { username: user.into(), password: Secret::new("hunter2hunter2") },
            role,
            is_admin: false,
        };
        let from = Origin { address: Some("192.0.2.7".into()), user_agent: Some(user_agent.into()) };
        let life = std::time::Duration::from_secs(3600);
        self.server.access.log_in(vouched, None, from, life).await.expect("logged in")
    }
}

/// What the server answers a program that comes with the token in the page.
async fn answers(page: &mut Chromium, token: &str) -> serde_json::Value {
    let ask = format!(
        "fetch('/api/v1/me', {{ credentials: 'omit', headers: {{ authorization: 'Bearer {token}' }} }})
           .then(async (answer) => `${{answer.status}} ${{(await answer.json()).principal?.name}}`)"
    );
    page.eval(&ask).await
}

/// Presses a button that asks once more.
async fn press(page: &mut Chromium, selector: &str, asks: &str) {
    page.until(&format!("document.querySelector('{selector}') !== null")).await;
    page.eval(&format!("document.querySelector('{selector}').click()")).await;
    assert_eq!(page.eval(&format!("document.querySelector('{selector}').textContent")).await, asks);
    page.eval(&format!("document.querySelector('{selector}').click()")).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium; scripts/test runs it"]
async fn a_token_is_made_shown_once_and_revoked_and_sessions_end() {
    let stage = Stage::set().await;
    let access = stage.server.access.clone();
    let elsewhere = stage.log_in("alice", Role::Admin, "<script>alert(1)</script>").await;
    let bob = stage.log_in("bob", Role::Developer, "curl/8.5.0").await.person.name;
    let begun = Begun {
        principal: alice(),
        account: Some(elsewhere.person.name.clone()),
        token: None,
        binding: None,
    };
    let mut page = stage.visit_as(&begun, "/").await;
    page.eval("document.querySelector('a.who').click()").await;
    // Its scripts have run by then, too.
    page.until(
        "document.readyState === 'complete' && document.querySelectorAll('#sessions li').length === 2",
    )
    .await;
    assert_eq!(page.eval("document.querySelectorAll('#sessions .badge.ok').length").await, 1, "this browser");
    page.shot("account").await;

    // A token: shown once, and it is alice.
    page.eval("document.getElementById('token-name').value = 'ci'; document.querySelector('#token-form button').click()")
        .await;
    page.until(
        "!document.getElementById('token-made').hidden && document.getElementById('token-ci') !== null",
    )
    .await;
    let token = page.eval("document.getElementById('token-value').textContent").await;
    let token = token.as_str().expect("a value").to_owned();
    assert!(token.starts_with("sdp_"), "{token}");
    assert_eq!(answers(&mut page, &token).await, "200 alice");
    page.shot("account-token").await;
    page.eval("document.getElementById('token-copy').click()").await;
    page.until("document.getElementById('said').innerText.length > 3").await;
    page.call("Page.reload", serde_json::json!({})).await;
    page.until("document.readyState === 'complete' && document.getElementById('token-ci') !== null").await;
    assert_eq!(page.eval("document.documentElement.outerHTML.includes('sdp_')").await, false, "gone");
    let made = access.tokens().await.expect("read").into_iter().find(|token| token.name.as_str() == "ci");
    let made = made.expect("it is there");
    assert_eq!((made.kind, made.owner.as_ref()), (TokenKind::Deploy, Some(&elsewhere.person.name)));
    assert!(made.expires_at.is_some(), "in ninety days if nobody says otherwise");

    // The same name again is refused in words, beside its field.
    page.eval("document.getElementById('token-name').value = 'ci'; document.querySelector('#token-form button').click()")
        .await;
    page.until("!document.getElementById('token-problem').hidden").await;
    let problem = page.eval("document.getElementById('token-problem').textContent").await;
    insta::assert_snapshot!(problem.as_str().expect("text"), @r"A token named ci exists already. Revoke it first, or choose another name.");
    assert_eq!(page.eval("document.getElementById('token-name').getAttribute('aria-invalid')").await, "true");
    // Only a token that deploys is for one service.
    let only = "(() => { const kind = document.getElementById('token-kind'); kind.value = 'read';
        kind.dispatchEvent(new Event('change')); return document.getElementById('token-service').disabled; })()";
    assert_eq!(page.eval(only).await, true);

    press(&mut page, "#token-ci button", "Revoke ci?").await;
    page.until("document.getElementById('token-ci') === null").await;
    assert_eq!(answers(&mut page, &token).await, "401 undefined");

    // What bob may do.
    page.eval(
        "(() => { const role = document.querySelector('select[data-person=bob]'); role.value = 'viewer';
          role.dispatchEvent(new Event('change', { bubbles: true })); })()",
    )
    .await;
    page.until("document.getElementById('said').innerText.includes('bob is a viewer from now on')").await;
    assert_eq!(access.person(&bob).await.expect("read").expect("there").role, Role::Viewer);
    press(&mut page, "#person-bob button", "Delete bob?").await;
    page.until("document.getElementById('person-bob') === null").await;
    assert!(access.person(&bob).await.expect("read").is_none());

    // The session elsewhere, then this one.
    let other = format!("#session-{} button", elsewhere.id);
    press(&mut page, &other, "Sign it out?").await;
    page.until("document.querySelectorAll('#sessions li').length === 1").await;
    assert!(access.session(elsewhere.session.expose()).await.expect("read").is_none());
    page.size(390, 800).await;
    page.shot("account-narrow").await;
    let wide = page.eval("document.documentElement.scrollWidth > innerWidth").await;
    assert_eq!(wide, false, "nothing is cut off on a phone");
    press(&mut page, "#sessions li button", "Sign out here?").await;
    page.until("location.pathname === '/login'").await;
    page.open(&format!("{}/account", stage.url)).await;
    page.until("document.body.innerText.includes('Please sign in')").await;
    stage.strike(page).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium; scripts/test runs it"]
async fn the_login_page_names_whom_it_binds_and_says_what_was_wrong() {
    let stage =
        Stage::set_with(serde_json::json!({ "repository": "https://git.example.com/shop/login.git" })).await;
    let of = ChatUser { bot: "slack".parse().expect("valid"), user: "U024BE7LH".parse().expect("valid") };
    let (link, _) = stage.server.access.create_login_link(&of).await.expect("made");
    let mut page = Chromium::start().await;
    page.open(&format!("{}/login/{}", stage.url, link.expose())).await;
    page.until("document.querySelector('.notice').innerText.includes('U024BE7LH')").await;
    assert_eq!(page.eval("document.activeElement.id").await, "username");
    page.shot("login").await;
    // A name that no git host can be asked with.
    page.eval(
        "document.getElementById('username').value = 'a:b'; document.getElementById('password').value = 'x';
         document.querySelector('form.login button').click()",
    )
    .await;
    page.until("document.querySelector('.problem')?.innerText.includes('password is wrong')").await;
    assert_eq!(page.eval("document.getElementById('username').value").await, "a:b");
    assert_eq!(page.eval("document.getElementById('password').value").await, "");
    page.shot("login-wrong").await;
    page.size(360, 740).await;
    page.call(
        "Emulation.setEmulatedMedia",
        serde_json::json!({ "features": [{ "name": "prefers-color-scheme", "value": "dark" }] }),
    )
    .await;
    page.shot("login-narrow-dark").await;
    assert_eq!(page.eval("document.documentElement.scrollWidth > innerWidth").await, false);
    stage.strike(page).await;
}

//! The pages in a real browser: a real server, an agent that is played, and Chromium.

mod account;
mod agent;
mod big_logs;
mod chromium;
mod instance;
mod sandbox;

use std::sync::{Arc, Mutex};

use sdp_core::access::Begun;
use sdp_core::catalog::Service;
use sdp_core::deployment::{Deployment, Step};
use sdp_core::failure::{Failure, FailureReason};
use sdp_core::name::{GitRef, PersonName, ServiceName};
use sdp_core::platform::{Deploy, Save};
use sdp_core::principal::Principal;
use sdp_core::wire::Stream;
use sdp_server::{Config, Server};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use agent::{PlayedAgent, PlayedJob};
use chromium::Chromium;

struct Stage {
    server: Server,
    agent: PlayedAgent,
    wire: Wire,
    url: String,
    shutdown: CancellationToken,
    _data: tempfile::TempDir,
}

fn alice() -> Principal {
    Principal::person(PersonName::parse("alice").expect("a name"))
}

impl Stage {
    async fn set() -> Self {
        Self::set_with(serde_json::json!({ "trust_bot": true })).await
    }

    async fn set_with(login: serde_json::Value) -> Self {
        let data = tempfile::tempdir().expect("a folder");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let wire = Wire::lay(listener.local_addr().expect("an address")).await;
        let url = format!("http://127.0.0.1:{}", wire.port);
        let limits =
            serde_json::json!({ "requests_per_minute": 10_000_000, "writes_per_minute": 10_000_000 });
        let config = serde_json::json!({ "public_url": url, "data_dir": data.path(), "limits": limits, "login": login });
        let config: Config = serde_json::from_value(config).expect("a configuration");
        let shutdown = CancellationToken::new();
        let server = sdp_server::start(config, listener, shutdown.clone()).await.expect("starts");
        for name in ["payments", "ledger"] {
            let service: Service = serde_json::from_value(serde_json::json!({
                "name": name, "repo": "https://git.example/acme/shop.git", "builder": { "type": "command", "run": ["./serve"] }
            }))
            .expect("a service");
            server.platform.save_service(&alice(), service, Save::Put).await.expect("saved");
        }
        let agent = PlayedAgent::connect(&server.platform).await;
        Self { server, agent, wire, url, shutdown, _data: data }
    }

    async fn deploy(&mut self, service: &str, git_ref: &str) -> Deployment {
        let deploy = Deploy::new(ServiceName::parse(service).expect("a name"))
            .git_ref(GitRef::parse(git_ref).expect("a branch"));
        self.server.platform.deploy(&alice(), deploy).await.expect("taken")
    }

    async fn build(&mut self, service: &str, git_ref: &str) -> (Deployment, PlayedJob) {
        let deployment = self.deploy(service, git_ref).await;
        let mut job = self.agent.take_job().await;
        job.begin(&mut self.agent, "Refund in the currency of the payment").await;
        (deployment, job)
    }

    /// A browser that is signed in and shows this page.
    async fn visit(&self, path: &str) -> Chromium {
        let begun = Begun { principal: alice(), account: None, token: None, binding: None };
        self.visit_as(&begun, path).await
    }

    async fn visit_as(&self, begun: &Begun, path: &str) -> Chromium {
        let code = self.server.access.create_sign_in_code(begun, path).await.expect("a code");
        let mut page = Chromium::start().await;
        page.open(&format!("{}/sign-in/{}", self.url, code.code.expose())).await;
        let page_path = path.split('#').next().expect("a path");
        page.until(&format!(
            "location.pathname + location.search === '{page_path}' && document.readyState === 'complete'"
        ))
        .await;
        page
    }

    async fn strike(self, page: Chromium) {
        page.assert_well(&self.url);
        drop(page);
        drop(self.agent);
        self.shutdown.cancel();
        self.server.ended().await;
    }
}

/// The network between browser and server, which can be cut.
struct Wire {
    port: u16,
    connections: Arc<Mutex<Vec<AbortHandle>>>,
    _tasks: JoinSet<()>,
}

impl Wire {
    async fn lay(to: std::net::SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let connections = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        let held = Arc::clone(&connections);
        tasks.spawn(async move {
            let mut pumps = JoinSet::new();
            while let Ok((mut browser, _)) = listener.accept().await {
                let pump = pumps.spawn(async move {
                    if let Ok(mut server) = TcpStream::connect(to).await {
                        drop(tokio::io::copy_bidirectional(&mut browser, &mut server).await);
                    }
                });
                held.lock().expect("not poisoned").push(pump);
            }
        });
        Self { port, connections, _tasks: tasks }
    }

    fn cut(&self) {
        for connection in self.connections.lock().expect("not poisoned").drain(..) {
            connection.abort();
        }
    }
}

/// The numbers of the lines in the page, which must be without a gap, and what the first and last of them say.
const STRETCH: &str = "(() => {
    const rows = [...document.querySelectorAll('#lines .l')];
    const numbers = rows.map((row) => Number(row.querySelector('.n').textContent));
    const dense = numbers.every((n, i) => i === 0 || n === numbers[i - 1] + 1);
    const right = rows.every((row, i) => !/^line /.test(row.querySelector('.x').textContent) || row.querySelector('.x').textContent === `line ${numbers[i]}`);
    return { first: numbers[0], last: numbers.at(-1), count: rows.length, dense, right };
})()";

const AT_BOTTOM: &str = "(() => { const p = document.getElementById('log'); return p.scrollHeight - p.scrollTop - p.clientHeight < 40; })()";

/// The two steps before the build are there, folded.
const FOLDED: &str = "document.querySelectorAll('#lines .fold[aria-expanded=false]').length === 2";

fn line(n: u64) -> String {
    format!("document.getElementById('L{n}') !== null")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium; scripts/test runs it"]
async fn what_a_build_prints_is_shown_as_text_and_does_nothing() {
    let mut stage = Stage::set().await;
    let (deployment, mut job) = stage.build("payments", "feature/a'b&c=$(x);d").await;
    let hostile: &[&[u8]] = &[
        b"<script>alert(1)</script><img src=x onerror=alert(2)>",
        b"\"><svg onload=alert(3)> &lt;b&gt; </textarea> javascript:alert(4)",
        b"\x1b]8;;javascript:alert(5)\x07click\x1b]8;;\x07 \x1b]52;c;aGVsbG8=\x07 \x1b]0;owned\x07end",
        b"\x1b[31mred \x1b[1;42mbold on green\x1b[0m \x1b[38;5;208m256\x1b[0m \x1b[38;2;1;200;3mrgb",
        b"  10% [#    ]\r  50% [##   ]\r\x1b[K100% [#####]",
        b"\x1b[2J\x1b[1000000C\x1b[?25lclear\x1bPq#0\x1b\\ed \x1b[31",
        "evil\u{202e}gnp.exe".as_bytes(),
        b"broken \xff\xfe utf-8 \xc3 \x00 nul \x9b31m",
        b"\x1b]0;never ends",
        "c1 \u{9b}31mred\u{9d}0;title\u{9c} \u{85}next".as_bytes(),
        b"typed\x08\x08\x08\x08\x08wrote \x1b[1Kover \x1b(Bset \x1b",
        b"crlf\r",
        b"",
        b"\ttab",
    ];
    job.say(&mut stage.agent, Stream::Stdout, hostile).await;
    let long = "x".repeat(64 * 1024);
    job.print(&mut stage.agent, &[&long]).await;
    job.say(&mut stage.agent, Stream::Stderr, &[b"on standard error"]).await;

    let mut page = stage.visit(&format!("/deployments/{}", deployment.number)).await;
    let last = job.lines;
    page.until(&line(last)).await;
    let shown = page.eval("[...document.querySelectorAll('#lines .l')].map((row) => row.querySelector('.x').textContent.slice(0, 80))").await;
    insta::assert_snapshot!(serde_json::to_string_pretty(&shown).expect("text"), @r#"
    [
      "<script>alert(1)</script><img src=x onerror=alert(2)>",
      "\"><svg onload=alert(3)> &lt;b&gt; </textarea> javascript:alert(4)",
      "click  end",
      "red bold on green 256 rgb",
      "100% [#####]",
      "cleared ",
      "evil⟨U+202E⟩gnp.exe",
      "broken �� utf-8 � ␀ nul �31m",
      "0;never ends",
      "c1 red ⟨U+0085⟩next",
      "      over set ",
      "crlf",
      "",
      "\ttab",
      "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
      "on standard error"
    ]
    "#);
    let colours = page.eval("[...document.querySelectorAll('#L6 .x span')].map((piece) => `${piece.className}: ${piece.textContent}`)").await;
    insta::assert_snapshot!(serde_json::to_string_pretty(&colours).expect("text"), @r#"
    [
      "f1: red ",
      "b2 bo: bold on green",
      "f11: 256",
      "f2: rgb"
    ]
    "#);
    assert_eq!(
        page.eval(
            "document.querySelectorAll('#lines img, #lines svg, #lines script, #lines a:not(.n)').length"
        )
        .await,
        0
    );
    let drawn = page
        .eval(&format!(
            "[document.title.includes('owned'), document.querySelector('#L{} .x').textContent.length < 5000]",
            last - 1
        ))
        .await;
    assert_eq!(drawn, serde_json::json!([false, true]));
    page.eval(&format!("document.querySelector('#L{} .more').click()", last - 1)).await;
    let whole = page.eval(&format!("document.querySelector('#L{} .x').textContent.length", last - 1)).await;
    assert_eq!(whole, 64 * 1024);
    assert_eq!(page.eval(&format!("document.getElementById('L{last}').className")).await, "l err");
    // The server's search sees what is shown: each line is found by its own text.
    let lost = page
        .eval(&format!(
            "(async () => {{
                const lost = [];
                for (const row of document.querySelectorAll('#lines .l')) {{
                    const text = row.querySelector('.x').textContent.slice(0, 50);
                    if (text === '') continue;
                    const query = new URLSearchParams({{ q: text, match_case: true, limit: 1000 }});
                    const answer = await (await fetch(`/api/v1/deployments/{}/logs/search?${{query}}`)).json();
                    if (!answer.matches.some((hit) => `L${{hit.n}}` === row.id)) lost.push(text);
                }}
                return lost;
            }})()",
            deployment.number
        ))
        .await;
    assert_eq!(lost, serde_json::json!([]));
    page.shot("hostile").await;
    stage.strike(page).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium; scripts/test runs it"]
async fn a_log_is_followed_left_and_followed_again_and_a_cut_loses_no_line() {
    let mut stage = Stage::set().await;
    let (deployment, mut job) = stage.build("payments", "main").await;
    let mut page = stage.visit(&format!("/deployments/{}", deployment.number)).await;
    page.until(FOLDED).await;
    page.until("document.getElementById('link').textContent === 'Live'").await;
    job.count_to(&mut stage.agent, 300).await;
    page.until(&line(300)).await;
    page.until(AT_BOTTOM).await;

    // Scrolled up: new lines come, but the view stays.
    page.eval("document.getElementById('log').scrollTop -= 800").await;
    page.until("document.getElementById('follow').getAttribute('aria-pressed') === 'false'").await;
    let before = page.eval("document.getElementById('log').scrollTop").await;
    job.count_to(&mut stage.agent, 400).await;
    page.until(&line(400)).await;
    assert_eq!(page.eval("document.getElementById('log').scrollTop").await, before);
    page.until("document.getElementById('jump').textContent.includes('100 new')").await;
    page.shot("scrolled-up").await;
    page.eval("document.getElementById('jump').click()").await;
    page.until(AT_BOTTOM).await;

    // Cuts while lines come.
    for round in 1..=5 {
        stage.wire.cut();
        job.count_to(&mut stage.agent, 400 + round * 100).await;
        page.until(&line(400 + round * 100)).await;
    }
    page.until(AT_BOTTOM).await;
    let stretch = page.eval(STRETCH).await;
    assert_eq!(
        stretch,
        serde_json::json!({ "first": 3, "last": 900, "count": 898, "dense": true, "right": true })
    );

    job.succeed(&mut stage.agent, 9).await;
    page.until("document.getElementById('state').textContent === 'Succeeded'").await;
    page.until("document.getElementById('link').textContent === 'Complete'").await;
    page.until(
        "[...document.querySelectorAll('.head .acts *')].some((button) => button.textContent === 'Stop')",
    )
    .await;
    page.shot("succeeded").await;
    stage.strike(page).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium; scripts/test runs it"]
async fn a_hundred_thousand_lines_are_read_in_windows_and_a_link_leads_to_a_line() {
    const ALL: u64 = 100_000;
    let mut stage = Stage::set().await;
    let (deployment, mut job) = stage.build("payments", "main").await;
    let mut page = stage.visit(&format!("/deployments/{}", deployment.number)).await;
    page.until(FOLDED).await;
    job.count_to(&mut stage.agent, ALL).await;
    page.until(&line(ALL)).await;
    page.until(AT_BOTTOM).await;
    let stretch = page.eval(STRETCH).await;
    assert!(stretch["dense"] == true && stretch["right"] == true, "{stretch}");
    assert!(stretch["count"].as_u64() <= Some(5000), "{stretch}");

    // All the way up by windows, and down again.
    for goal in [ALL - 4000, ALL - 8000] {
        page.until(&format!("(document.getElementById('log').scrollTop = 0, {})", line(goal))).await;
    }
    let stretch = page.eval(STRETCH).await;
    assert!(
        stretch["dense"] == true && stretch["right"] == true && stretch["count"].as_u64() <= Some(5000),
        "{stretch}"
    );
    job.count_to(&mut stage.agent, ALL + 50).await;
    page.until("document.getElementById('count').textContent === '100,050 lines'").await;
    assert_eq!(page.eval(&line(ALL + 50)).await, false);
    page.until(&format!("(document.getElementById('log').scrollTop = 1e9, {})", line(ALL + 50))).await;
    let stretch = page.eval(STRETCH).await;
    assert!(
        stretch["dense"] == true && stretch["right"] == true && stretch["count"].as_u64() <= Some(5000),
        "{stretch}"
    );

    // A link to a line, while it runs: it is shown, marked, and stays where it is.
    page.open(&format!("{}/deployments/{}#L50000-L50003", stage.url, deployment.number)).await;
    page.call("Page.reload", serde_json::json!({})).await;
    page.until("document.querySelectorAll('.hl').length === 4").await;
    page.until("(() => { const r = document.getElementById('L50000').getBoundingClientRect(), p = document.getElementById('log').getBoundingClientRect(); return r.top > p.top && r.bottom < p.bottom; })()").await;
    page.until("document.getElementById('link').textContent === 'Live'").await;
    job.count_to(&mut stage.agent, ALL + 100).await;
    page.until("document.getElementById('count').textContent === '100,100 lines'").await;
    assert_eq!(page.eval(&line(ALL + 100)).await, false);
    page.shot("link-to-line").await;

    // Click a number, then another with shift.
    page.eval("document.querySelector('#L50010 .n').click()").await;
    page.eval("document.querySelector('#L50012 .n').dispatchEvent(new MouseEvent('click', { bubbles: true, cancelable: true, shiftKey: true }))").await;
    assert_eq!(page.eval("location.hash").await, "#L50010-L50012");
    assert_eq!(page.eval("document.getElementById('copy').textContent").await, "Copy lines 50010–50012");
    page.eval("document.getElementById('log').dispatchEvent(new KeyboardEvent('keydown', { key: 'Home' }))")
        .await;
    page.until(&line(3)).await;
    page.eval("document.getElementById('jump').click()").await;
    page.until(&line(ALL + 100)).await;
    page.until(AT_BOTTOM).await;

    let failure = Failure {
        line: Some(77),
        exit_code: Some(2),
        ..Failure::new(Step::Build, FailureReason::BuildFailed, "make: *** [all] Error 2")
    };
    job.fail(&mut stage.agent, failure).await;
    page.until("document.querySelector('.failure') !== null").await;
    page.eval("document.querySelector('.failure a').click()").await;
    page.until("document.querySelector('.hl')?.id === 'L77'").await;
    page.shot("failed").await;
    stage.strike(page).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium; scripts/test runs it"]
async fn home_changes_by_itself_deploys_and_says_when_one_is_signed_out() {
    let mut stage = Stage::set().await;
    let mut page = stage.visit("/").await;
    page.until("document.body.innerText.includes('Nothing runs in a sandbox yet')").await;
    page.shot("home-empty").await;

    // Something happens elsewhere.
    let (deployment, job) = stage.build("ledger", "main").await;
    page.until(&format!(
        "document.getElementById('deployment-{}')?.innerText.includes('Building')",
        deployment.number
    ))
    .await;
    job.succeed(&mut stage.agent, 9).await;
    page.until("document.querySelector('#sandbox-alice .badge')?.textContent === 'Live'").await;

    // A name that is none, then one that is.
    page.eval("document.getElementById('branch').value = 'no..branch'; document.querySelector('#deploy-form button[type=submit]').click()").await;
    page.until("document.getElementById('deploy-problem').innerText.length > 10").await;
    assert_eq!(page.eval("document.getElementById('branch').getAttribute('aria-invalid')").await, "true");
    page.shot("home-problem").await;
    page.eval("document.getElementById('service').value = 'payments'; document.getElementById('branch').value = 'feature/refund'; document.querySelector('#deploy-form button[type=submit]').click()").await;
    page.until("location.pathname === '/deployments/2' && document.querySelector('h1')?.textContent.includes('payments')").await;
    let mut job = stage.agent.take_job().await;
    job.begin(&mut stage.agent, "Refund").await;
    page.until("document.getElementById('state').textContent === 'Building'").await;

    // Cancel asks once more.
    page.eval("document.querySelector('.head .acts button').click()").await;
    assert_eq!(page.eval("document.querySelector('.head .acts button').textContent").await, "Cancel it?");
    page.eval("document.querySelector('.head .acts button').click()").await;
    page.until("document.getElementById('state').textContent === 'Cancelling'").await;

    page.eval("fetch('/sign-out', { method: 'POST' }).then((answer) => answer.status)").await;
    stage.wire.cut();
    page.until("!document.getElementById('signed-out').hidden").await;
    page.shot("signed-out").await;
    drop(job);
    stage.strike(page).await;
}

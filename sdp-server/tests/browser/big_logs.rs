//! A log of a million lines in a real browser, and its steps that fold.

use sdp_core::failure::{Failure, FailureReason};

use super::*;

const ALL: u64 = 1_000_000;

/// Whether a line is in view.
fn in_view(n: u64) -> String {
    format!(
        "(() => {{
            const r = document.getElementById('L{n}').getBoundingClientRect();
            const p = document.getElementById('log').getBoundingClientRect();
            return r.top >= p.top && r.bottom <= p.bottom;
        }})()"
    )
}

/// Each section as its heading reads, and which lines of it are in the page.
const SECTIONS: &str = "[...document.querySelectorAll('#lines .h')].map((head) => {
    let n = 0;
    for (let row = head.nextElementSibling; row?.matches('.l'); row = row.nextElementSibling) n += 1;
    const open = head.querySelector('.fold').getAttribute('aria-expanded') === 'true';
    const [name, , count] = [...head.querySelectorAll('span')].map((part) => part.textContent);
    return `${open ? 'v' : '>'} ${name}, ${count}, ${n > 0 ? 'shown' : 'not shown'}`;
}).join('\\n')";

fn press(key: &str, shift: bool) -> String {
    format!(
        "document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {{ key: '{key}', shiftKey: {shift}, bubbles: true, cancelable: true }}))"
    )
}

fn search_for(text: &str) -> String {
    format!(
        "(() => {{ const box = document.getElementById('find-text'); box.value = '{text}'; box.dispatchEvent(new Event('input')); }})()"
    )
}

fn hit(n: u64, count: &str) -> String {
    format!(
        "document.querySelector('.hit')?.id === 'L{n}' && document.querySelector('.hit mark') !== null && {} && document.getElementById('find-count').textContent === '{count}'",
        in_view(n)
    )
}

fn fold(name: &str) -> String {
    format!(
        "[...document.querySelectorAll('#lines .fold')].find((fold) => fold.textContent.startsWith('{name}')).click()"
    )
}

/// The page takes little memory, whatever it showed.
#[expect(clippy::print_stdout, reason = "figures for people")]
async fn assert_light(page: &mut Chromium) {
    page.call("HeapProfiler.collectGarbage", serde_json::json!({})).await;
    page.call("Performance.enable", serde_json::json!({})).await;
    let metrics = page.call("Performance.getMetrics", serde_json::json!({})).await;
    let metric = |name: &str| {
        let metrics = metrics["metrics"].as_array().expect("metrics");
        metrics
            .iter()
            .find(|metric| metric["name"] == name)
            .and_then(|metric| metric["value"].as_f64())
            .expect("one")
    };
    let (used, nodes) = (metric("JSHeapUsedSize"), metric("Nodes"));
    println!("{:.1} MB of JavaScript heap, {nodes} nodes", used / 1e6);
    assert!(used < 60e6, "{used} bytes");
    assert!(nodes < 100_000.0, "{nodes} nodes");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium; scripts/test runs it"]
async fn a_million_lines_open_at_once_are_searched_and_take_little_memory() {
    let mut stage = Stage::set().await;
    let (deployment, mut job) = stage.build("payments", "main").await;
    let logs = stage.server.platform.logs().clone();
    // Line 520 is the first, 999,960 the last: 1,923 lines.
    job.flood(&mut stage.agent, &logs, ALL, 520).await;

    let mut page = stage.visit(&format!("/deployments/{}", deployment.number)).await;
    page.until(&in_view(ALL)).await;
    page.until("document.getElementById('count').textContent === '1,000,000 lines'").await;
    assert_eq!(page.eval(SECTIONS).await, "v Build, 999,998 lines, shown");
    let paint = page.eval("performance.getEntriesByName('first-contentful-paint')[0]?.startTime").await;
    println!("first paint after {paint} ms");

    // To a line by a link, while more comes.
    let jump = page
        .eval(
            "new Promise((done) => {
                const begun = performance.now();
                const look = () => document.getElementById('L500000') ? done(performance.now() - begun) : requestAnimationFrame(look);
                location.hash = '#L500000-L500003';
                look();
            })",
        )
        .await;
    println!("jump to a line in {jump} ms");
    page.until(&in_view(500_000)).await;
    assert_eq!(page.eval("document.querySelectorAll('.hl').length").await, 4);

    // A search: the count is of the whole log, next and previous go from what is in view.
    page.eval(&press("/", false)).await;
    assert_eq!(page.eval("document.activeElement.id").await, "find-text");
    page.eval(&search_for("needle")).await;
    page.until("document.getElementById('find-count').textContent === '1,923 lines'").await;
    for (key, shift, n, position) in [
        ("Enter", false, 500_240, 962),
        ("Enter", false, 500_760, 963),
        ("Enter", true, 500_240, 962),
        ("Enter", true, 499_720, 961),
    ] {
        page.eval(&press(key, shift)).await;
        page.until(&hit(n, &format!("{position} of 1,923"))).await;
    }
    assert_eq!(page.eval("document.querySelector('.hit mark').textContent").await, "Nee");
    page.shot("search").await;
    page.eval("document.getElementById('log').focus()").await;
    page.eval(&press("n", false)).await;
    page.until(&hit(500_240, "962 of 1,923")).await;
    // Round the end, and back.
    page.eval("document.getElementById('log').dispatchEvent(new KeyboardEvent('keydown', { key: 'End' }))")
        .await;
    page.until(&in_view(ALL)).await;
    page.eval("document.getElementById('find-case').click()").await;
    page.until("document.getElementById('find-count').textContent === 'Not found'").await;
    page.eval(&search_for("Needle")).await;
    page.until("document.getElementById('find-count').textContent === '1,923 lines'").await;
    page.eval(&press("N", true)).await;
    page.until(&hit(999_960, "1,923 of 1,923")).await;
    page.eval(&press("n", false)).await;
    page.until(&hit(520, "1 of 1,923, from the top")).await;
    page.eval(&press("N", true)).await;
    page.until(&hit(999_960, "1,923 of 1,923, from the end")).await;

    // What is printed meanwhile counts, too.
    job.flood(&mut stage.agent, &logs, ALL + 1040, 520).await;
    page.until("document.getElementById('find-count').textContent === '1,923 of 1,925, from the end'").await;
    page.eval(&press("n", false)).await;
    page.until(&hit(1_000_480, "1,924 of 1,925")).await;
    page.eval(&press("Escape", false)).await;
    assert_eq!(
        page.eval("[document.getElementById('find-count').textContent, document.querySelectorAll('#lines mark, .hit').length]").await,
        serde_json::json!(["", 0])
    );

    // A range is marked as a whole, but only some of it is loaded.
    page.eval("location.hash = '#L100-L900000'").await;
    page.until(&in_view(100)).await;
    let stretch = page.eval(STRETCH).await;
    assert!(stretch["count"].as_u64() <= Some(5000) && stretch["dense"] == true, "{stretch}");

    let failure = Failure {
        line: Some(777_777),
        exit_code: Some(2),
        ..Failure::new(Step::Build, FailureReason::BuildFailed, "make: *** [all] Error 2")
    };
    job.fail(&mut stage.agent, failure).await;
    page.until("document.querySelector('.failure') !== null").await;
    page.open(&format!("{}/deployments/{}", stage.url, deployment.number)).await;
    page.until(&in_view(777_777)).await;
    page.until("document.querySelector('.hl').id === 'L777777'").await;

    assert_light(&mut page).await;
    stage.strike(page).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium; scripts/test runs it"]
async fn steps_fold_and_the_one_that_failed_is_open() {
    let mut stage = Stage::set().await;
    let (deployment, mut job) = stage.build("payments", "main").await;
    let mut page = stage.visit(&format!("/deployments/{}", deployment.number)).await;
    page.until(FOLDED).await;
    page.until("document.getElementById('link').textContent === 'Live'").await;
    job.count_to(&mut stage.agent, 2000).await;
    page.until(&in_view(2000)).await;
    // Who follows sees the step that runs, the one before folds.
    job.step(&stage.agent, Step::Start).await;
    job.count_to(&mut stage.agent, 2010).await;
    page.until(&in_view(2010)).await;
    page.until(&format!("document.getElementById('L2000') === null && {SECTIONS}.includes('> Build')")).await;
    insta::assert_snapshot!(page.eval(SECTIONS).await.as_str().expect("text"), @r"
    > Resolve, 1 line, not shown
    > Fetch, 1 line, not shown
    > Build, 1,998 lines, not shown
    v Start, 10 lines, shown
    ");

    // Open the build: its beginning is shown, the rest is a scroll away, and what follows it comes after all of it.
    page.eval(&fold("Build")).await;
    page.until(&in_view(3)).await;
    page.until(&format!("(document.getElementById('log').scrollTop = 1e9, {})", line(2010))).await;
    insta::assert_snapshot!(page.eval(SECTIONS).await.as_str().expect("text"), @r"
    > Resolve, 1 line, not shown
    > Fetch, 1 line, not shown
    v Build, 1,998 lines, shown
    v Start, 10 lines, shown
    ");
    let stretch = page.eval(STRETCH).await;
    assert_eq!(
        stretch,
        serde_json::json!({ "first": 3, "last": 2010, "count": 2008, "dense": true, "right": true })
    );
    // Fold it in its midst: its heading stays in view.
    page.eval("location.hash = '#L1000'").await;
    page.until(&in_view(1000)).await;
    page.eval(&fold("Build")).await;
    assert_eq!(page.eval(&line(1000)).await, false);
    page.until(&in_view(2003)).await;
    // A reader further up keeps what is open when a step ends.
    page.eval(&fold("Build")).await;
    page.until(&in_view(3)).await;
    job.step(&stage.agent, Step::Check).await;
    job.count_to(&mut stage.agent, 2020).await;
    page.until("document.getElementById('count').textContent === '2,020 lines'").await;
    assert_eq!(page.eval(&line(3)).await, true);
    page.shot("folds").await;

    // It fails: who opens the page now sees the step that failed, at the line where it shows.
    let failure = Failure {
        line: Some(2008),
        ..Failure::new(Step::Start, FailureReason::StartFailed, "it ended at once")
    };
    job.fail(&mut stage.agent, failure).await;
    page.until("document.querySelector('.failure') !== null").await;
    assert_eq!(page.eval(&line(3)).await, true);
    page.open(&format!("{}/deployments/{}?again", stage.url, deployment.number)).await;
    page.until(&in_view(2008)).await;
    page.until("document.querySelectorAll('#lines .h').length === 5").await;
    insta::assert_snapshot!(page.eval(SECTIONS).await.as_str().expect("text"), @r"
    > Resolve, 1 line, not shown
    > Fetch, 1 line, not shown
    > Build, 1,998 lines, not shown
    v Start failed, 10 lines, shown
    > Check, 10 lines, not shown
    ");
    page.shot("failed-step").await;
    // A search goes into folded steps, and so does a link.
    page.eval(&search_for("line 1500")).await;
    page.until("document.getElementById('find-count').textContent === '1 line'").await;
    page.eval("document.getElementById('find-next').click()").await;
    page.until(&hit(1500, "1 of 1, from the top")).await;
    page.shot("failed-and-search").await;
    page.eval("location.hash = '#L2-L2015'").await;
    page.until(&in_view(2)).await;
    page.until(&format!("(document.getElementById('log').scrollTop = 1e9, {})", line(2020))).await;
    insta::assert_snapshot!(page.eval(SECTIONS).await.as_str().expect("text"), @r"
    > Resolve, 1 line, not shown
    v Fetch, 1 line, shown
    v Build, 1,998 lines, shown
    v Start failed, 10 lines, shown
    v Check, 10 lines, shown
    ");
    stage.strike(page).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium; scripts/test runs it"]
async fn lines_as_long_as_they_get_neither_fill_nor_stop_the_page() {
    const LINES: u64 = 302;
    let mut stage = Stage::set().await;
    let (deployment, mut job) = stage.build("payments", "main").await;
    // What costs a terminal most: a colour for each letter, bars that are drawn again and again, and characters to spell out.
    let kinds = ["\u{1b}[31ma\u{1b}[1mb\u{8}", "\r\u{1b}[K 50% [####    ]", "\u{202e}\0", "\u{1b}]0;"]
        .map(|kind| kind.repeat(64 * 1024 / kind.len()).into_bytes());
    let mut page = stage.visit(&format!("/deployments/{}", deployment.number)).await;
    page.until(FOLDED).await;
    page.until("document.getElementById('link').textContent === 'Live'").await;
    page.eval(
        "window.longest = 0, new PerformanceObserver((list) => {
            for (const task of list.getEntries()) window.longest = Math.max(window.longest, task.duration);
        }).observe({ type: 'longtask' })",
    )
    .await;
    // Live, while one follows.
    for n in 0..6 {
        let texts: Vec<&[u8]> = kinds.iter().map(Vec::as_slice).cycle().skip(n % 4).take(50).collect();
        job.say(&mut stage.agent, Stream::Stdout, &texts).await;
    }
    page.until(&format!("document.getElementById('count').textContent === '{LINES} lines'")).await;
    page.until(&line(LINES)).await;
    // And again by windows, from the end to the beginning and on.
    page.eval("location.hash = '#L150'").await;
    page.until(&line(150)).await;
    page.until(&format!("(document.getElementById('log').scrollTop = 0, {})", line(3))).await;
    let stretch = page.eval(STRETCH).await;
    assert!(stretch["dense"] == true && stretch["count"].as_u64() <= Some(80), "{stretch}");
    page.until(&format!("(document.getElementById('log').scrollTop = 1e9, {})", line(150))).await;
    page.eval(&search_for("50% [")).await;
    page.until("document.getElementById('find-count').textContent === '76 lines'").await;
    let longest = page.eval("window.longest").await;
    println!("the longest task took {longest} ms");
    assert_light(&mut page).await;
    stage.strike(page).await;
}

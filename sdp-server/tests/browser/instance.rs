//! What a running service prints, in a real browser.

use jiff::Timestamp;
use sdp_core::wire::OutputLine;

use super::*;

/// Lines `first` to `last`, each of them with more than a hundred bytes, a millisecond apart.
fn printed(first: u64, last: u64) -> Vec<OutputLine> {
    let line = |n: u64| OutputLine {
        at: Timestamp::from_millisecond(1_800_000_000_000 + i64::try_from(n).expect("few")).expect("a time"),
        stream: if n.is_multiple_of(100) { Stream::Stderr } else { Stream::Stdout },
        text: format!("line {n} {}", "-".repeat(100)),
    };
    (first..=last).map(line).collect()
}

/// Which lines are shown, by their numbers; what is no such line as it reads.
const SHOWN: &str = "(() => {
    const texts = [...document.querySelectorAll('#lines .x')].map((text) => text.textContent);
    const numbers = texts.map((text) => Number(/^line (\\d+) -/.exec(text)?.[1]));
    const dense = numbers.every((n, i) => i === 0 || n === numbers[i - 1] + 1);
    return { first: numbers[0], last: numbers.at(-1), count: numbers.length, dense, other: texts.filter((_, i) => !numbers[i]) };
})()";

fn newest(n: u64) -> String {
    format!("document.getElementById('lines').lastElementChild?.textContent.includes('line {n} -')")
}

fn stretch(last: u64) -> serde_json::Value {
    serde_json::json!({ "first": 1, "last": last, "count": last, "dense": true, "other": [] })
}

const HIDE: &str = "(() => {
    Object.defineProperty(document, 'hidden', { value: true, configurable: true });
    document.dispatchEvent(new Event('visibilitychange'));
})()";

const SHOW: &str =
    "(() => { delete document.hidden; document.dispatchEvent(new Event('visibilitychange')); })()";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium; scripts/test runs it"]
async fn what_a_service_prints_is_followed_and_each_line_is_shown_once_whatever_is_cut() {
    let mut stage = Stage::set().await;
    let (_, job) = stage.build("payments", "main").await;
    let instance = job.instance();
    job.succeed(&mut stage.agent, 9).await;
    let mut page = stage.visit(&format!("/instances/{instance}")).await;

    // The tail comes in several frames, then single lines.
    let mut all = printed(1, 900);
    let mut follow = stage.agent.be_followed(&all).await;
    page.until(&newest(900)).await;
    for n in 901..=905 {
        all.extend(printed(n, n));
        stage.agent.output(follow, &printed(n, n)).await;
    }
    page.until(&newest(905)).await;
    page.until(AT_BOTTOM).await;
    assert_eq!(page.eval(SHOWN).await, stretch(905));

    // Cut by the network, or left and come back to: the same tail again, and what was printed meanwhile.
    for round in 1..=3 {
        if round == 2 {
            page.eval(HIDE).await;
        } else {
            stage.wire.cut();
        }
        all.extend(printed(all.len() as u64 + 1, 905 + round * 20));
        if round == 2 {
            page.eval(SHOW).await;
        }
        follow = stage.agent.be_followed(&all).await;
        page.until(&newest(905 + round * 20)).await;
        all.extend(printed(all.len() as u64 + 1, 906 + round * 20));
        stage.agent.output(follow, &all[all.len() - 1..]).await;
        page.until(&newest(906 + round * 20)).await;
        assert_eq!(page.eval(SHOWN).await, stretch(906 + round * 20), "after cut {round}");
    }
    // More than a tail was printed meanwhile: that is said.
    stage.wire.cut();
    let later = printed(3001, 4200);
    follow = stage.agent.be_followed(&later).await;
    page.until(&newest(4200)).await;
    assert_eq!(
        page.eval(SHOWN).await["other"],
        serde_json::json!(["the connection was cut; some lines may be missing here"])
    );

    // Text is text, and colours are colours.
    let hostile = [
        "<script>alert(1)</script><img src=x onerror=alert(2)>",
        "\x1b[31mred \x1b[1;42mbold on green\x1b[0m plain",
        "\x1b]8;;javascript:alert(5)\x07click\x1b]8;;\x07 evil\u{202e}gnp.exe",
    ];
    let hostile = hostile.map(|text| OutputLine { text: text.to_owned(), ..printed(5000, 5000).remove(0) });
    stage.agent.output(follow, &hostile).await;
    page.until("document.getElementById('lines').lastElementChild.textContent.includes('gnp.exe')").await;
    let shown = page
        .eval(
            "[...document.querySelectorAll('#lines .l')].slice(-3).map((row) => {
                const pieces = [...row.querySelectorAll('.x span')].map((piece) => `${piece.className}: ${piece.textContent}`);
                return [row.className, row.querySelector('.x').textContent, ...pieces].join(' | ');
            })",
        )
        .await;
    insta::assert_snapshot!(serde_json::to_string_pretty(&shown).expect("text"), @r#"
    [
      "l err | <script>alert(1)</script><img src=x onerror=alert(2)>",
      "l err | red bold on green plain | f1: red  | b2 bo: bold on green",
      "l err | click evil⟨U+202E⟩gnp.exe | ctl: ⟨U+202E⟩"
    ]
    "#);
    let made = page.eval("document.querySelectorAll('#lines img, #lines script, #lines a').length").await;
    assert_eq!(made, 0);
    page.shot("instance").await;
    stage.strike(page).await;
}

//! Whether Slack takes every message, and how they look.

use insta::assert_snapshot;
use proptest::prelude::*;
use sdp_core::deployment::Outcome;

use super::*;
use crate::message::samples::{self, at};
use crate::message::{Action, answer, deployment as say, help};

fn shown(message: &Message) -> String {
    let rendered = super::message(message);
    check::message(&rendered);
    format!("{}\n{}", rendered.text, check::show(&rendered.blocks))
}

#[test]
fn slack_takes_every_message_whatever_it_is_about() {
    for (_, message) in samples::all() {
        check::message(&super::message(&message));
        for text in samples::hostile_texts() {
            check::message(&super::message(&samples::all_words_replaced(&message, &text)));
        }
    }
    let all = samples::all().into_iter().map(|(_, message)| message);
    check::message(&super::message(&Message::joined(all)));
    let empty = Message::new(Tone::Plain, Text::new());
    check::message(&super::message(&empty));
}

fn any_text() -> impl Strategy<Value = Text> {
    let word = prop_oneof!["\\PC{0,40}", "[<>&@*_~`!|a-z ]{0,600}", any::<String>()];
    let span = (0..6_u8, word).prop_map(|(kind, word)| match kind {
        0 => Text::new().plain(word),
        1 => Text::new().strong(word),
        2 => Text::new().dim(word),
        3 => Text::new().code(word),
        4 => Text::new().mention(word),
        _ => {
            let mut url: Url = "https://sdp.example.com/".parse().unwrap();
            url.set_fragment(Some(&word));
            Text::new().link(&url)
        }
    });
    prop::collection::vec(span, 0..6).prop_map(|spans| spans.into_iter().fold(Text::new(), Text::then))
}

fn any_message() -> impl Strategy<Value = Message> {
    let tone = prop::sample::select(vec![
        Tone::Plain,
        Tone::Waiting,
        Tone::Working,
        Tone::Good,
        Tone::Bad,
        Tone::Over,
        Tone::Note,
    ]);
    let action = (prop::sample::select(vec!["Open", "Log", "Stop"]), "\\PC{0,60}", any::<bool>()).prop_map(
        |(label, text, opens)| {
            let mut url: Url = "https://sdp.example.com/".parse().unwrap();
            url.set_path(&text);
            Action { label, does: if opens { Does::Open(url) } else { Does::Command(text) } }
        },
    );
    (
        tone,
        any_text(),
        prop::collection::vec(any_text(), 0..30),
        prop::option::of(any_text()),
        prop::collection::vec("\\PC{0,200}", 0..60),
        prop::collection::vec(action, 0..40),
    )
        .prop_map(|(tone, title, lines, notice, block, actions)| {
            Message { tone, title, lines, notice, block: Vec::new(), actions }.block(block)
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn slack_takes_any_message(message in any_message()) {
        check::message(&super::message(&message));
    }

    #[test]
    fn what_is_escaped_is_never_too_long_nor_torn(text in "[<>&a-z\u{e9}]{0,300}", max in 1..100_usize) {
        let escaped = escaped(&text, max);
        prop_assert!(escaped.chars().count() <= max && !escaped.is_empty());
        let back = escaped.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
        prop_assert_eq!(plain(&back), escaped);
    }
}

#[test]
fn a_deployment_from_queue_to_end() {
    let mut text = String::new();
    for one in
        [samples::deployment(), samples::running(), samples::ended(Outcome::Succeeded {}), samples::failed()]
    {
        let mut facts = samples::thread(&one).facts;
        facts.queue_position = Some(2);
        facts.usual = Some(std::time::Duration::from_secs(130));
        text += &shown(&say::root(&one, &facts, None, at(0)));
        text += "\n";
    }
    assert_snapshot!(text, @r"
    ⏳ #412 payments feature/refund → alice: queued, 2nd in line
    :hourglass_flowing_sand: *#412 payments* `feature/refund` → *alice*: *queued*, 2nd in line
    [Log](https://sdp.example.com/deployments/1) [Cancel](cancel 412)

    🔵 #412 payments feature/refund → alice: building 1 min 30 s (1 min 40 s in all, usually 2 min 10 s)
    :large_blue_circle: *#412 payments* `feature/refund` → *alice*: *building* 1 min 30 s (1 min 40 s in all, usually 2 min 10 s)
    `1a2b3c4d` Add refunds <!channel> & more · Åsa <asa@example.com>
    [Log](https://sdp.example.com/deployments/1) [Cancel](cancel 412)

    ✅ #412 payments feature/refund → alice: running after 1 min 20 s
    :white_check_mark: *#412 payments* `feature/refund` → *alice*: *running* after 1 min 20 s
    `1a2b3c4d` Add refunds <!channel> & more · Åsa <asa@example.com>
    _url_ <http://payments.alice.localhost/>
    [Open]!(http://payments.alice.localhost/) [Log](https://sdp.example.com/deployments/1) [Redeploy](redeploy 412) [Roll back](rollback 412) [Stop]?(stop 412)

    ❌ #412 payments feature/refund → alice: failed in build after 1 min 20 s
    :x: *#412 payments* `feature/refund` → *alice*: *failed in build* after 1 min 20 s
    `1a2b3c4d` Add refunds <!channel> & more · Åsa <asa@example.com>
    [Log](https://sdp.example.com/deployments/1) [Deploy again]!(deploy payments feature/refund)
    ");
}

#[test]
fn a_failure_calls_who_asked_and_shows_the_last_lines() {
    let one = samples::failed();
    let Some(Outcome::Failed { failure }) = one.outcome() else { panic!("{one:?}") };
    let mut facts = samples::thread(&one).facts;
    facts.asked_by = Some("U024BE7LH".parse().unwrap());
    facts.tail = vec!["# payments".to_owned(), "main.go:7: undefined: Refund <!here>".to_owned()];
    let message = say::failure(&one, failure, &facts);
    assert_snapshot!(shown(&message), @r"
    ❌ <@U024BE7LH> build failed: the build ended with an error (exit code 2)
    :x: <@U024BE7LH> *build failed*: the build ended with an error (exit code 2)
    undefined: Refund in <main.go>; did you mean feature/refunds?
    _next_ read the last lines of the log, mend the branch and deploy again
    _log_ <https://sdp.example.com/deployments/1#L123>
    | # payments
    | main.go:7: undefined: Refund <!here>
    [Deploy again]!(deploy payments feature/refund)
    ");
    let json = serde_json::to_string_pretty(&super::message(&message).blocks).unwrap();
    assert_snapshot!(json, @r##"
    [
      {
        "type": "rich_text",
        "elements": [
          {
            "type": "rich_text_section",
            "elements": [
              {
                "type": "emoji",
                "name": "x"
              },
              {
                "type": "text",
                "text": " "
              },
              {
                "type": "user",
                "user_id": "U024BE7LH"
              },
              {
                "type": "text",
                "text": " "
              },
              {
                "type": "text",
                "text": "build failed",
                "style": {
                  "bold": true
                }
              },
              {
                "type": "text",
                "text": ": the build ended with an error (exit code 2)\nundefined: Refund in <main.go>; did you mean feature/refunds?\n"
              },
              {
                "type": "text",
                "text": "next",
                "style": {
                  "italic": true
                }
              },
              {
                "type": "text",
                "text": " read the last lines of the log, mend the branch and deploy again\n"
              },
              {
                "type": "text",
                "text": "log",
                "style": {
                  "italic": true
                }
              },
              {
                "type": "text",
                "text": " "
              },
              {
                "type": "link",
                "url": "https://sdp.example.com/deployments/1#L123"
              }
            ]
          },
          {
            "type": "rich_text_preformatted",
            "elements": [
              {
                "type": "text",
                "text": "# payments\nmain.go:7: undefined: Refund <!here>"
              }
            ]
          }
        ]
      },
      {
        "type": "actions",
        "elements": [
          {
            "type": "button",
            "action_id": "sdp:1:deploy-again",
            "text": {
              "type": "plain_text",
              "text": "Deploy again",
              "emoji": false
            },
            "value": "deploy payments feature/refund",
            "style": "primary"
          }
        ]
      }
    ]
    "##);
}

#[test]
fn what_is_not_a_users_id_is_a_name_that_calls_nobody() {
    for name in ["alice", "here", "channel", "!here", "U1", "U024be7lh", "S012345", "U024BE7LH>", ""] {
        let message = Message::new(Tone::Bad, Text::new().mention(name).plain(" look"));
        let text = shown(&message);
        assert!(!text.contains("<@"), "{text}");
    }
    let message = Message::new(Tone::Bad, Text::new().mention("W024BE7LH").plain(" look"));
    assert_snapshot!(shown(&message), @r"
    ❌ <@W024BE7LH> look
    :x: <@W024BE7LH> look
    ");
}

#[test]
fn status_help_and_a_refusal() {
    let view = samples::sandbox("alice", samples::instances());
    let mut text = shown(&answer::sandbox(&view, &[samples::running()], &Default::default(), at(0)));
    text += &shown(&help::help(None));
    text += &shown(&answer::refused(&samples::away()));
    assert_snapshot!(text, @r"
    alice of alice
    *alice* of alice
    *payments* `1a2b3c4d` running for 1 h 06 min
      <http://payments.alice.localhost/>
    *payments* `1a2b3c4d` starting
    *payments* `1a2b3c4d` running for 1 h 06 min, restarted twice: it crashed (exit code 2)
      <http://payments.alice.localhost/>
    *payments* `1a2b3c4d` unhealthy (GET /healthz answered 500) for 1 h 06 min
      <http://payments.alice.localhost/>
    *payments* `1a2b3c4d` being replaced
    *payments* `1a2b3c4d` *DOWN*: its agent is gone
      _next_ `redeploy payments in alice` starts it again; `stop payments in alice` sends its requests to the baseline
    *payments* `1a2b3c4d` *DOWN*: it crashed (exit code 2)
      |  18 panic: <nil> & no money
      |  19 panic: <nil> & no money
      |  20 panic: <nil> & no money
      _next_ `redeploy payments in alice` starts it again; `stop payments in alice` sends its requests to the baseline
    *payments* `1a2b3c4d` *DOWN*: it ran out of memory
      |  18 panic: <nil> & no money
      |  19 panic: <nil> & no money
      |  20 panic: <nil> & no money
      _next_ `redeploy payments in alice` starts it again; `stop payments in alice` sends its requests to the baseline
    *payments* `1a2b3c4d` *DOWN*: it could not be started again: its build is gone
      |  18 panic: <nil> & no money
      |  19 panic: <nil> & no money
      |  20 panic: <nil> & no money
      _next_ `redeploy payments in alice` starts it again; `stop payments in alice` sends its requests to the baseline
    *payments* `1a2b3c4d` stopped
    *#412 payments* `feature/refund` → *alice*: build
    [Redeploy](redeploy payments in alice)
    what you can say
    what you can say
    `deploy <service> [branch|tag|commit] [to <sandbox>] [KEY=value …]`  build a branch and run it in your sandbox
    `status [sandbox|412]`  what runs, and where a deployment stands
    `open <service> [in <sandbox>]`  its address in a sandbox
    `logs <service|412> [in <sandbox>] [n]`  what a running service prints, or the end of a build
    `rollback <service|412> [in <sandbox>]`  deploy what ran before
    everything else: `help all`
    ❌ SDP's server does not answer at the moment. Nothing was done.
    :x: SDP's server does not answer at the moment. Nothing was done.
    that is http://sdp answered 502, not as SDP does: Bad Gateway
    _next_ try again in a minute; what already runs goes on without it
    ");
}

#[test]
fn the_server_is_away_is_a_remark_below() {
    let one = samples::running();
    let mut facts = samples::thread(&one).facts;
    facts.away_since = Some(at(-90));
    assert_snapshot!(shown(&say::root(&one, &facts, None, at(0))), @r"
    🔵 #412 payments feature/refund → alice: building 1 min 30 s
    :large_blue_circle: *#412 payments* `feature/refund` → *alice*: *building* 1 min 30 s
    `1a2b3c4d` Add refunds <!channel> & more · Åsa <asa@example.com>
    (⚠️ SDP's server has not answered for 1 min 30 s; what runs goes on, but this may be out of date)
    [Log](https://sdp.example.com/deployments/1) [Cancel](cancel 412)
    ");
}

#[test]
fn what_is_too_long_loses_the_last_lines_of_words_and_the_first_of_output() {
    let lines = (0..400).map(|n| format!("line {n} {}", "x".repeat(100)));
    let message = (0..200).fold(Message::new(Tone::Plain, Text::from("much")), |message, n| {
        message.line(Text::new().plain(format!("row {n} {}", "y".repeat(100))))
    });
    let message = message.block(lines).offer("Stop", "stop 412");
    let text = shown(&message).replace(&"x".repeat(100), "x").replace(&"y".repeat(100), "y");
    let lines: Vec<&str> = text.lines().collect();
    let gap = lines.iter().position(|line| line.starts_with("and ")).unwrap();
    let around =
        [&lines[..3], &["[…]"], &lines[gap - 1..gap + 3], &["[…]"], &lines[lines.len() - 3..]].concat();
    assert_snapshot!(around.join("\n"), @r"
    much
    much
    row 0 y
    […]
    row 44 y
    and 155 more
    | …
    | line 166 x
    […]
    | line 198 x
    | line 199 x
    [Stop]?(stop 412)
    ");
}

#[test]
fn buttons_ask_before_they_end_something_and_say_what_they_are_about() {
    let message = Message::new(Tone::Plain, Text::from("two"))
        .offer("Redeploy", "redeploy payments in alice")
        .offer("Redeploy", "redeploy ledger in alice")
        .offer("Stop", "stop payments in alice")
        .offer("Stop it", "stop 412")
        .offer("Delete", "sandbox delete qa-42")
        .offer("Cancel", "cancel 412")
        .offer("Long", "x".repeat(2001))
        .open("Mail", &"mailto:a@example.com".parse().unwrap());
    let blocks = super::message(&message).blocks;
    assert_snapshot!(check::show(&blocks), @r"
    two
    [Redeploy payments in alice](redeploy payments in alice) [Redeploy ledger in alice](redeploy ledger in alice) [Stop]?(stop payments in alice) [Stop it]?(stop 412) [Delete]?(sandbox delete qa-42) [Cancel](cancel 412)
    ");
    let json = serde_json::to_value(&blocks).unwrap();
    let confirms: Vec<String> = json[1]["elements"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|button| button.get("confirm"))
        .map(|asks| {
            ["title", "text", "confirm", "deny"].map(|part| asks[part]["text"].as_str().unwrap()).join(" | ")
        })
        .collect();
    assert_snapshot!(confirms.join("\n"), @r"
    Stop it? | payments in alice stops, and its requests go to the baseline. You can deploy it again at any time. | Stop | Let it run
    Stop it? | What #412 left running stops, and its requests go to the baseline. You can deploy it again at any time. | Stop | Let it run
    Delete the sandbox? | All that runs in qa-42 stops, and qa-42 is no more. Nothing else is touched. | Delete | Keep it
    ");
}

//! Whether Slack takes the form, and what comes back from it.

use insta::assert_snapshot;
use sdp_core::api::BranchList;

use super::super::render::check;
use super::*;
use crate::message::{answer, samples};

fn form(services: &[&str], chosen: Option<&str>) -> Form {
    Form {
        services: services.iter().map(|name| name.parse().unwrap()).collect(),
        chosen: chosen.map(|name| name.parse().unwrap()),
        own_sandbox: Some("alice".parse().unwrap()),
        origin: Origin::new("C024BE91L"),
    }
}

fn shown(view: &SlackView) -> String {
    check::view(view);
    let SlackView::Modal(modal) = view else { panic!("{view:?}") };
    let json = serde_json::to_value(modal).unwrap();
    let word = |name: &str| json[name]["text"].as_str().unwrap_or_default().to_owned();
    for name in ["title", "submit", "close"] {
        assert!(word(name).chars().count() <= 24);
    }
    let metadata = json["private_metadata"].as_str().unwrap();
    assert!(metadata.len() <= MAX_METADATA);
    format!(
        "{} {metadata}\n{}[{}] [{}]\n",
        word("title"),
        check::show(&modal.blocks),
        word("submit"),
        word("close")
    )
}

/// What Slack sends when the form is sent; a field that is empty is null.
fn sent(
    service: Option<&str>,
    branch: Option<&str>,
    sandbox: Option<&str>,
    variables: Option<&str>,
) -> Value {
    let chosen = |value: Option<&str>| value.map(|value| json!({ "text": {}, "value": value }));
    let branch_block = service.map_or_else(|| "branch".to_owned(), |service| format!("branch:{service}"));
    json!({
        "private_metadata": "{\"conversation\":\"C024BE91L\"}",
        "blocks": [{ "block_id": "service" }, { "block_id": branch_block }],
        "state": { "values": {
            "service": { SERVICE: { "type": "static_select", "selected_option": chosen(service) } },
            branch_block: { BRANCH: { "type": "external_select", "selected_option": chosen(branch) } },
            "sandbox": { SANDBOX: { "type": "plain_text_input", "value": sandbox } },
            "variables": { VARIABLES: { "type": "plain_text_input", "value": variables } },
        } }
    })
}

#[test]
fn the_form_is_there_at_once_then_filled_then_asks_for_branches_of_what_was_chosen() {
    let mut text = shown(&loading(&Origin::new("C024BE91L")));
    text += &shown(&deploy(&form(&["ledger", "payments"], None)));
    text += &shown(&deploy(&form(&["ledger", "payments"], Some("payments"))));
    text += &shown(&deploy(&Form { own_sandbox: None, ..form(&["ledger"], None) }));
    text += &shown(&deploy(&form(&[], None)));
    text += &shown(&unavailable(&answer::refused(&samples::away())));
    assert_snapshot!(text, @r#"
    Deploy {"conversation":"C024BE91L"}
    (Looking which services there are…)
    [] [Close]
    Deploy {"conversation":"C024BE91L"}
    Service: one of “Which service?” {service}
    Branch, tag or commit (optional): search “Choose a service first” {branch}
    Sandbox (optional): text “alice (your own)” {sandbox}
    Variables (optional): text “LOG_LEVEL=debug” {variables}
    [Deploy] [Cancel]
    Deploy {"conversation":"C024BE91L"}
    Service: one of “Which service?” {service}
    Branch, tag or commit (optional): search “The last one there, else the default” {branch:payments}
    Sandbox (optional): text “alice (your own)” {sandbox}
    Variables (optional): text “LOG_LEVEL=debug” {variables}
    [Deploy] [Cancel]
    Deploy {"conversation":"C024BE91L"}
    Service: one of “Which service?” {service}
    Branch, tag or commit (optional): search “The last one there, else the default” {branch:ledger}
    Sandbox: text “Which sandbox?” {sandbox}
    Variables (optional): text “LOG_LEVEL=debug” {variables}
    [Deploy] [Cancel]
    Deploy {"conversation":""}
    There is no service in the catalog yet.
    _next_ an administrator adds them: sdp-server apply catalog.toml
    [] [Close]
    Deploy {"conversation":""}
    :x: SDP's server does not answer at the moment. Nothing was done.
    that is http://sdp answered 502, not as SDP does: Bad Gateway
    _next_ try again in a minute; what already runs goes on without it
    [] [Close]
    "#);
}

#[test]
fn many_services_are_searched_and_any_refusal_can_be_shown() {
    let names: Vec<String> = (0..150).map(|n| format!("s{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let text = shown(&deploy(&form(&names, Some("s149"))));
    assert!(text.contains("Service: search “Which service?” {service}"), "{text}");
    shown(&deploy(&form(&names[..MAX_OPTIONS], None)));
    for (_, message) in samples::all() {
        shown(&unavailable(&message));
        for text in samples::hostile_texts() {
            shown(&unavailable(&samples::all_words_replaced(&message, &text)));
        }
    }
    let long = Origin::new(&"x".repeat(4000));
    shown(&loading(&long));
}

#[test]
fn what_is_sent_is_what_could_be_typed() {
    for (view, typed) in [
        (sent(Some("payments"), None, None, None), "deploy payments"),
        (
            sent(Some("payments"), Some("feature/a"), Some(" QA-42 "), None),
            "deploy payments feature/a to qa-42",
        ),
        (
            sent(
                Some("payments"),
                Some("refs/tags/v1"),
                Some("  "),
                Some("LOG_LEVEL=debug\n\n NOTE=a b=c \nQ=\"x\"\n"),
            ),
            "deploy payments refs/tags/v1 LOG_LEVEL=debug NOTE=\"a b=c\" Q=x",
        ),
    ] {
        let (deploy, origin) = submitted(&view).unwrap();
        assert_eq!(deploy.to_string(), typed);
        assert_eq!(origin, Origin::new("C024BE91L"));
        assert_eq!(origin_of(&view), origin);
    }
    assert_eq!(origin_of(&json!({ "private_metadata": "no json" })), Origin::default());
    assert_eq!(origin_of(&Value::Null), Origin::default());
}

#[test]
fn what_is_refused_is_said_beside_its_field_and_no_secret_is_repeated() {
    let mut text = String::new();
    let long = format!("A={}\nB={}", "x".repeat(1900), "y".repeat(1900));
    let longer = format!("{long}\nC={}", "z".repeat(1900));
    for view in [
        Value::Null,
        json!({ "state": { "values": [] } }),
        sent(None, None, None, None),
        sent(Some("<!channel>"), None, None, None),
        sent(Some("payments"), Some("a..b"), None, None),
        sent(Some("payments"), Some("to"), None, None),
        sent(Some("payments"), None, Some("Å b"), None),
        sent(Some("payments"), None, Some("ghp_0123456789012345678901234567"), None),
        sent(Some("payments"), None, None, Some("DEBUG=1\nhunter2")),
        sent(Some("payments"), None, None, Some("debug=hunter2")),
        sent(Some("payments"), None, None, Some("DB_PASSWORD=hunter2")),
        sent(Some("payments"), None, None, Some("URL=https://bob:hunter2@example.com/")),
        sent(Some("payments"), None, None, Some("PATH=hunter2")),
        sent(Some("payments"), None, None, Some("A=1\nA=hunter2")),
        sent(Some("payments"), None, None, Some(&format!("A={}", "hunter2".repeat(400)))),
        sent(Some("payments"), None, None, Some(&longer)),
    ] {
        let refused = submitted(&view).unwrap_err().to_json();
        assert_eq!(refused["response_action"], "errors");
        text += &format!("{}\n", refused["errors"]);
    }
    submitted(&sent(Some("payments"), None, None, Some(&long))).unwrap();
    assert!(!text.contains("hunter2") && !text.contains("ghp_"), "{text}");
    assert_snapshot!(text, @r#"
    {"service":"Which service?"}
    {"service":"Which service?"}
    {"service":"Which service?"}
    {"service":"Which service?"}
    {"branch:payments":"“a..b” is no valid branch, tag or commit."}
    {"branch:payments":"This branch cannot be named in a command; try refs/heads/…."}
    {"sandbox":"“Å b” cannot be its name – expected: lower-case letters, digits and hyphens, beginning with a letter, at most 40"}
    {"sandbox":"That looks like a secret, and it does not belong in a chat. Nothing was done with it. Ask an administrator to set it as a secret of the service."}
    {"variables":"Line 2 is not KEY=value with a key in capitals."}
    {"variables":"Line 1 is not KEY=value with a key in capitals."}
    {"variables":"That looks like a secret, and it does not belong in a chat. Nothing was done with it. Ask an administrator to set it as a secret of the service."}
    {"variables":"That looks like a secret, and it does not belong in a chat. Nothing was done with it. Ask an administrator to set it as a secret of the service."}
    {"variables":"“PATH” cannot be set. – expected: upper-case letters, digits and _, beginning with a letter; not PATH, PORT, HOME, LD_*, DYLD_*, GIT_*, DOCKER_*, SDP_*"}
    {"variables":"A is there twice."}
    {"variables":"The value of A must be one line of at most 2000 bytes."}
    {"variables":"All together may have 4000 characters at most."}
    "#);
}

#[test]
fn what_the_server_refuses_is_said_beside_the_field_that_it_is_about() {
    let view = sent(Some("payments"), Some("main"), Some("qa"), None);
    let message = answer::refused(&samples::away());
    let mut text = String::new();
    for code in ["unknown_service", "unknown_sandbox", "sandbox_full", "secret_in_chat", "queue_full", ""] {
        let json = refused_by_server(&view, &message, code);
        let errors = json["errors"].as_object().unwrap();
        text += &format!("{code}: {:?}\n", errors.keys().collect::<Vec<_>>());
    }
    text += &refused_by_server(&view, &message, "x")["errors"].to_string();
    assert_snapshot!(text, @r#"
    unknown_service: ["service"]
    unknown_sandbox: ["sandbox"]
    sandbox_full: ["sandbox"]
    secret_in_chat: ["variables"]
    queue_full: ["branch:payments"]
    : ["branch:payments"]
    {"branch:payments":"SDP's server does not answer at the moment. Nothing was done. – that is http://sdp answered 502, not as SDP does: Bad Gateway – next try again in a minute; what already runs goes on without it"}
    "#);
}

#[test]
fn which_service_is_meant_is_in_the_fields_name_or_chosen_beside_it() {
    let payload = |block: &str, chosen: Option<&str>| {
        let view = sent(chosen, None, None, None);
        service_of_suggestion(&json!({ "block_id": block, "view": view })).map(|name| name.to_string())
    };
    assert_eq!(payload("branch:payments", Some("ledger")).as_deref(), Some("payments"));
    assert_eq!(payload("branch", Some("ledger")).as_deref(), Some("ledger"));
    assert_eq!(payload("branch:<b>", None), None);
    assert_eq!(service_of_suggestion(&Value::Null), None);

    let chosen = |action: &str, value: &str| {
        let action = json!({ "action_id": action, "selected_option": { "value": value } });
        service_chosen(&json!({ "actions": [{ "action_id": "other" }, action] })).map(|name| name.to_string())
    };
    assert_eq!(chosen(SERVICE, "payments").as_deref(), Some("payments"));
    assert_eq!(chosen(SERVICE, "Å"), None);
    assert_eq!(chosen("other", "payments"), None);
    assert_eq!(service_chosen(&json!({ "actions": {} })), None);
}

/// What is offered, checked as Slack would: `group: text = value`.
fn offered(options: &Value) -> String {
    let read = |name: &str, options: &Value| -> String {
        let options = options.as_array().unwrap();
        assert!(options.len() <= MAX_OPTIONS);
        let lines = options.iter().map(|option| {
            slackblocks::SelectOption::try_from(option.clone()).unwrap();
            let text = option["text"]["text"].as_str().unwrap();
            assert!(!text.contains(['<', '>', '\u{202e}']));
            format!("{name}{text} = {}\n", option["value"].as_str().unwrap())
        });
        lines.collect()
    };
    match options["option_groups"].as_array() {
        None => read("", &options["options"]),
        Some(groups) => {
            let all: usize = groups.iter().map(|group| group["options"].as_array().unwrap().len()).sum();
            assert!(all <= MAX_OPTIONS, "{all}");
            let groups = groups.iter().map(|group| {
                slackblocks::SelectOptionGroup::try_from(group.clone()).unwrap();
                read(&format!("{}: ", group["label"]["text"].as_str().unwrap()), &group["options"])
            });
            groups.collect()
        }
    }
}

#[test]
fn branches_come_before_tags_and_before_what_is_none_of_them() {
    let list = samples::branch_list(&["feature/a", "main", "v1"], &["v0", "v1"]);
    let mut text = offered(&options_branches(&list, ""));
    text += &format!("---\n{}", offered(&options_branches(&list, "v1")));
    text += &format!("---\n{}", offered(&options_branches(&list, "1a2b3c4d")));
    text += &format!("---\n{}", offered(&options_branches(&samples::branch_list(&[], &[]), "no branch")));
    text += &format!("---\n{}", offered(&no_options()));
    assert_snapshot!(text, @r"
    Branches: main = main
    Branches: feature/a = feature/a
    Branches: v1 = refs/heads/v1
    Tags: v0 = v0
    Tags: v1 = refs/tags/v1
    ---
    Branches: v1 = refs/heads/v1
    Branches: feature/a = feature/a
    Branches: main = main
    Tags: v1 = refs/tags/v1
    Tags: v0 = v0
    ---
    Branches: feature/a = feature/a
    Branches: main = main
    Branches: v1 = refs/heads/v1
    Tags: v0 = v0
    Tags: v1 = refs/tags/v1
    As typed: 1a2b3c4d = 1a2b3c4d
    ---
    ---
    ");
}

#[test]
fn a_name_that_is_too_long_keeps_its_end_or_is_left_out_and_there_are_a_hundred_at_most() {
    let long = format!("feature/{}-end", "x".repeat(100));
    let longest = "y".repeat(151);
    let hostile = "a&b&c&d&e&f&g&h&i&j&k&l&m&n&o&p&q&r&s&t&u&v&w&x&y&z".repeat(2);
    let list = samples::branch_list(&[&long, &longest, &hostile], &[]);
    assert_snapshot!(offered(&options_branches(&list, "")), @r"
    Branches: feature/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…xxxxxxxxxxxxxxxxxxxxx-end = feature/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx-end
    Branches: a&amp;b&amp;c&amp;d&amp;e&amp;f&amp;g&amp;h&amp;i&amp;j&amp;k&amp;l&amp;m… = a&b&c&d&e&f&g&h&i&j&k&l&m&n&o&p&q&r&s&t&u&v&w&x&y&za&b&c&d&e&f&g&h&i&j&k&l&m&n&o&p&q&r&s&t&u&v&w&x&y&z
    ");

    let many: Vec<String> = (0..300).map(|n| format!("b{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let list: BranchList = samples::branch_list(&many[..80], &many[80..]);
    for typed in ["", "b", "b299", "new", "b7"] {
        let text = offered(&options_branches(&list, typed));
        assert_eq!(text.lines().count(), MAX_OPTIONS);
        assert!(typed.is_empty() || text.contains(&format!("= {typed}\n")), "{typed}: {text}");
    }
    let text = offered(&options_branches(&samples::branch_list(&many, &many), ""));
    assert_eq!(text.lines().count(), MAX_OPTIONS);
}

#[test]
fn services_are_found_by_a_part_of_their_name() {
    let services = samples::services(&["ledger", "payments", "old-ledger"]);
    assert_snapshot!(offered(&options_services(&services, "LED ")), @r"
    ledger = ledger
    old-ledger = old-ledger
    ");
    assert_eq!(offered(&options_services(&services, "")).lines().count(), 3);
    assert_eq!(offered(&options_services(&services, "<!channel>")), "");
}

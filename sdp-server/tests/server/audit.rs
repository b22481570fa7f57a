//! The audit: every request that was to change something leaves one entry, and no other one does.

use reqwest::Method;
use sdp_core::api::{AuditEntry, AuditList, AuditVia, AuditWho, TokenKind};
use sdp_core::audit::{AuditFilter, Chain};
use sdp_core::principal::Role;
use serde_json::{Value, json};

use crate::harness::{Host, ok, refused};
use crate::roles::log_in;

async fn entries(host: &Host) -> Vec<AuditEntry> {
    let list: AuditList = ok(host.get("/api/v1/audit?limit=500").send().await.expect("answered"), 200).await;
    list.entries
}

#[tokio::test]
async fn each_write_leaves_one_entry_and_a_read_none() {
    let host = Host::start().await;
    let document: Value = ok(host.get("/api/v1/openapi.json").send().await.expect("answered"), 200).await;
    let mut written = entries(&host).await.len();
    assert_eq!(written, 0);
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("item") {
            let id = operation["operationId"].as_str().expect("an id");
            // Whoever comes in has no entry before they are somebody; a feed never ends.
            let is_open = operation["security"].as_array().is_some_and(Vec::is_empty);
            if is_open || path.starts_with("/ws/") || ["follow_events", "enrol"].contains(&id) {
                continue;
            }
            let is_write = method != "get";
            let method: Method = method.to_uppercase().parse().expect("a method");
            let address = path.replace(['{', '}'], "");
            let request = host.with(&host.admin, method, &address);
            let request = if is_write { request.json(&json!({})) } else { request };
            let answer = request.timeout(std::time::Duration::from_secs(20)).send().await.expect("answered");
            let request_id = answer.headers()["x-request-id"].to_str().expect("text").to_owned();
            let code = match answer.status().is_success() {
                true => "done".to_owned(),
                false => {
                    let problem: Value = answer.json().await.expect("a problem");
                    problem["code"].as_str().expect("a code").to_owned()
                }
            };
            let now = entries(&host).await;
            assert_eq!(now.len(), written + usize::from(is_write), "{id}");
            if is_write {
                let newest = &now[0];
                assert_eq!((newest.action.as_str(), newest.result.as_str()), (id, code.as_str()));
                assert_eq!(newest.request.as_deref(), Some(request_id.as_str()));
                assert_eq!((newest.via, newest.address.as_deref()), (AuditVia::Api, Some("127.0.0.1")));
            }
            written = now.len();
        }
    }
    assert!(written > 15, "{written}");
    host.stop().await;
}

#[tokio::test]
async fn it_says_who_what_and_from_where_and_is_brought_out_whole() {
    let host = Host::start_with(|config| config.login.trust_bot = false).await;
    host.hello().await;
    let bot = host.token(TokenKind::Bot, "chat").await;
    let dan = log_in(&host, "dan", Role::Developer).await;
    let deploy = json!({ "service": "hello", "git_ref": "feature/x" });
    let page = host.bare(Method::POST, "/api/v1/deployments").json(&deploy);
    let page = page.header("cookie", format!("sdp={}", dan.session.expose()));
    refused(page.try_clone().expect("small"), 403, "cross_site").await;
    assert_eq!(page.header("origin", &host.url).send().await.expect("answered").status(), 202);
    let chat = |user: &str| {
        host.with(&bot, Method::POST, "/api/v1/deployments").json(&deploy).header("sdp-on-behalf-of", user)
    };
    assert_eq!(chat("U-dan").send().await.expect("answered").status(), 202);
    refused(chat("U-eve"), 403, "login_needed").await;
    refused(
        host.with("sdp_nonsense", Method::POST, "/api/v1/deployments").json(&deploy),
        401,
        "unauthorised",
    )
    .await;
    let secret = host.with(&host.admin, Method::DELETE, &format!("/api/v1/tokens/{}", host.admin));
    assert_eq!(secret.send().await.expect("answered").status(), 404);

    let shown: Vec<String> = entries(&host)
        .await
        .iter()
        .rev()
        .map(|e| {
            let who = match &e.who {
                AuditWho::Known { principal } => principal.to_string(),
                other => other.to_string(),
            };
            let target = e.target.as_deref().unwrap_or("-");
            format!("{who} {} {} | {target} | {}", e.via.as_str(), e.action, e.result)
        })
        .collect();
    insta::assert_snapshot!(shown.join("\n"), @r"
    admin api create_service | hello | done
    admin api create_token | chat (bot) | done
    dan page create_deployment | - | cross_site
    dan page create_deployment | #1 hello feature/x to dan | done
    dan chat create_deployment | #2 hello feature/x to dan | done
    “U-eve in the chat of chat” chat create_deployment | - | login_needed
    admin api delete_token | [a token] | unknown_token
    ");

    let export = host.get("/api/v1/audit/export").send().await.expect("answered");
    assert_eq!(export.headers()["content-type"], "application/x-ndjson");
    let lines = export.text().await.expect("a body");
    let brought: Vec<AuditEntry> =
        lines.lines().map(|line| serde_json::from_str(line).expect("an entry")).collect();
    let mut listed = entries(&host).await;
    listed.reverse();
    assert_eq!(brought, listed);
    let audit = sdp_core::audit::Audit::of(&host.platform);
    assert_eq!(audit.verify().await.expect("read"), Chain::Whole { entries: brought.len() as u64 });
    let one = AuditFilter { who: Some("dan".into()), limit: 10, ..AuditFilter::default() };
    assert_eq!(audit.list(one).await.expect("listed").len(), 3);
    let page = host.get("/audit?who=dan&action=&result=&via=page");
    refused(page.try_clone().expect("small").bearer_auth(&bot), 401, "unauthorised").await;
    let page = page.send().await.expect("answered");
    assert_eq!(page.status(), 200);
    assert!(page.text().await.expect("a page").contains("#1 hello feature/x to dan"));
    host.stop().await;
}

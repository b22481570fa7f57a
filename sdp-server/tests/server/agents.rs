//! Agents enrol, are drained, removed; and whoever is revoked is out at once, whatever they hold open.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use reqwest::{Method, Response};
use sdp_core::api::{AgentList, AgentView, Enrolled, EnrolmentCreated, TokenKind};
use sdp_core::principal::Role;
use sdp_core::wire::{ByeReason, ToAgent};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{Host, hello_frame, ok, problem, refused};
use crate::roles::log_in;
use crate::sockets::{Socket, bearer, connect, say, to_agent};

/// Long before anything is looked at again by the clock.
const AT_ONCE: Duration = Duration::from_secs(5);

async fn enrolment(host: &Host, agent: &str) -> String {
    let made = host.post(&format!("/api/v1/agents/{agent}/enrolment"), &json!({})).send().await;
    let made: EnrolmentCreated = ok(made.expect("answered"), 201).await;
    assert_eq!(made.agent.as_str(), agent);
    made.token.expose().to_owned()
}

async fn enrol(host: &Host, enrolment: &str) -> Response {
    host.with(enrolment, Method::POST, "/api/v1/enrol").send().await.expect("answered")
}

async fn join(host: &Host, token: &str) -> Socket {
    let mut socket =
        connect(host, "/ws/agent", &[("authorization", &bearer(token))]).await.expect("connected");
    say(&mut socket, hello_frame()).await;
    assert!(matches!(to_agent(&mut socket).await, Ok(ToAgent::Welcome { .. })));
    socket
}

/// Waits until an agent's socket is closed for good.
async fn thrown_out(socket: &mut Socket) {
    let begun = Instant::now();
    let end = async {
        loop {
            match to_agent(socket).await {
                Ok(ToAgent::Bye { reason, .. }) => assert_eq!(reason, ByeReason::Unauthorised),
                Ok(_) => {}
                Err(code) => return code,
            }
        }
    };
    let code = tokio::time::timeout(AT_ONCE, end).await.expect("at once");
    assert!(matches!(code, 1001 | 4401), "{code} after {:?}", begun.elapsed());
}

async fn close_code(socket: &mut Socket) -> u16 {
    let end = async {
        loop {
            match socket.next().await {
                Some(Ok(Message::Close(Some(close)))) => return close.code.into(),
                Some(Ok(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    };
    tokio::time::timeout(AT_ONCE, end).await.expect("at once")
}

async fn agents(host: &Host) -> Vec<AgentView> {
    ok::<AgentList>(host.get("/api/v1/agents").send().await.expect("answered"), 200).await.agents
}

#[tokio::test]
async fn an_enrolment_gives_one_agent_its_token_and_opens_nothing_else() {
    let host = Host::start().await;
    let made = enrolment(&host, "vm-7").await;
    for path in ["/api/v1/me", "/api/v1/agents", "/metrics"] {
        refused(host.with(&made, Method::GET, path), 401, "unauthorised").await;
    }
    refused(host.with(&made, Method::POST, "/api/v1/deployments"), 401, "unauthorised").await;
    assert_eq!(connect(&host, "/ws/agent", &[("authorization", &bearer(&made))]).await.expect_err("no"), 401);

    // Two at once: one wins, and the other hears what whoever has a wrong one hears.
    let (one, two) = tokio::join!(enrol(&host, &made), enrol(&host, &made));
    let (won, lost) = if one.status() == 200 { (one, two) } else { (two, one) };
    let enrolled: Enrolled = ok(won, 200).await;
    let lost = problem(lost, 401).await;
    let wrong = problem(enrol(&host, &made.replace("sdpe_", "sdpa_")).await, 401).await;
    assert_eq!((&lost.code, &lost.title, &lost.hint), (&wrong.code, &wrong.title, &wrong.hint));
    let ci = host.token(TokenKind::Deploy, "ci").await;
    for other in [&host.admin, &ci, enrolled.token.expose(), "sdpe_", "nonsense"] {
        assert_eq!(problem(enrol(&host, other).await, 401).await.code, "unauthorised");
    }
    refused(host.bare(Method::POST, "/api/v1/enrol"), 401, "unauthorised").await;
    let twice = host.with(&made, Method::POST, "/api/v1/enrol").header("authorization", bearer(&made));
    refused(twice, 401, "unauthorised").await;

    let audit = host.get("/api/v1/audit").send().await.expect("answered").text().await.expect("text");
    assert_eq!(audit.matches("\"action\":\"enrol\"").count(), 1, "{audit}");
    assert!(!audit.contains("sdpe_") && !audit.contains("sdpa_"));

    // An agent's token is for the socket, and the socket for an agent's token.
    let token = enrolled.token.expose();
    for path in ["/api/v1/me", "/api/v1/agents", "/api/v1/services"] {
        refused(host.with(token, Method::GET, path), 403, "forbidden").await;
    }
    refused(host.with(token, Method::POST, "/api/v1/agents/vm-8/enrolment"), 403, "forbidden").await;
    for other in [&ci, &host.admin] {
        let refused = connect(&host, "/ws/agent", &[("authorization", &bearer(other))]).await;
        assert_eq!(refused.expect_err("no agent's"), 403);
    }
    // Which agent it is comes with the token: there is no place in a hello to say another name.
    let _socket = join(&host, token).await;
    let names: Vec<_> = agents(&host).await.into_iter().map(|agent| agent.name.to_string()).collect();
    assert_eq!(names, ["vm-7"]);
    refused(host.post("/api/v1/agents/ci/enrolment", &json!({})), 409, "token_exists").await;
    refused(host.post("/api/v1/agents/VM_1/enrolment", &json!({})), 422, "invalid_name").await;
    host.stop().await;
}

#[tokio::test]
async fn an_agent_that_is_enrolled_anew_or_revoked_or_removed_is_out_at_once() {
    let host = Host::start().await;
    let first = host.token(TokenKind::Agent, "vm-7").await;
    let mut socket = join(&host, &first).await;
    // Anew: with another process, say, while the old one is still there.
    let enrolled: Enrolled = ok(enrol(&host, &enrolment(&host, "vm-7").await).await, 200).await;
    thrown_out(&mut socket).await;
    let refused_now = connect(&host, "/ws/agent", &[("authorization", &bearer(&first))]).await;
    assert_eq!(refused_now.expect_err("worthless"), 401);

    // Its token alone: it stays listed, away.
    let mut socket = join(&host, enrolled.token.expose()).await;
    let gone = host.with(&host.admin, Method::DELETE, "/api/v1/tokens/vm-7").send().await.expect("answered");
    assert_eq!(gone.status(), 204);
    assert!(!agents(&host).await[0].connected, "when that is answered it is thrown out");
    thrown_out(&mut socket).await;

    // As a whole: it is gone from lists and metrics.
    let enrolled: Enrolled = ok(enrol(&host, &enrolment(&host, "vm-7").await).await, 200).await;
    let mut socket = join(&host, enrolled.token.expose()).await;
    let metrics = async || host.get("/metrics").send().await.expect("answered").text().await.expect("text");
    assert!(metrics().await.contains("agent=\"vm-7\""));
    let remove = |name: &str| host.with(&host.admin, Method::DELETE, &format!("/api/v1/agents/{name}"));
    assert_eq!(remove("vm-7").send().await.expect("answered").status(), 204);
    thrown_out(&mut socket).await;
    assert_eq!(agents(&host).await, []);
    let metrics = metrics().await;
    assert!(!metrics.contains("agent=\"vm-7\""), "{metrics}");
    let again = connect(&host, "/ws/agent", &[("authorization", &bearer(enrolled.token.expose()))]).await;
    assert_eq!(again.expect_err("worthless"), 401);
    refused(remove("vm-7"), 404, "unknown_agent").await;
    // One that never came, but could have.
    let unused = enrolment(&host, "vm-8").await;
    assert_eq!(remove("vm-8").send().await.expect("answered").status(), 204);
    assert_eq!(enrol(&host, &unused).await.status(), 401);
    host.stop().await;
}

#[tokio::test]
async fn an_agent_with_work_is_drained_first_or_removed_by_force() {
    let host = Host::start().await;
    host.hello().await;
    let mut agent = host.agent().await;
    let created = host.deploy().await;
    agent.take().await;
    let remove = |query: &str| host.with(&host.admin, Method::DELETE, &format!("/api/v1/agents/vm-1{query}"));
    let in_use = refused(remove(""), 409, "agent_in_use").await;
    assert_eq!(in_use.title, format!("The agent vm-1 still has deployments: #{}", created.number));
    refused(remove("?force=maybe"), 422, "invalid_query").await;
    for (verb, draining) in [("drain", true), ("resume", false)] {
        let answer = host.with(&host.admin, Method::POST, &format!("/api/v1/agents/vm-1/{verb}")).send();
        let view: AgentView = ok(answer.await.expect("answered"), 200).await;
        assert_eq!(view.draining, draining);
        let unknown = host.with(&host.admin, Method::POST, &format!("/api/v1/agents/vm-2/{verb}"));
        refused(unknown, 404, "unknown_agent").await;
    }
    assert_eq!(remove("?force=true").send().await.expect("answered").status(), 204);
    let ended = host.get(&format!("/api/v1/deployments/{}?wait=20", created.number)).send().await;
    let ended: serde_json::Value = ok(ended.expect("answered"), 200).await;
    assert_eq!(ended["deployment"]["state"]["outcome"]["failure"]["reason"], "agent_lost", "{ended}");
    host.stop().await;
}

#[tokio::test]
async fn what_a_viewer_holds_open_ends_with_their_token_or_session() {
    let host = Host::start_with(|config| config.login.trust_bot = false).await;
    host.hello().await;
    let created = host.deploy().await;
    host.token(TokenKind::Bot, "chat").await;
    let path = format!("/ws/deployments/{}", created.number);
    let read = host.token(TokenKind::Read, "read").await;
    let other = host.token(TokenKind::Read, "other").await;
    let vera = log_in(&host, "vera", Role::Viewer).await;
    let cookie = format!("sdp={}", vera.session.expose());
    let mut by_token = connect(&host, &path, &[("authorization", &bearer(&read))]).await.expect("connected");
    let mut by_other = connect(&host, &path, &[("authorization", &bearer(&other))]).await.expect("connected");
    let mut by_session =
        connect(&host, &path, &[("cookie", &cookie), ("origin", &host.url)]).await.expect("connected");
    let mut feed =
        host.with(&read, Method::GET, "/api/v1/events").send().await.expect("answered").bytes_stream();

    let revoked = host.with(&host.admin, Method::DELETE, "/api/v1/tokens/read").send();
    assert_eq!(revoked.await.expect("answered").status(), 204);
    assert_eq!(close_code(&mut by_token).await, 4401);
    let to_end = async { while feed.next().await.is_some_and(|bytes| bytes.is_ok()) {} };
    tokio::time::timeout(AT_ONCE, to_end).await.expect("the feed ends at once");

    let out = host.bare(Method::POST, "/api/v1/logout").header("cookie", &cookie).header("origin", &host.url);
    assert!(out.send().await.expect("answered").status().is_success());
    assert_eq!(close_code(&mut by_session).await, 4401);

    // Whoever was not meant goes on.
    let revoked = host.with(&host.admin, Method::DELETE, "/api/v1/tokens/other").send();
    assert_eq!(revoked.await.expect("answered").status(), 204);
    assert_eq!(close_code(&mut by_other).await, 4401, "until it is");
    host.stop().await;
}

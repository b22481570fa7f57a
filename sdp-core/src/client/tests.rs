//! The client against the far side of the wire: a socket that reads what the client really sends and answers with what
//! a server, or something else at its address, would.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::client::feed::EventFilter;
use crate::deployment::Step;
use crate::id::EventSeq;
use crate::wire::Stream;

async fn listen() -> (TcpListener, Client) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let client = Client::new(base.parse().unwrap(), Secret::new("sdp_secret")).unwrap();
    (listener, client)
}

/// Accepts one connection and reads one request's head.
async fn request(listener: &TcpListener) -> (TcpStream, String) {
    let (mut socket, _) = listener.accept().await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.unwrap());
    }
    (socket, String::from_utf8(head).unwrap())
}

async fn answer(listener: &TcpListener, status: &str, content_type: &str, body: &str) -> String {
    let (mut socket, head) = request(listener).await;
    let length = body.len();
    let response = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    );
    socket.write_all(response.as_bytes()).await.unwrap();
    head
}

#[tokio::test]
async fn a_request_carries_token_and_person_and_its_path_is_escaped() {
    let (listener, client) = listen().await;
    let client = client.on_behalf_of("alice@example.com".parse().unwrap());
    let service = "hello".parse().unwrap();
    let (head, branches) = tokio::join!(
        answer(&listener, "200 OK", "application/json", r#"{"head":"main","branches":[],"tags":[]}"#),
        client.branches(&service, Some("a b&c")),
    );
    assert_eq!(branches.unwrap().head.as_deref(), Some("main"));
    assert!(head.starts_with("GET /api/v1/services/hello/branches?q=a+b%26c HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("\r\nauthorization: Bearer sdp_secret\r\n"), "{head}");
    assert!(head.contains("\r\nsdp-on-behalf-of: alice@example.com\r\n"), "{head}");
    assert!(!format!("{client:?}").contains("sdp_secret"));
}

#[tokio::test]
async fn repositories_are_asked_for_with_and_without_a_text() {
    let (listener, client) = listen().await;
    let body =
        r#"{"repositories":[{"name":"shop/web","url":"https://git.example/shop/web.git"}],"complete":false}"#;
    let (head, list) = tokio::join!(
        answer(&listener, "200 OK", "application/json", body),
        client.repositories(Some("shop/web"))
    );
    let list = list.unwrap();
    assert_eq!(
        (list.repositories[0].url.as_str(), list.complete),
        ("https://git.example/shop/web.git", false)
    );
    assert!(head.starts_with("GET /api/v1/repositories?q=shop%2Fweb HTTP/1.1\r\n"), "{head}");
    let empty = r#"{"repositories":[],"complete":true}"#;
    let (head, list) =
        tokio::join!(answer(&listener, "200 OK", "application/json", empty), client.repositories(None));
    assert!(list.unwrap().complete && head.starts_with("GET /api/v1/repositories HTTP/1.1\r\n"), "{head}");
}

#[tokio::test]
async fn a_server_that_is_asked_too_often_says_when_to_come_again_and_is_obeyed() {
    let (listener, client) = listen().await;
    let body = r#"{"type":"about:blank","status":429,"code":"too_many_requests","title":"You ask too often","hint":"try again in 7 s"}"#;
    let head = "429 Too Many Requests\r\nretry-after: 7";
    let (_, services) =
        tokio::join!(answer(&listener, head, "application/problem+json", body), client.services());
    let error = services.unwrap_err();
    assert_eq!((error.code(), error.hint()), ("too_many_requests", Some("try again in 7 s")));
    assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
    assert!(error.is_away(), "waiting heals it");
    let mut feed = client.feed(EventSeq(1), EventFilter::default());
    let (_, item) = tokio::join!(answer(&listener, head, "application/problem+json", body), feed.next());
    let Some(Ok(FeedItem::Away { retry_in, .. })) = item else { panic!("{item:?}") };
    assert!(retry_in >= Duration::from_secs(7), "{retry_in:?}");
    for (said, seconds) in [("soon", 1), ("0", 1), ("999999999999", 3600), ("-1", 1)] {
        let headers = HeaderMap::from_iter([(RETRY_AFTER, said.parse().unwrap())]);
        assert_eq!(retry_after(&headers).as_secs(), seconds, "{said}");
    }
}

#[tokio::test]
async fn authorities_of_ones_own_are_a_pem_file_or_refused() {
    let client = |pem: &[u8]| {
        Client::with_authorities("https://sdp.example.com".parse().unwrap(), Secret::new("sdp_secret"), pem)
    };
    let error = client(b"nonsense").unwrap_err();
    assert_eq!(error.code(), "invalid_setup");
    assert!(error.to_string().contains("no certificate"), "{error}");
}

#[tokio::test]
async fn a_search_asks_for_what_is_wanted_and_nothing_else() {
    let (listener, client) = listen().await;
    let body = r#"{"lines":1202,"complete":true,"total":1922,"matches":[{"n":7,"position":3}]}"#;
    let plain = LogSearch { text: "a&b=ü".to_owned(), ..LogSearch::default() };
    let deployment = "412".parse().unwrap();
    let (head, found) = tokio::join!(
        answer(&listener, "200 OK", "application/json", body),
        client.search_log(deployment, &plain)
    );
    let found = found.unwrap();
    assert_eq!((found.total, found.matches[0].n, found.matches[0].position), (1922, 7, 3));
    assert!(
        head.starts_with("GET /api/v1/deployments/412/logs/search?q=a%26b%3D%C3%BC HTTP/1.1\r\n"),
        "{head}"
    );
    let exact = LogSearch {
        match_case: true,
        step: Some(Step::Build),
        stream: Some(Stream::Stderr),
        first: Some(2),
        from: Some(9),
        up: true,
        limit: Some(1),
        ..plain
    };
    let (head, found) = tokio::join!(
        answer(&listener, "200 OK", "application/json", body),
        client.search_log(deployment, &exact)
    );
    found.unwrap();
    let query = "&match_case=true&step=build&stream=stderr&first=2&from=9&direction=up&limit=1 HTTP/1.1";
    assert!(head.contains(query), "{head}");
}

#[tokio::test]
async fn what_is_ones_own_is_asked_for_by_its_address() {
    let (listener, client) = listen().await;
    let client = client.on_behalf_of("U024BE7LH".parse().unwrap());
    let body = r#"{"principal":{"kind":"bot","name":"chat","person":"alice"},"role":"developer","account":null,
        "own_sandbox":"alice","chat_user":"U024BE7LH","bound_until":"2026-01-01T00:00:00Z","login":true}"#;
    let (head, me) = tokio::join!(answer(&listener, "200 OK", "application/json", body), client.me());
    let me = me.unwrap();
    assert_eq!((me.own_sandbox.as_str(), me.login), ("alice", true));
    assert!(head.starts_with("GET /api/v1/me HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("\r\nsdp-on-behalf-of: U024BE7LH\r\n"), "{head}");
    let link = r#"{"url":"https://sdp.example.com/login/x","expires_at":"2026-01-01T00:00:00Z"}"#;
    let (head, made) =
        tokio::join!(answer(&listener, "201 Created", "application/json", link), client.login_link());
    assert_eq!(made.unwrap().url.path(), "/login/x");
    assert!(head.starts_with("POST /api/v1/login-links HTTP/1.1\r\n"), "{head}");
    let alice = "alice+work@example.com".parse().unwrap();
    let person = r#"{"name":"alice","role":"viewer","git_origin":"https://git.example.com","git_user":"alice",
        "created_at":"2026-01-01T00:00:00Z","logged_in_at":"2026-01-01T00:00:00Z","has_credential":false}"#;
    let (head, changed) = tokio::join!(
        answer(&listener, "200 OK", "application/json", person),
        client.set_role(&alice, crate::principal::Role::Viewer)
    );
    assert_eq!(changed.unwrap().role, crate::principal::Role::Viewer);
    assert!(head.starts_with("PUT /api/v1/people/alice+work@example.com HTTP/1.1\r\n"), "{head}");
    for (list, path) in [
        (r#"{"sessions":[]}"#, "me/sessions"),
        (r#"{"bindings":[]}"#, "me/bindings"),
        (r#"{"people":[]}"#, "people"),
    ] {
        let asked = async {
            match path {
                "me/sessions" => client.sessions().await.map(|list| list.len()),
                "me/bindings" => client.bindings().await.map(|list| list.len()),
                _ => client.people().await.map(|list| list.len()),
            }
        };
        let (head, count) = tokio::join!(answer(&listener, "200 OK", "application/json", list), asked);
        assert_eq!(count.unwrap(), 0);
        assert!(head.starts_with(&format!("GET /api/v1/{path} HTTP/1.1\r\n")), "{head}");
    }
    let (session, binding) = (crate::id::SessionId::new(), crate::id::BindingId::new());
    let wanted = [
        "DELETE /api/v1/me/sessions".to_owned(),
        format!("DELETE /api/v1/me/sessions/{session}"),
        format!("DELETE /api/v1/me/bindings/{binding}"),
        "DELETE /api/v1/people/alice+work@example.com".to_owned(),
        "POST /api/v1/logout".to_owned(),
    ];
    for (n, wanted) in wanted.iter().enumerate() {
        let asked = async {
            match n {
                0 => client.log_out_everywhere().await,
                1 => client.delete_session(session).await,
                2 => client.delete_binding(binding).await,
                3 => client.delete_person(&alice).await,
                _ => client.log_out().await,
            }
        };
        let (head, done) = tokio::join!(answer(&listener, "204 No Content", "text/plain", ""), asked);
        done.unwrap();
        assert!(head.starts_with(&format!("{wanted} HTTP/1.1\r\n")), "{head}");
    }
}

#[tokio::test]
async fn a_problem_keeps_its_code_and_hint() {
    let (listener, client) = listen().await;
    let body = r#"{"type":"about:blank","status":404,"code":"unknown_service","title":"There is no service helo.",
        "hint":"say services","did_you_mean":"hello"}"#;
    let service = "helo".parse().unwrap();
    let (_, result) = tokio::join!(
        answer(&listener, "404 Not Found", "application/problem+json", body),
        client.service(&service)
    );
    let error = result.unwrap_err();
    assert_eq!((error.code(), error.hint()), ("unknown_service", Some("say services")));
    assert_eq!(error.to_string(), "There is no service helo.");
    assert!(!error.is_away());
}

#[tokio::test]
async fn a_proxys_page_is_told_apart_from_an_answer_of_sdp() {
    let (listener, client) = listen().await;
    let page = "<h1>502\u{1b}[2J Bad Gateway</h1>";
    let (_, result) =
        tokio::join!(answer(&listener, "502 Bad Gateway", "text/html", page), client.services());
    let error = result.unwrap_err();
    assert_eq!(error.code(), "unexpected_answer");
    assert!(error.is_away());
    assert!(!error.to_string().contains('\u{1b}'), "{error}");

    let (_, result) = tokio::join!(answer(&listener, "302 Found", "text/html", ""), client.services());
    assert_eq!(result.unwrap_err().hint(), Some("redirects are not followed; give the URL that it leads to"));
    let (_, result) =
        tokio::join!(answer(&listener, "200 OK", "application/json", r#"{"x":1}"#), client.services());
    assert_eq!(result.unwrap_err().code(), "malformed_answer");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named() {
    let (listener, client) = listen().await;
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = client.services().await.unwrap_err();
    assert_eq!(error.code(), "unreachable");
    assert_eq!(error.to_string(), format!("no connection to http://{address}"));
}

#[test]
fn an_unusable_url_or_token_is_refused_at_once() {
    for (base, token) in
        [("ftp://x", "t"), ("https://u:p@x", "t"), ("http://x", "a\nb"), ("http://x", "ü\u{7f}")]
    {
        let error = Client::new(base.parse().unwrap(), Secret::new(token)).unwrap_err();
        assert_eq!(error.code(), "invalid_setup", "{base} {token:?}");
    }
}

fn event(seq: u64, kind: &str) -> String {
    format!(
        "id: {seq}\nevent: x\ndata: {{\"seq\":{seq},\"at\":\"2026-01-01T00:00:00Z\",\"by\":{{\"kind\":\"system\"}},\
         \"about\":{{}},\"kind\":{{\"type\":\"{kind}\"}}}}\n\n"
    )
}

#[tokio::test]
async fn the_feed_goes_on_after_a_cut_where_it_was_and_skips_what_it_does_not_know() {
    let (listener, client) = listen().await;
    let mut events = client.events(EventSeq(4), EventFilter::default());
    let server = async {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
        let (mut socket, first) = request(&listener).await;
        let body = format!(
            "{head}: hi\n\n{}{}{}data: {{\"half",
            event(5, "agent_disconnected"),
            event(6, "of_the_future"),
            event(7, "sandbox_created")
        );
        socket.write_all(body.as_bytes()).await.unwrap();
        drop(socket);
        // The proxy before the server answers while that starts.
        answer(&listener, "503 Service Unavailable", "text/html", "starting").await;
        let (mut socket, second) = request(&listener).await;
        socket.write_all(format!("{head}{}", event(9, "sandbox_deleted")).as_bytes()).await.unwrap();
        drop(socket);
        // The token was taken back.
        let body = r#"{"status":401,"code":"unauthorised","title":"no"}"#;
        answer(&listener, "401 Unauthorized", "application/problem+json", body).await;
        (first, second)
    };
    let reader = async {
        let mut seen = Vec::new();
        loop {
            match events.next().await {
                Some(Ok(event)) => seen.push(event.seq.0),
                Some(Err(error)) => break (seen, error.code().to_owned()),
                None => panic!("ended without a reason"),
            }
        }
    };
    let ((first, second), (seen, end)) = tokio::join!(server, reader);
    assert_eq!((seen, end.as_str()), (vec![5, 7, 9], "unauthorised"));
    assert!(first.contains("after=4") && first.contains("last-event-id: 4"), "{first}");
    assert!(second.contains("after=7") && second.contains("last-event-id: 7"), "{second}");
    assert!(events.next().await.is_none());
}

#[tokio::test]
async fn a_feed_from_now_asks_for_nothing_that_was() {
    let (listener, client) = listen().await;
    let mut feed = client.feed_from_now(EventFilter::default());
    let body = r#"{"status":410,"code":"feed_gone","title":"gone"}"#;
    let (head, item) =
        tokio::join!(answer(&listener, "410 Gone", "application/problem+json", body), feed.next());
    assert!(head.starts_with("GET /api/v1/events HTTP/1.1") && !head.contains("last-event-id"), "{head}");
    assert_eq!(item.unwrap().unwrap_err().code(), "feed_gone");
}

use std::os::unix::fs::PermissionsExt as _;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::*;

const ENROLMENT: &str = "sdpe_0123456789";
const TOKEN: &str = "sdpa_abcdefghij";

/// A far side that takes one request and answers with these bytes; gives what it was asked.
struct Far {
    url: Url,
    asked: JoinSet<String>,
}

impl Far {
    async fn answers(answer: impl Into<String>) -> Self {
        let (listener, answer) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), answer.into());
        let url = format!("http://{}/sdp", listener.local_addr().unwrap()).parse().unwrap();
        let mut asked = JoinSet::new();
        asked.spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).await.unwrap();
                request.push(byte[0]);
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(request).unwrap()
        });
        Self { url, asked }
    }

    async fn says(status: &str, body: &str) -> Self {
        Self::answers(format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())).await
    }

    async fn right() -> Self {
        Self::says("200 OK", &format!(r#"{{"agent":"vm-1","token":"{TOKEN}"}}"#)).await
    }

    fn enrolment(&self, token_file: &Path) -> Enrolment {
        Enrolment::new(&self.url, None, token_file).unwrap()
    }
}

fn names(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).unwrap();
    names.map(|found| found.unwrap().file_name().into_string().unwrap()).collect()
}

#[tokio::test]
async fn the_agents_token_is_in_its_file_and_nobody_else_can_read_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agent.token");
    let mut far = Far::right().await;
    let agent = far.enrolment(&file).enrol(&Secret::new(ENROLMENT), false).await.unwrap();
    assert_eq!(agent.as_str(), "vm-1");
    let request = far.asked.join_next().await.unwrap().unwrap().to_lowercase();
    assert!(request.starts_with("post /sdp/api/v1/enrol http/1.1\r\n"), "{request}");
    assert!(request.contains(&format!("authorization: bearer {ENROLMENT}\r\n")), "{request}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), format!("{TOKEN}\n"));
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(names(folder.path()), ["agent.token"]);
}

#[tokio::test]
async fn a_token_that_is_there_is_not_written_over_unless_that_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agent.token");
    std::fs::write(&file, "before").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let far = Far::right().await;
    let enrolment = far.enrolment(&file);
    let error = enrolment.enrol(&Secret::new(ENROLMENT), false).await.unwrap_err();
    assert_eq!(error.code(), "token_there");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "before");
    // The server was not asked: the same enrolment works now.
    enrolment.enrol(&Secret::new(ENROLMENT), true).await.unwrap();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), format!("{TOKEN}\n"));
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn what_could_fail_is_tried_before_the_enrolment_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let mut far = Far::right().await;
    let nowhere = far.enrolment(&folder.path().join("missing/agent.token"));
    let error = nowhere.enrol(&Secret::new(ENROLMENT), false).await.unwrap_err();
    assert_eq!(error.code(), "cannot_write");
    let file = folder.path().join("agent.token");
    for other in ["", "sdpa_abc", "sdp_abc", "sdpe_\u{7f}"] {
        let error = far.enrolment(&file).enrol(&Secret::new(other), false).await.unwrap_err();
        assert_eq!(error.code(), "not_an_enrolment", "{other:?}");
    }
    assert!(far.asked.try_join_next().is_none(), "nobody was asked");
    assert_eq!(names(folder.path()), Vec::<String>::new());
}

#[tokio::test]
async fn what_goes_wrong_is_told_apart_and_nothing_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agent.token");
    let problem = r#"{"type":"about:blank","status":409,"code":"token_exists","title":"a token named vm-1 exists already","hint":"revoke it first"}"#;
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url: Url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        url
    };
    let fars = [
        Far::says("401 Unauthorized", "{}").await,
        Far::says("409 Conflict", problem).await,
        Far::says("301 Moved Permanently", "<html>").await,
        Far::answers("").await,
        Far::answers("HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{\"agent\":").await,
        Far::says("200 OK", "{\"hello\":\"world\"}").await,
        Far::says("200 OK", &" ".repeat(100_000)).await,
        Far { url: closed, asked: JoinSet::new() },
    ];
    let mut told = Vec::new();
    for far in &fars {
        let error = far.enrolment(&file).enrol(&Secret::new(ENROLMENT), false).await.unwrap_err();
        let text = error.to_string().replace(far.url.as_str(), "URL");
        told.push(format!("{}: {text}\n  {}", error.code(), error.hint()));
        assert!(!format!("{error:?}").contains(ENROLMENT));
    }
    insta::assert_snapshot!(told.join("\n"), @r"
    enrolment_refused: the server refuses this enrolment token
      it works once, for an hour, until a newer one is made for the same agent: ask an admin for another one
    server_refused: the server answered 409 Conflict: a token named vm-1 exists already
      revoke it first
    server_refused: the server answered 301 Moved Permanently: no SDP server says that
      look at the server's log, then try again
    answer_lost: the server at URL was asked, but its answer did not arrive: client error (SendRequest): connection closed before message completed
      ask an admin for another enrolment token (`sdp-server enrol NAME` on the server's host): this one may be used up, and the next one makes whatever it gave worthless
    answer_lost: the server at URL was asked, but its answer did not arrive: error reading a body from connection
      ask an admin for another enrolment token (`sdp-server enrol NAME` on the server's host): this one may be used up, and the next one makes whatever it gave worthless
    answer_lost: the server at URL was asked, but its answer did not arrive: it is not what an SDP server says
      ask an admin for another enrolment token (`sdp-server enrol NAME` on the server's host): this one may be used up, and the next one makes whatever it gave worthless
    answer_lost: the server at URL was asked, but its answer did not arrive: length limit exceeded
      ask an admin for another enrolment token (`sdp-server enrol NAME` on the server's host): this one may be used up, and the next one makes whatever it gave worthless
    server_unreachable: cannot reach the server at URL
      check server and ca_file in the configuration; the enrolment token still works
    ");
    assert_eq!(names(folder.path()), Vec::<String>::new());
}

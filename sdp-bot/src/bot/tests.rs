//! The bot between a chat and the far side of the wire: a socket that answers as the server would, one request each.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::*;
use crate::chat::{Abilities, Request};
use sdp_core::secret::Secret;

const LINK: &str = "https://sdp.example.com/login/once";

/// What the server answers, by method and path; and all that it was asked.
struct Far {
    client: Client,
    answers: Arc<Mutex<BTreeMap<String, (u16, Value)>>>,
    asked: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

impl Far {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let client = Client::new(base, Secret::new("sdpb_secret")).unwrap();
        let answers = Arc::<Mutex<BTreeMap<String, (u16, Value)>>>::default();
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let mut tasks = JoinSet::new();
        let (known, heard) = (answers.clone(), asked.clone());
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                let (known, heard) = (known.clone(), heard.clone());
                connections.spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        let Ok(byte) = socket.read_u8().await else { return };
                        head.push(byte);
                    }
                    let head = String::from_utf8(head).unwrap();
                    let mut words = head.split(' ');
                    let path = words.by_ref().take(2).collect::<Vec<_>>().join(" ");
                    let path = path.split('?').next().unwrap().to_owned();
                    heard.lock().unwrap().push(path.clone());
                    let unknown = (404, json!({ "status": 404, "code": "not_found", "title": "Not found" }));
                    let (status, body) = known.lock().unwrap().get(&path).cloned().unwrap_or(unknown);
                    let kind = if status < 300 { "application/json" } else { "application/problem+json" };
                    let body = if status == 204 { String::new() } else { body.to_string() };
                    let answer = format!(
                        "HTTP/1.1 {status} x\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                        body.len()
                    );
                    drop(socket.write_all(answer.as_bytes()).await);
                });
            }
        });
        Self { client, answers, asked, _tasks: tasks }
    }

    fn answers(&self, path: &str, status: u16, body: Value) {
        self.answers.lock().unwrap().insert(path.to_owned(), (status, body));
    }

    /// Who the user of the chat is from now on.
    fn knows(&self, account: Option<&str>, role: &str) {
        let person = account.map(|name| {
            json!({ "name": name, "role": role, "git_origin": "https://git.example.com", "git_user": name,
                "created_at": "2026-01-01T00:00:00Z", "logged_in_at": "2026-01-01T00:00:00Z", "has_credential": true })
        });
        let principal = match account {
            Some(name) => json!({ "kind": "bot", "name": "chat", "person": name }),
            None => json!({ "kind": "token", "name": "chat" }),
        };
        let me = json!({ "principal": principal, "role": role, "account": person, "login": true,
            "chat_user": "U024BE7LH", "own_sandbox": account.unwrap_or("chat"),
            "bound_until": account.map(|_| "2026-02-01T00:00:00Z") });
        self.answers("GET /api/v1/me", 200, me);
    }

    /// How often something was asked since this was asked last.
    fn count(&self, path: &str) -> usize {
        let mut asked = self.asked.lock().unwrap();
        let count = asked.iter().filter(|asked| *asked == path).count();
        asked.retain(|asked| asked != path);
        count
    }
}

fn refused(status: u16, code: &str) -> (u16, Value) {
    (status, json!({ "status": status, "code": code, "title": "this is not allowed" }))
}

/// Types something as a user of the chat; what is said, and to whom if not to all.
async fn typed(bot: &Bot, queue: &mut mpsc::Receiver<Request>, text: &str) -> (String, Option<String>) {
    let said = Said::new(Some("U024BE7LH".parse().unwrap()), Conversation("C1".into()), text);
    let listen = async {
        match queue.recv().await.expect("it says something") {
            Request::Post { message, done, .. } => {
                done.send(Ok(crate::chat::Place("p".into()))).unwrap();
                (message.to_plain(), None)
            }
            Request::Whisper { message, person, done, .. } => {
                done.send(Ok(())).unwrap();
                (message.to_plain(), Some(person.to_string()))
            }
            other => panic!("{other:?}"),
        }
    };
    let (heard, said) = tokio::join!(bot.hear(said), listen);
    heard.unwrap();
    said
}

fn chat() -> (Chat, mpsc::Receiver<Request>) {
    Chat::new(Abilities {
        edit_every: Duration::ZERO,
        tick: None,
        private: true,
        places_survive: true,
        watched: false,
        paced: false,
    })
}

#[tokio::test]
async fn a_link_to_log_in_is_whispered_to_whoever_asked_alone() {
    let far = Far::start().await;
    far.knows(None, "viewer");
    far.answers(
        "POST /api/v1/login-links",
        201,
        json!({ "url": LINK, "expires_at": "2026-01-01T00:10:00Z" }),
    );
    let (chat, mut queue) = chat();
    let (bot, _follower) = Bot::new(far.client.clone(), chat, Store::in_memory().unwrap());
    let (said, to) = typed(&bot, &mut queue, "/sdp login").await;
    assert_eq!(to.as_deref(), Some("U024BE7LH"));
    assert!(said.contains(LINK) && said.contains("do not pass it on"), "{said}");
    // Where nobody logs in, everybody may hear it.
    let (status, problem) = refused(404, "no_login");
    far.answers("POST /api/v1/login-links", status, problem);
    far.knows(Some("alice"), "developer");
    let (said, to) = typed(&bot, &mut queue, "login").await;
    assert_eq!(to, None);
    assert!(said.contains("Nobody logs in") && said.contains("You are alice all the same"), "{said}");
}

#[tokio::test]
async fn who_somebody_is_is_asked_once_a_while_but_of_strangers_each_time() {
    let far = Far::start().await;
    let store = Store::in_memory().unwrap();
    let (chat, mut queue) = chat();
    let (bot, _follower) = Bot::new(far.client.clone(), chat, store.clone());
    let empty = serde_json::to_value(crate::message::samples::sandbox("alice", Vec::new())).unwrap();
    far.answers("GET /api/v1/sandboxes/alice", 200, empty.clone());
    far.answers("GET /api/v1/instances", 200, json!({ "instances": [] }));
    far.answers("GET /api/v1/deployments", 200, json!({ "deployments": [] }));
    far.answers("GET /api/v1/sandboxes", 200, json!({ "sandboxes": [empty] }));
    far.answers(
        "POST /api/v1/login-links",
        201,
        json!({ "url": LINK, "expires_at": "2026-01-01T00:10:00Z" }),
    );
    far.answers("POST /api/v1/logout", 204, Value::Null);

    far.knows(None, "viewer");
    for _ in 0..2 {
        let (said, _) = typed(&bot, &mut queue, "status").await;
        assert!(said.contains("You are not logged in, so none is yours"), "{said}");
        assert_eq!(far.count("GET /api/v1/me"), 1);
    }
    let (said, _) = typed(&bot, &mut queue, "list mine").await;
    assert!(said.contains("none is yours"), "{said}");
    // She logs in on the page, and is known from her next word on.
    typed(&bot, &mut queue, "login").await;
    far.knows(Some("alice"), "developer");
    far.count("GET /api/v1/me");
    for asked in [1, 0, 0] {
        let (said, _) = typed(&bot, &mut queue, "status").await;
        assert!(said.contains("· alice of alice"), "the sandbox of the account: {said}");
        assert_eq!(far.count("GET /api/v1/me"), asked);
    }
    let (said, _) = typed(&bot, &mut queue, "list mine").await;
    assert!(said.contains("your sandbox") && said.contains("alice: nothing runs"), "{said}");
    let account = "alice".parse().unwrap();
    assert_eq!(store.chat_user_of(&account).await.unwrap(), Some("U024BE7LH".parse().unwrap()));
    // Logged out, and what was known of her is forgotten.
    let (said, _) = typed(&bot, &mut queue, "logout").await;
    assert!(said.contains("Logged out: in this chat you are not alice any more"), "{said}");
    assert_eq!(far.count("POST /api/v1/logout"), 1);
    far.knows(None, "viewer");
    let (said, _) = typed(&bot, &mut queue, "logout").await;
    assert!(said.contains("You were not logged in"), "{said}");
    assert_eq!(far.count("POST /api/v1/logout"), 0);
}

#[tokio::test]
async fn who_may_not_act_hears_how_or_whom_to_ask() {
    let far = Far::start().await;
    let (chat, mut queue) = chat();
    let (bot, _follower) = Bot::new(far.client.clone(), chat, Store::in_memory().unwrap());
    let refuse = |status, code: &str| {
        let (status, problem) = refused(status, code);
        far.answers("POST /api/v1/deployments", status, problem.clone());
        far.answers("POST /api/v1/deployments/412/cancel", status, problem);
    };
    far.knows(None, "viewer");
    refuse(403, "login_needed");
    let (said, _) = typed(&bot, &mut queue, "deploy hello main").await;
    assert!(said.contains("`deploy` needs a login") && said.contains("`/sdp login`"), "{said}");
    let (said, _) = typed(&bot, &mut queue, "cancel 412").await;
    assert!(said.contains("`cancel` needs a login"), "{said}");
    far.knows(Some("vera"), "viewer");
    refuse(403, "forbidden");
    let (said, _) = typed(&bot, &mut queue, "deploy hello main").await;
    assert!(
        said.contains("logged in as vera, who may look but not act") && said.contains("ask an admin"),
        "{said}"
    );
    // Whoever may act and is refused hears why.
    far.knows(Some("dan"), "developer");
    bot.people.forget(Some(&"U024BE7LH".parse().unwrap()));
    let (said, _) = typed(&bot, &mut queue, "deploy hello main").await;
    assert!(said.contains("this is not allowed"), "{said}");
}

#[tokio::test]
async fn whoever_is_not_signed_in_by_a_link_gets_the_plain_one() {
    let far = Far::start().await;
    let (chat, _queue) = chat();
    let (bot, _follower) = Bot::new(far.client.clone(), chat, Store::in_memory().unwrap());
    let person: PersonName = "U024BE7LH".parse().unwrap();
    let asker = bot.asker(Some(person));
    let (status, problem) = refused(403, "login_needed");
    far.answers("POST /api/v1/sign-in-links", status, problem);
    assert_eq!(bot.link(&asker, "/deployments/7").await, None);
    let link = json!({ "url": "https://sdp.example.com/sign-in/x", "expires_at": "2026-01-01T00:10:00Z" });
    far.answers("POST /api/v1/sign-in-links", 201, link);
    assert!(bot.link(&asker, "/deployments/7").await.is_some());
}

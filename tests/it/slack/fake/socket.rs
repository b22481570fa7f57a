//! Socket Mode, Slack's side: a ticket, a hello, envelopes and their acknowledgements.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{ConnectInfo, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::faults::LinkFault;
use super::line::Line;
use super::model::APP;
use super::{Shared, World};

/// So many envelopes wait for a slow socket.
const QUEUE: usize = 1024;
/// More sockets than these, and the new one is sent away.
const MOST: usize = 10;
/// How long a socket goes on that was told to go.
const GRACE: Duration = Duration::from_secs(10);

/// Why a socket is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// It will be closed soon.
    Warning,
    /// It is to be opened anew.
    RefreshRequested,
    /// Socket Mode was turned off; it is closed at once.
    LinkDisabled,
    TooManyWebsockets,
}

impl Reason {
    fn name(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::RefreshRequested => "refresh_requested",
            Self::LinkDisabled => "link_disabled",
            Self::TooManyWebsockets => "too_many_websockets",
        }
    }

    fn message(self) -> String {
        json!({
            "type": "disconnect", "reason": self.name(), "debug_info": { "host": "applink-1" },
            "connection_info": { "app_id": APP },
        })
        .to_string()
    }
}

pub(super) enum ToLink {
    Text(String),
    Close { within: Duration },
}

#[derive(Debug)]
pub(super) struct Link {
    id: u64,
    to: mpsc::Sender<ToLink>,
    line: Line,
    leaving: bool,
}

#[derive(Debug)]
struct Pending {
    envelope: String,
    link: u64,
    accepts_payload: bool,
    done: oneshot::Sender<Value>,
}

/// The sockets that have said hello.
#[derive(Debug, Default)]
pub(super) struct Links {
    open: Vec<Link>,
    pending: Vec<Pending>,
    /// Which envelopes each socket was sent, however long ago.
    sent: Vec<(u64, String)>,
    counter: u64,
    pub(super) ping_every: Option<Duration>,
}

impl World {
    /// Hands an envelope to one of the sockets, if there is one; tells when it is acknowledged.
    pub(super) fn send_envelope(&mut self, envelope: &Value) -> Option<oneshot::Receiver<Value>> {
        let links = &mut self.links;
        links.counter += 1;
        // Those that are to go come last.
        let fresh: Vec<usize> = (0..links.open.len()).filter(|&at| !links.open[at].leaving).collect();
        let from = if fresh.is_empty() { (0..links.open.len()).collect() } else { fresh };
        let at = *from.get(links.counter as usize % from.len().max(1))?;
        let link = &links.open[at];
        let (done, acknowledged) = oneshot::channel();
        let id = envelope["envelope_id"].as_str().unwrap_or_default();
        link.to.try_send(ToLink::Text(envelope.to_string())).ok()?;
        links.sent.push((link.id, id.to_owned()));
        let accepts_payload = envelope["accepts_response_payload"] == true;
        links.pending.push(Pending { envelope: id.to_owned(), link: link.id, accepts_payload, done });
        Some(acknowledged)
    }

    fn acknowledge(&mut self, link: u64, said: &str) {
        let said: Value = serde_json::from_str(said).unwrap_or_default();
        let Some(id) = said["envelope_id"].as_str() else {
            return self.complaints.push(format!("the socket was told what is no acknowledgement: {said}"));
        };
        // What nobody waits for any more was too late; the same envelope may have come again.
        self.links.pending.retain(|pending| !pending.done.is_closed());
        let is = |pending: &Pending| pending.link == link && pending.envelope == id;
        let Some(at) = self.links.pending.iter().position(is) else {
            if !self.links.sent.iter().any(|(to, sent)| *to == link && sent == id) {
                self.complaints
                    .push(format!("{id:?} was acknowledged on a socket that it never came through"));
            }
            return;
        };
        let pending = self.links.pending.remove(at);
        let body = said["payload"].clone();
        if !pending.accepts_payload && !body.is_null() {
            self.complaints.push(format!("an envelope that takes no answer was given one: {said}"));
        }
        pending.done.send(body).ok();
    }

    /// Tells all sockets that they are to go.
    pub(super) fn disconnect(&mut self, reason: Reason) {
        let within = if reason == Reason::LinkDisabled { Duration::ZERO } else { GRACE };
        for link in &mut self.links.open {
            link.leaving = true;
            link.to.try_send(ToLink::Text(reason.message())).ok();
            link.to.try_send(ToLink::Close { within }).ok();
        }
        self.count();
    }

    fn count(&mut self) {
        self.model.links = self.links.open.iter().filter(|link| !link.leaving).count();
    }

    pub(super) fn cut_links(&mut self) {
        self.links.open.iter().for_each(|link| link.line.cut());
    }

    pub(super) fn half_open_links(&mut self) {
        self.links.open.iter().for_each(|link| link.line.die());
    }

    fn welcome(&mut self, to: mpsc::Sender<ToLink>, line: Line) -> u64 {
        self.links.counter += 1;
        let id = self.links.counter;
        let hello = json!({
            "type": "hello", "num_connections": self.links.open.len() + 1,
            "debug_info": { "host": "applink-1", "build_number": 10, "approximate_connection_time": 18060 },
            "connection_info": { "app_id": APP },
        });
        to.try_send(ToLink::Text(hello.to_string())).ok();
        self.links.open.push(Link { id, to, line, leaving: false });
        self.count();
        id
    }

    fn forget(&mut self, id: u64) {
        self.links.open.retain(|link| link.id != id);
        self.links.pending.retain(|pending| pending.link != id);
        self.count();
    }
}

pub(super) async fn link(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(line): ConnectInfo<Line>,
    Query(query): Query<BTreeMap<String, String>>,
    upgrade: WebSocketUpgrade,
) -> Response {
    let ticket = query.get("ticket").map_or("", String::as_str);
    if !shared.change(|world| world.model.tickets.remove(ticket)) {
        return (StatusCode::NOT_FOUND, "no such ticket").into_response();
    }
    let fault = shared.change(|world| world.faults.next_link());
    match fault {
        Some(LinkFault::RefusesHandshake) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        Some(LinkFault::ClosesAtOnce) => upgrade.on_upgrade(|socket| async move { drop(socket) }),
        fault => upgrade.on_upgrade(move |socket| serve(shared, line, socket, fault)),
    }
}

async fn serve(shared: Arc<Shared>, line: Line, mut socket: WebSocket, fault: Option<LinkFault>) {
    let (to, mut from) = mpsc::channel(QUEUE);
    let too_many = shared.look(|world| world.links.open.len() >= MOST);
    if too_many {
        socket.send(Message::Text(Reason::TooManyWebsockets.message().into())).await.ok();
        return;
    }
    let silent = fault == Some(LinkFault::NeverSaysHello);
    // A silent one keeps its sender: it waits until the other side has had enough.
    let mut kept = Some(to);
    let mut id = None;
    if !silent && let Some(to) = kept.take() {
        id = Some(shared.change(|world| world.welcome(to, line.clone())));
        if fault == Some(LinkFault::HalfOpen) {
            // The hello is still to arrive.
            if let Some(ToLink::Text(hello)) = from.recv().await {
                socket.send(Message::Text(hello.into())).await.ok();
            }
            line.die();
        }
    }
    let every = shared.look(|world| world.links.ping_every).unwrap_or(Duration::from_secs(10));
    let mut ping = tokio::time::interval_at(Instant::now() + every, every);
    let end = tokio::time::sleep(Duration::from_secs(24 * 3600));
    tokio::pin!(end);
    loop {
        tokio::select! {
            out = from.recv() => match out {
                Some(ToLink::Text(text)) => if socket.send(Message::Text(text.into())).await.is_err() { break },
                Some(ToLink::Close { within }) => end.as_mut().reset(Instant::now() + within),
                None => break,
            },
            said = socket.recv() => match (said, id) {
                (Some(Ok(Message::Text(said))), Some(id)) => shared.change(|world| world.acknowledge(id, &said)),
                (None | Some(Ok(Message::Close(_)) | Err(_)), _) => break,
                _ => {}
            },
            _ = ping.tick(), if !silent => {
                if socket.send(Message::Ping("Ping from applink-1".into())).await.is_err() { break }
            }
            () = &mut end => {
                socket.send(Message::Close(None)).await.ok();
                break;
            }
            () = shared.ended.cancelled() => break,
        }
    }
    if let Some(id) = id {
        shared.change(|world| world.forget(id));
    }
}

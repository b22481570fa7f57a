//! A Slack for tests: a small server on a port that the system chooses, which plays the far side of the wire. It speaks the Web
//! API, Socket Mode and signed HTTP callbacks, and holds a model of a workspace (team `T1`, app `A1`, bot user `UBOT`).
//!
//! ```text
//!   bot ──▶ web (methods, response URLs) ──▶ faults ──▶ limits ──▶ model ──▶ transcript, until
//!   bot ◀── socket (envelopes) or callback (signed posts) ◀── deliver ◀── person (types, clicks, submits)
//!   bot ──▶ acknowledgement ──▶ effects ──▶ model
//! ```
//! Ids can be read: `#dev` is `CDEV`, alice is `UALICE`, her conversation with the bot is `@alice` and `DALICE`. In tests:
//!
//! ```ignore
//! let slack = Slack::start().await;                     // #dev, #random (without the bot), #old (archived); alice, bob, carol
//! start_a_bot(slack.api_url(), BOT_TOKEN, APP_TOKEN);   // or slack.call_back(RequestUrls::all(…)) and SIGNING_SECRET
//! slack.until("it is connected", |model| (model.links() > 0).then_some(())).await;
//! let alice = slack.person("alice");
//! alice.slash("#dev", "deploy hello main").await.well();
//! let root = slack.until("it runs", |model| model.says("#dev", "running").cloned()).await;
//! alice.click(&root, "Stop").await.ack.well();
//! assert_snapshot!(slack.transcript("#dev"), @"…");
//! slack.finish();                                       // nothing unread, nothing wrong, no limit broken
//! ```
//! Invariants: [`Slack::until`] looks after each change and never sleeps. What the bot says is unread until a test has looked
//! at it, and [`Slack::finish`] fails on that, on what Slack would refuse, and on more requests than Slack allows; a test that
//! wants these takes them first ([`Slack::complaints`], [`Slack::violations`]). Limits are named where they are.

mod blocks;
mod callback;
mod deliver;
mod effects;
mod faults;
mod limits;
mod line;
mod model;
mod payload;
mod person;
mod render;
mod rich;
mod socket;
mod tests;
mod view;
mod web;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::routing::{any, get, post};
use futures_util::future::join_all;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub(crate) use callback::{Answered, Post, RequestUrls};
pub(crate) use deliver::{Ack, Delivery, Kind};
pub(crate) use faults::{ALWAYS, Fault, LinkFault};
pub(crate) use limits::Violation;
pub(crate) use model::{Message, Model};
pub(crate) use payload::Spot;
pub(crate) use person::Person;
pub(crate) use socket::Reason;
pub(crate) use view::View;

pub(crate) const BOT_TOKEN: &str = "xoxb-1-fake";
pub(crate) const APP_TOKEN: &str = "xapp-1-A1-fake";
pub(crate) const SIGNING_SECRET: &str = "8f742231b10e8888abcd99yyyzzz85a5";

/// How long a test waits for something to be so.
const PATIENCE: Duration = Duration::from_secs(60);

/// All that changes.
struct World {
    model: model::Model,
    faults: faults::Faults,
    limits: limits::Limits,
    links: socket::Links,
    urls: Option<RequestUrls>,
    org_install: bool,
    /// Where sockets are opened, if not here.
    front: Option<String>,
    /// What Slack would have refused, or would have told a person.
    complaints: Vec<String>,
    /// What is to be told to the bot after a call.
    events: Vec<Value>,
}

struct Shared {
    world: Mutex<World>,
    changed: watch::Sender<u64>,
    ended: CancellationToken,
    tasks: Mutex<JoinSet<()>>,
    address: SocketAddr,
    http: reqwest::Client,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, World> {
        // A panic in a test's question is that test's own.
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look<T>(&self, look: impl FnOnce(&World) -> T) -> T {
        look(&self.lock())
    }

    /// Takes numbers and the like: nothing that anybody waits for.
    fn look_mut<T>(&self, look: impl FnOnce(&mut World) -> T) -> T {
        look(&mut self.lock())
    }

    fn change<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        let done = change(&mut self.lock());
        self.changed.send_modify(|count| *count += 1);
        done
    }

    fn response_url(&self, id: &str) -> String {
        format!("http://{}/response/{id}", self.address)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).spawn(task);
    }

    fn send_event(self: &Arc<Self>, event: Value) {
        let (shared, delivery) = (Arc::clone(self), self.new_event(event));
        self.spawn(async move {
            shared.deliver(delivery).await;
        });
    }
}

/// The fake Slack. It ends when it is dropped.
pub(crate) struct Slack {
    shared: Arc<Shared>,
}

impl Drop for Slack {
    fn drop(&mut self) {
        self.shared.ended.cancel();
        self.shared.tasks.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
    }
}

impl Slack {
    /// A workspace with `#dev`, `#random` (without the bot), `#old` (archived), and alice, bob and carol.
    pub(crate) async fn start() -> Self {
        rustls::crypto::ring::default_provider().install_default().ok();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("bound");
        let mut model = model::Model::new();
        for person in ["alice", "bob", "carol"] {
            model.add_person(person);
        }
        for (channel, has_bot) in [("#dev", true), ("#random", false), ("#old", true)] {
            model.add_channel(channel, has_bot);
        }
        let world = World {
            model,
            faults: faults::Faults::default(),
            limits: limits::Limits::default(),
            links: socket::Links::default(),
            urls: None,
            org_install: false,
            front: None,
            complaints: Vec::new(),
            events: Vec::new(),
        };
        let shared = Arc::new(Shared {
            world: Mutex::new(world),
            changed: watch::Sender::new(0),
            ended: CancellationToken::new(),
            tasks: Mutex::new(JoinSet::new()),
            address,
            http: reqwest::Client::builder().no_proxy().build().expect("a client"),
        });
        let slack = Self { shared };
        slack.archive("#old");
        let router = Router::new()
            .route("/api/{method}", any(web::method))
            .route("/response/{id}", post(web::response))
            .route("/link/", get(socket::link))
            .with_state(Arc::clone(&slack.shared));
        slack.shared.spawn(async move {
            let service = router.into_make_service_with_connect_info::<line::Line>();
            axum::serve(line::Front(listener), service).await.ok();
        });
        slack
    }

    /// The Web API's address, without a slash at its end.
    pub(crate) fn api_url(&self) -> String {
        format!("http://{}/api", self.shared.address)
    }

    /// The app has addresses of its own, which are asked while no socket is open.
    pub(crate) fn call_back(&self, urls: RequestUrls) {
        self.shared.change(|world| world.urls = Some(urls));
    }

    /// Sockets are opened at another address, which leads here.
    pub(crate) fn behind(&self, front: &str) {
        self.shared.change(|world| world.front = Some(front.to_owned()));
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// From now on as where the app is installed in a whole organization: the team is not always said.
    pub(crate) fn installed_in_org(&self) {
        self.shared.change(|world| world.org_install = true);
    }

    // The workspace.

    /// Somebody, who comes to the workspace if need be.
    pub(crate) fn person(&self, name: &str) -> Person {
        let id = self.shared.change(|world| world.model.add_person(name));
        Person { shared: Arc::clone(&self.shared), id, name: name.to_owned() }
    }

    /// Makes a channel that the bot is in.
    pub(crate) fn channel(&self, name: &str) {
        self.shared.change(|world| world.model.add_channel(name, true));
    }

    /// Takes the bot into a channel, or out of it.
    pub(crate) fn invite(&self, channel: &str, in_it: bool) {
        self.with_channel(channel, |channel| channel.has_bot = in_it);
    }

    pub(crate) fn archive(&self, channel: &str) {
        self.with_channel(channel, |channel| channel.archived = true);
    }

    fn with_channel(&self, name: &str, change: impl FnOnce(&mut model::Channel)) {
        self.shared.change(|world| {
            let id = world.model.place(name);
            change(world.model.channels.get_mut(&id).expect("a channel"));
        });
    }

    /// Moves the clock by which triggers, response URLs and limits live.
    pub(crate) fn pass(&self, time: Duration) {
        self.shared.change(|world| world.model.pass(time));
    }

    // What people see.

    /// Waits until a question about the model has an answer. What the question came across counts as looked at.
    pub(crate) async fn until<T>(&self, what: &str, mut question: impl FnMut(&Model) -> Option<T>) -> T {
        let mut changed = self.shared.changed.subscribe();
        let search = async {
            loop {
                changed.mark_unchanged();
                let answer = self.shared.look(|world| world.model.ask(&mut question));
                if let Some(answer) = answer {
                    return answer;
                }
                changed.changed().await.expect("the fake lives");
            }
        };
        match tokio::time::timeout(PATIENCE, search).await {
            Ok(answer) => answer,
            Err(_) => panic!("it never came to be that {what}:\n{}", self.everything()),
        }
    }

    /// What the model says now.
    pub(crate) fn look<T>(&self, question: impl FnOnce(&Model) -> T) -> T {
        self.shared.look(|world| world.model.ask(|model| Some(question(model)))).expect("an answer")
    }

    /// A channel with all threads, as a person reads it; what differs from run to run is left out.
    pub(crate) fn transcript(&self, channel: &str) -> String {
        self.shown(|model| render::transcript(model, channel))
    }

    /// A message, as it is now, and its thread.
    pub(crate) fn thread(&self, root: &Message) -> String {
        self.shown(|model| render::thread(model, model.at(&root.channel, &root.ts).expect("it is there")))
    }

    /// What only this person sees.
    pub(crate) fn whispers(&self, person: &str) -> String {
        self.shown(|model| render::whispers(model, person))
    }

    /// A form, as it is now.
    pub(crate) fn view(&self, id: &str) -> String {
        let is = |view: &&View| view.id == id || view.external_id() == id;
        self.shown(|model| render::view(model, model.views.iter().find(is).expect("a form")))
    }

    pub(crate) fn home(&self, person: &str) -> String {
        self.shown(|model| {
            let home = model.homes.get(&model.user_id(person));
            home.map_or_else(|| format!("{person} has no home\n"), |home| render::view(model, home))
        })
    }

    fn shown(&self, show: impl FnOnce(&Model) -> String) -> String {
        render::redacted(&self.shared.look(|world| show(&world.model)))
    }

    /// Everything that anybody sees, and the last calls.
    pub(crate) fn everything(&self) -> String {
        self.shared
            .look(|world| format!("{}complaints: {:#?}", render::everything(&world.model), world.complaints))
    }

    /// What Slack would have refused or told a person so far; a test that takes them accepts them.
    pub(crate) fn complaints(&self) -> Vec<String> {
        self.shared.look_mut(|world| std::mem::take(&mut world.complaints))
    }

    /// Where the bot asked more often than Slack allows; a test that takes them accepts them.
    pub(crate) fn violations(&self) -> Vec<Violation> {
        self.shared.look_mut(|world| std::mem::take(&mut world.limits.violations))
    }

    /// Answers with 429 what is too much, instead of counting it.
    pub(crate) fn enforce_limits(&self) {
        self.shared.change(|world| world.limits.enforced = true);
    }

    /// The end of a test: panics if something was not looked at, was wrong, or was too much.
    pub(crate) fn finish(self) {
        let (unread, complaints) = (self.shared.look(|world| world.model.unread()), self.complaints());
        let violations = self.violations();
        let well = unread.is_empty() && complaints.is_empty() && violations.is_empty();
        assert!(
            well,
            "unread: {unread:#?}\ncomplaints: {complaints:#?}\ntoo often: {violations:#?}\n{}",
            self.everything()
        );
    }

    // What goes wrong.

    /// The next calls of a method (`*` for any, `response_url` for those) fail, so many times or [`ALWAYS`], and do nothing.
    pub(crate) fn fail(&self, method: &str, times: u32, fault: Fault) {
        self.shared.change(|world| world.faults.plan(method, times, fault, false));
    }

    /// The next calls of a method do what they should, and only their answers are lost.
    pub(crate) fn lose_answers(&self, method: &str, times: u32, fault: Fault) {
        self.shared.change(|world| world.faults.plan(method, times, fault, true));
    }

    pub(crate) fn lift(&self, method: &str) {
        self.shared.change(|world| world.faults.lift(method));
    }

    pub(crate) fn fail_links(&self, times: u32, fault: LinkFault) {
        self.shared.change(|world| world.faults.plan_link(times, fault));
    }

    pub(crate) fn lift_links(&self) {
        self.shared.change(|world| world.faults.lift_links());
    }

    /// Tells the open sockets to go.
    pub(crate) fn disconnect(&self, reason: Reason) {
        self.shared.change(|world| world.disconnect(reason));
    }

    /// Ends the open sockets without a word.
    pub(crate) fn cut_links(&self) {
        self.shared.change(|world| world.cut_links());
    }

    /// From now on nothing arrives through the open sockets, and nobody is told.
    pub(crate) fn half_open_links(&self) {
        self.shared.change(|world| world.half_open_links());
    }

    /// How often sockets that open from now on are pinged (every 10 s without it).
    pub(crate) fn ping_every(&self, every: Duration) {
        self.shared.change(|world| world.links.ping_every = Some(every));
    }

    // The wire itself.

    /// Brings any payload, as from a fixture.
    pub(crate) async fn deliver(&self, kind: Kind, payload: Value) -> Ack {
        self.shared.deliver(self.shared.new_delivery(kind, payload)).await
    }

    /// Brings exactly the same once more, so many copies at once.
    pub(crate) async fn deliver_again(&self, ack: &Ack, copies: usize) -> Vec<Ack> {
        join_all((0..copies).map(|_| self.shared.deliver(Arc::clone(&ack.delivery)))).await
    }

    /// Sends any envelope through a socket; what it was acknowledged with, or `None` if it was not in time.
    pub(crate) async fn envelope(&self, envelope: &Value) -> Option<Value> {
        let acknowledged = self.shared.look_mut(|world| world.send_envelope(envelope)).expect("a socket");
        tokio::time::timeout(deliver::ACK_WITHIN, acknowledged).await.ok()?.ok()
    }

    /// The signed request of something that was delivered, to be tampered with.
    pub(crate) fn post(&self, delivery: &Delivery) -> Post {
        self.shared.look(|world| {
            let urls = world.urls.as_ref().expect("the app has addresses");
            callback::post(delivery, urls.of(delivery.kind), world.model.wall().as_secs(), 0, "")
        })
    }

    /// Sends a request as it is.
    pub(crate) async fn send(&self, post: &Post) -> Result<Answered, reqwest::Error> {
        post.send(&self.shared.http, deliver::ACK_WITHIN).await
    }
}

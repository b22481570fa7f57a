//! The terminal as a chat: what is typed is a command, a deployment's message changes in place, its thread grows below it.
//!
//! ```text
//!   input ──line──▶ Bot::hear (a task each) ──┐
//!   Follower ─────────────────────────────────┴─requests─▶ board (messages) ─▶ screen (rows) ─▶ output
//! ```
//! Three ways to look at it, chosen by [`Options`]:
//! - **live** (a terminal): unfinished messages are drawn at the bottom, above the line that is being typed, and redrawn in
//!   place; a finished one moves up into the scrollback;
//! - **lines** (a terminal that is too small or cannot be steered): the story line by line;
//! - **script** (piped input, [`exec`]): line by line, one command after the other, each until its deployment has ended.
//!
//! Called by the quickstart (in process), by `sdp-bot console` and `sdp-bot exec`. Nothing untrusted reaches the terminal but
//! through [`crate::text`]. Limits: a typed line has [`line::MAX_LINE`] bytes, [`MAX_BUSY`] commands run at once,
//! [`MAX_WATCHING`] answers are kept up to date.

mod board;
pub mod line;
mod paint;
mod screen;
mod terminal;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

use sdp_core::client::Client;
use sdp_core::name::PersonName;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::bot::{Bot, Heard, Said};
use crate::chat::{Abilities, Chat, ChatGone, Conversation, Place, Recalled, Request};
use crate::follow::FollowError;
use crate::output::Watch;
use crate::store::{Store, StoreError};

use board::Board;
use line::{Editor, Key};
pub use paint::Paint;
pub use terminal::{Size, Stdin, stdin};

/// How many commands run at once; more wait.
pub const MAX_BUSY: usize = 16;
/// How many answers are kept up to date at once; of the next ones as many wait for their turn.
pub const MAX_WATCHING: usize = 4;
/// What is said to whoever executes nothing.
const USAGE: &str = "usage: sdp-bot exec '<command>', for example sdp-bot exec 'deploy hello main'; sdp-bot exec help lists all\n";
/// How long what has been asked for may take to end after `shutdown`.
const GRACE: Duration = Duration::from_secs(2);

/// How a console behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Who types; none: whoever the token belongs to.
    pub person: Option<PersonName>,
    /// How it looks.
    pub look: Look,
    /// Colours and weights.
    pub colour: bool,
    /// Whether nobody else reads the output, so that links in it may sign their reader in: a terminal, not the log of a CI.
    pub private: bool,
    /// Where the bot keeps its memory; none: it ends with the process.
    pub store: Option<PathBuf>,
}

/// How a console looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Messages change in place; the terminal has this size.
    Live(Size),
    /// Line by line, while somebody types.
    Lines,
    /// Line by line, one command after the other.
    Script,
}

impl Options {
    /// What fits the terminal or pipe that this process has.
    #[must_use]
    pub fn detect(person: Option<PersonName>) -> Self {
        let (look, colour, private) = terminal::detect();
        Self { person, look, colour, private, store: None }
    }

    /// For captured output: line by line, one command after the other, no colours.
    #[must_use]
    pub fn script(person: Option<PersonName>) -> Self {
        Self { person, look: Look::Script, colour: false, private: false, store: None }
    }
}

/// How a console ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// Commands that did what they were for.
    pub succeeded: u32,
    /// Commands that did not, deployments that did not succeed, and those that nobody waited for.
    pub failed: u32,
}

impl Ended {
    /// Whether everything succeeded.
    #[must_use]
    pub fn success(self) -> bool {
        self.failed == 0
    }

    /// For the process: 0 or 1.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        u8::from(!self.success())
    }
}

/// The console could not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConsoleError {
    /// Input or output.
    #[error("cannot read or write the terminal")]
    Terminal(#[from] std::io::Error),
    /// The bot's database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The server refuses the feed.
    #[error(transparent)]
    Follow(#[from] FollowError),
}

/// Runs one command as if it had been typed, prints its story, and ends when its deployment has ended.
///
/// # Errors
/// [`ConsoleError`].
pub async fn exec(
    client: Client,
    command: &str,
    mut output: impl AsyncWrite + Send + Unpin,
    options: Options,
    shutdown: CancellationToken,
) -> Result<Ended, ConsoleError> {
    // A script may leave such lines out; whoever calls for one command wants something.
    if command.trim().is_empty() || command.trim_start().starts_with('#') {
        output.write_all(USAGE.as_bytes()).await?;
        output.flush().await?;
        return Ok(Ended { succeeded: 0, failed: 1 });
    }
    let one_line = format!("{}\n", command.replace(['\n', '\r'], " "));
    run(client, one_line.as_bytes(), output, options, shutdown).await
}

/// Plays the chat until the input ends (and everything asked for has ended), `quit` is typed, or `shutdown`.
///
/// # Errors
/// [`ConsoleError`].
pub async fn run(
    client: Client,
    input: impl AsyncBufRead + Send + Unpin,
    output: impl AsyncWrite + Send + Unpin,
    options: Options,
    shutdown: CancellationToken,
) -> Result<Ended, ConsoleError> {
    let store = match &options.store {
        Some(path) => Store::open(path)?,
        None => Store::in_memory()?,
    };
    let live = matches!(options.look, Look::Live(_));
    let abilities = Abilities {
        edit_every: if live { Duration::from_millis(100) } else { Duration::ZERO },
        tick: live.then_some(Duration::from_secs(1)),
        private: options.private,
        places_survive: false,
        watched: options.look != Look::Script,
        paced: false,
    };
    let (chat, requests) = Chat::new(abilities);
    let (bot, follower) = Bot::new(client, chat, store);
    // A script hears what it asked for, and nothing else.
    let follower = match options.look {
        Look::Script => follower,
        Look::Live(_) | Look::Lines => follower.with_notices(),
    };
    let stop = CancellationToken::new();
    let _stop_on_return = stop.clone().drop_guard();
    let mut following = JoinSet::new();
    following.spawn(follower.run(stop.clone()));
    let _raw = (options.look == Look::Live(Size::OfOutput)).then(terminal::Raw::enter).flatten();
    let (to_watch, watches) = mpsc::channel(MAX_WATCHING);
    let mut console = Console {
        board: Board::new(options.look, Paint { colour: options.colour }),
        editor: Editor::default(),
        person: options.person,
        look: options.look,
        output,
        ended: Ended::default(),
        waiting: VecDeque::new(),
        busy: JoinSet::new(),
        to_watch,
        watches,
        watching: JoinSet::new(),
    };
    let result = console.serve(&bot, input, requests, &mut following, &shutdown).await;
    stop.cancel();
    drop(bot);
    let leave = console.leave().await;
    // The follower writes down how far it has read.
    while let Ok(Some(joined)) = tokio::time::timeout(GRACE, following.join_next()).await {
        if let Ok(Err(error)) = joined {
            return Err(error.into());
        }
    }
    result?;
    leave?;
    Ok(console.ended)
}

struct Console<W> {
    board: Board,
    editor: Editor,
    person: Option<PersonName>,
    look: Look,
    output: W,
    ended: Ended,
    /// Typed while as many commands as may run at once were running.
    waiting: VecDeque<String>,
    busy: JoinSet<Result<bool, ChatGone>>,
    /// Answers that are kept up to date for a while.
    to_watch: mpsc::Sender<Watch>,
    watches: mpsc::Receiver<Watch>,
    watching: JoinSet<Result<(), ChatGone>>,
}

/// What the loop does next.
#[derive(PartialEq, Eq)]
enum Next {
    Go,
    NoInput,
    Quit,
}

impl<W: AsyncWrite + Send + Unpin> Console<W> {
    async fn serve(
        &mut self,
        bot: &Bot,
        mut input: impl AsyncBufRead + Send + Unpin,
        mut requests: tokio::sync::mpsc::Receiver<Request>,
        following: &mut JoinSet<Result<(), FollowError>>,
        shutdown: &CancellationToken,
    ) -> Result<(), ConsoleError> {
        let mut reading = true;
        self.flush().await?;
        loop {
            let limit = if self.look == Look::Script { 1 } else { MAX_BUSY };
            while self.busy.len() < limit
                && let Some(text) = self.waiting.pop_front()
            {
                self.begin(bot, text);
            }
            if !reading && self.busy.is_empty() && self.waiting.is_empty() {
                return Ok(());
            }
            // A script's next line is read when the one before is done; what is typed is always read.
            let may_read =
                reading && (self.look != Look::Script || self.busy.is_empty() && self.waiting.is_empty());
            let next = tokio::select! {
                biased;
                () = shutdown.cancelled() => Next::Quit,
                Some(request) = requests.recv() => { self.show(request); Next::Go }
                Some(watch) = self.watches.recv(), if self.watching.len() < MAX_WATCHING => {
                    self.watching.spawn(watch.run());
                    Next::Go
                }
                Some(_) = self.watching.join_next(), if !self.watching.is_empty() => Next::Go,
                Some(done) = self.busy.join_next(), if !self.busy.is_empty() => {
                    match done {
                        Ok(Ok(true)) => self.ended.succeeded += 1,
                        _ => self.ended.failed += 1,
                    }
                    Next::Go
                }
                Some(joined) = following.join_next(), if !following.is_empty() => {
                    if let Ok(Err(error)) = joined {
                        return Err(error.into());
                    }
                    Next::Go
                }
                chunk = input.fill_buf(), if may_read => {
                    let chunk = chunk?;
                    if chunk.is_empty() {
                        self.end_of_input()
                    } else {
                        // A script's lines are taken one at a time, so that what follows stays in the pipe.
                        let take = match self.look {
                            Look::Script => chunk.iter().position(|b| *b == b'\n').map_or(chunk.len(), |at| at + 1),
                            _ => chunk.len(),
                        };
                        let bytes = chunk[..take].to_vec();
                        input.consume(take);
                        self.typed(&bytes)
                    }
                }
            };
            self.flush().await?;
            match next {
                Next::Go => {}
                Next::NoInput => reading = false,
                Next::Quit => {
                    // What is still under way goes on at the server; a script cannot say that it succeeded.
                    let left = self.busy.len() + self.waiting.len();
                    if self.look == Look::Script {
                        self.ended.failed += u32::try_from(left).unwrap_or(u32::MAX);
                    }
                    self.busy.shutdown().await;
                    self.watching.shutdown().await;
                    if left > 0 {
                        self.board.say("leaving; what was asked for goes on without this terminal");
                    }
                    return Ok(());
                }
            }
        }
    }

    fn typed(&mut self, bytes: &[u8]) -> Next {
        for key in self.editor.keys(bytes) {
            match key {
                Key::Line(text) => {
                    let text = text.trim().to_owned();
                    if matches!(text.as_str(), "quit" | "exit" | "/sdp quit" | "/quit") {
                        return Next::Quit;
                    }
                    if text.is_empty() || text.starts_with('#') && self.look == Look::Script {
                        continue;
                    }
                    self.board.echo(&text);
                    self.waiting.push_back(text);
                }
                Key::End => return Next::Quit,
                Key::Redraw => self.board.resized(),
            }
        }
        Next::Go
    }

    fn end_of_input(&mut self) -> Next {
        if let Some(rest) = self.editor.rest() {
            let _next = self.typed(format!("{rest}\n").as_bytes());
        }
        Next::NoInput
    }

    fn begin(&mut self, bot: &Bot, text: String) {
        let said = Said::new(self.person.clone(), Conversation("console".to_owned()), text);
        let bot = bot.clone();
        // Whoever types goes on; a script waits for the end.
        let to_the_end = self.look == Look::Script;
        let watching = self.to_watch.clone();
        self.busy.spawn(async move {
            match bot.hear(said).await? {
                Heard::Answered { ok } => Ok(ok),
                Heard::Following(ended) if to_the_end => ended.await.map_err(|_| ChatGone),
                Heard::Following(_) => Ok(true),
                Heard::Watching(watch) => {
                    // Whoever types goes on; where too much is watched already it stays as it is.
                    drop(watching.try_send(*watch));
                    Ok(true)
                }
            }
        });
    }

    fn show(&mut self, request: Request) {
        // Whoever asked may have gone; what it asked for is shown all the same.
        let _nobody_waits = match request {
            Request::Post { message, changes: true, done, .. } => {
                done.send(Ok(self.board.post(message))).is_ok()
            }
            Request::Post { message, changes: false, done, .. } => {
                self.board.answer(&message);
                done.send(Ok(Place(String::new()))).is_ok()
            }
            Request::Update { place, message, last, done, .. } => {
                self.board.update(&place, message, last);
                done.send(Ok(())).is_ok()
            }
            Request::Reply { place, message, done, .. } => {
                self.board.reply(&place, message);
                done.send(Ok(())).is_ok()
            }
            Request::Whisper { message, done, .. } | Request::Direct { message, done, .. } => {
                self.board.answer(&message);
                done.send(Ok(())).is_ok()
            }
            // A terminal remembers nothing.
            Request::Recall { done, .. } => done.send(Recalled::default()).is_ok(),
        };
    }

    async fn flush(&mut self) -> std::io::Result<()> {
        let bytes = self.board.draw(self.editor.line());
        if !bytes.is_empty() {
            self.output.write_all(bytes.as_bytes()).await?;
            self.output.flush().await?;
        }
        Ok(())
    }

    /// Leaves the terminal as it was found: nothing half-drawn, the cursor on an empty line.
    async fn leave(&mut self) -> std::io::Result<()> {
        let bytes = self.board.finish();
        self.output.write_all(bytes.as_bytes()).await?;
        self.output.flush().await
    }
}

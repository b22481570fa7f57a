//! What becomes of the containers: a list, then the engine's events, and a list again whenever events may have been missed.
//!
//! ```text
//!   ┌▶ list: adopt what is ours, look at what is known ─▶ events, each followed by a look ─▶ the stream ends ┐
//!   └───────────── again at once, then with longer pauses; degraded until it works ◀────────────────────────┘
//! ```
//! Exits are levels: an event only says which container to look at, and how it ended, which a look does not show once it runs
//! again. After a time in which nothing was seen (the agent or the engine was away) a container that should run and does not is
//! started, unless the engine had given it up: who went down with the machine comes back with it.
//!
//! The engine drops events of listeners that are slow, so a list follows each [`LIST_AGAIN`]; it also tells an engine that hangs,
//! and takes up again what the engine has refused to stop or to remove.

use std::collections::{HashMap, HashSet};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bollard::errors::Error;
use bollard::models::{ContainerInspectResponse, ContainerStateStatusEnum};
use bollard::query_parameters::EventsOptionsBuilder;
use futures_util::StreamExt as _;
use jiff::Timestamp;
use sdp_core::id::InstanceId;
use sdp_core::wire::{Exit, Health, InstanceStatus, RestartCause};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, sleep_until, timeout};

use super::body::RESTARTS;
use super::engine::said;
use super::events::{Event, put_causes_first, was_killed};
use super::label::{self, Found, Kind};
use super::restarts::Restarts;
use super::{DockerRuntime, Entry, Facts, suspend};
use crate::secrets::redactor;

/// Between two tries to reach an engine that does not answer.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Events may have been dropped, and the engine may hang: so often it is asked for all.
const LIST_AGAIN: Duration = Duration::from_secs(30);
/// A container that somebody stopped by hand may be started again by hand (`docker restart`) within this time.
const BY_HAND: Duration = Duration::from_secs(10);
/// Why somebody was killed may be said so much later than that it was.
const LATE_CAUSE: Duration = Duration::from_millis(200);
/// So many events are taken at once.
const BATCH: usize = 256;
/// So many of the last lines belong to an exit.
pub(super) const LAST_LINES: usize = sdp_core::wire::bound::MOST_LAST_LINES;
/// What is listened for.
const ACTIONS: [&str; 5] = ["start", "die", "oom", "kill", "destroy"];

/// How a container stands.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    /// Not started yet, or going: somebody is at work on it.
    Between,
    /// It runs, or the engine is about to start it again.
    Up { restarts: u32, since: Option<Timestamp> },
    /// It does not run, and the engine leaves it so.
    Down { restarts: u32, exit_code: Option<i64>, out_of_memory: bool },
}

/// Reads an inspection. Pure.
fn seen(found: &ContainerInspectResponse) -> Seen {
    use ContainerStateStatusEnum as Status;
    let restarts = found.restart_count.and_then(|count| u32::try_from(count).ok()).unwrap_or(0);
    let Some(state) = &found.state else { return Seen::Between };
    match state.status {
        Some(Status::RUNNING | Status::PAUSED | Status::RESTARTING | Status::STOPPING) => {
            let since = state.started_at.as_deref().and_then(|at| at.parse().ok());
            Seen::Up { restarts, since }
        }
        Some(Status::EXITED | Status::DEAD) => Seen::Down {
            restarts,
            exit_code: state.exit_code,
            out_of_memory: state.oom_killed.unwrap_or(false),
        },
        Some(Status::CREATED | Status::REMOVING | Status::EMPTY) | None => Seen::Between,
    }
}

/// How a process ended, from the engine's number for it.
fn exit(code: Option<i64>, out_of_memory: bool, last_lines: Vec<String>) -> Exit {
    let code = code.and_then(|code| i32::try_from(code).ok());
    // What a shell, the engine and its init say of a signal.
    let signal = code.filter(|code| (129..=192).contains(code)).map(|code| code - 128);
    let exit_code = if signal.is_some() { None } else { code };
    Exit::new(exit_code, signal, out_of_memory && code != Some(0), last_lines)
}

/// Whether a container that went down while nobody looked did so for good: the engine had started it as often as it does, and it
/// was not the engine's own shutdown that ended it. 255 is what the engine says of what went down with the machine.
fn gave_up(restarts: u32, exit_code: Option<i64>, out_of_memory: bool) -> bool {
    i64::from(restarts) >= RESTARTS
        && (out_of_memory || !matches!(exit_code, None | Some(0 | 137 | 143 | 255)))
}

impl DockerRuntime {
    /// Follows the containers for as long as it is polled.
    pub(super) async fn watch(&self) {
        let mut pause = FIRST_PAUSE;
        let mut first = true;
        loop {
            // The engine's clock is this machine's. One second more, for the engine goes by whole ones.
            let since = jiff::Timestamp::now().as_second() - 1;
            let why = match self.look_at_all(first, true).await {
                Ok(()) => {
                    first = false;
                    self.say_degraded(None);
                    let begin = Instant::now();
                    let why = Box::pin(self.follow_events(since)).await;
                    tracing::warn!(%why, "the engine's events have ended; all containers are listed again");
                    if begin.elapsed() > LONGEST_PAUSE {
                        pause = FIRST_PAUSE;
                        continue;
                    }
                    None
                }
                Err(why) => Some(why),
            };
            if let Some(why) = why {
                self.say_degraded(Some(format!("the container engine does not answer: {why}")));
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn say_degraded(&self, why: Option<String>) {
        let changed = self.0.degraded.send_if_modified(|known| {
            let changed = *known != why;
            if changed && known.is_some() != why.is_some() {
                match &why {
                    Some(why) => tracing::error!(%why, "no container can be started or seen"),
                    None => tracing::info!("the container engine answers"),
                }
            }
            known.clone_from(&why);
            changed
        });
        if changed {
            self.changed();
        }
    }

    /// Lists the containers and looks at each. `first`: nothing of ours can be under way yet; `blind`: something may have gone
    /// down unseen.
    pub(super) async fn look_at_all(&self, first: bool, blind: bool) -> Result<(), String> {
        let engine = self.engine()?;
        if blind {
            engine.check_version().await?;
        }
        for summary in engine.list(&self.0.agent).await.map_err(|error| said(&error))? {
            let (Some(id), Some(labels)) = (summary.id, summary.labels) else { continue };
            let Some(found) = label::read(&self.0.agent, &labels) else {
                tracing::warn!(container.id = %id, "a container has this agent's label, but not the others; it is left alone");
                continue;
            };
            let instance = found.instance;
            let known = self.entry(instance);
            if known.as_ref().is_some_and(|entry| entry.container == id)
                || self.0.making.lock().contains(&instance)
            {
                continue;
            }
            if found.kind == Kind::Instance && known.is_none() {
                self.adopt(id, found).await.map_err(|error| said(&error))?;
            } else if let Err(error) = engine.remove(&id).await {
                // A command that nobody waits for any more, or a second container of an instance.
                if super::is_away(&error) {
                    return Err(said(&error));
                }
                tracing::warn!(container.id = %id, error = said(&error), "failed to remove a container; it is tried again");
            }
        }
        if first {
            self.remove_strange_folders().await;
        }
        let entries: Vec<_> = self.0.entries.lock().values().cloned().collect();
        for entry in entries {
            if !entry.is_left_alone() && !entry.forgotten.load(Ordering::Acquire) {
                self.look(&entry, if blind { Why::Blind } else { Why::List })
                    .await
                    .map_err(|error| said(&error))?;
            } else if entry.is_unwanted() && entry.is_running() || entry.forgotten.load(Ordering::Acquire) {
                self.finish(entry.clone());
            }
            entry.pulse.send_modify(|pulse| *pulse += 1);
        }
        Ok(())
    }

    /// Takes over what an earlier agent of this folder has started; what was made and not started is removed.
    async fn adopt(&self, id: String, found: Found) -> Result<(), Error> {
        let Ok(engine) = self.engine() else { return Ok(()) };
        let Some(state) = engine.inspect(&id).await? else { return Ok(()) };
        let (instance, deployment) = (found.instance, found.deployment);
        let Some(address) = found.address.filter(|_| seen(&state) != Seen::Between) else {
            return engine.remove(&id).await;
        };
        self.0.ports.claim(instance, address.port());
        let (folder, down) = (self.0.config.folder(instance), matches!(seen(&state), Seen::Down { .. }));
        let kept = move || (Restarts::read(&folder), suspend::note(&folder).filter(|_| down));
        // The runtime is going down.
        let Ok((restarts, suspended)) = tokio::task::spawn_blocking(kept).await else { return Ok(()) };
        // What it was given it may print; the former agent's redactor is gone with that.
        let config = state.config.unwrap_or_default();
        let secrets = label::secrets(&config.labels.unwrap_or_default(), &config.env.unwrap_or_default());
        let hides = tokio::task::spawn_blocking(move || redactor(&secrets));
        // The runtime is going down.
        let Ok(redactor) = hides.await else { return Ok(()) };
        let entry = Arc::new(Entry::new(id, found, address, redactor));
        entry.facts.lock().restarts = restarts;
        // One that was not is its deployment's, which asks for itself.
        entry.passed.store(true, Ordering::Release);
        self.0.entries.lock().insert(instance, entry.clone());
        tracing::info!(instance.id = %instance, deployment.id = %deployment, %address, "adopted a container");
        match suspended {
            Some(why) => entry.suspend(why),
            // What was known of its health went with the former agent.
            None => self.check_again(&entry),
        }
        self.changed();
        Ok(())
    }

    /// What is to go and is still there, because the engine was away or has refused. One at a time for each.
    fn finish(&self, entry: Arc<Entry>) {
        if entry.finishing.swap(true, Ordering::AcqRel) {
            return;
        }
        let (runtime, instance) = (self.clone(), entry.found.instance);
        let forgotten = entry.forgotten.load(Ordering::Acquire);
        self.0.tasks.spawn(async move {
            runtime.stop(instance).await;
            if forgotten {
                runtime.discard(instance).await;
            }
            entry.finishing.store(false, Ordering::Release);
        });
    }

    /// Folders of instances that have no container any more.
    async fn remove_strange_folders(&self) {
        let root = self.0.config.instances();
        let names = tokio::task::spawn_blocking(move || -> std::io::Result<Vec<InstanceId>> {
            let names =
                std::fs::read_dir(root)?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
            Ok(names.collect())
        });
        let Ok(Ok(instances)) = names.await else { return };
        for instance in instances {
            if self.entry(instance).is_none() && !self.0.making.lock().contains(&instance) {
                self.remove_folder(instance).await;
            }
        }
    }

    /// Goes by the engine's events until they end; says why they did.
    async fn follow_events(&self, since: i64) -> String {
        let engine = match self.engine() {
            Ok(engine) => engine,
            Err(why) => return why,
        };
        let filters = HashMap::from([
            ("type", vec!["container".to_owned()]),
            ("label", vec![self.0.agent.filter()]),
            ("event", ACTIONS.map(str::to_owned).to_vec()),
        ]);
        let options = EventsOptionsBuilder::new().since(&since.to_string()).filters(&filters).build();
        let mut events = pin!(engine.api().events(Some(options)).ready_chunks(BATCH));
        let mut again = interval_at(Instant::now() + LIST_AGAIN, LIST_AGAIN);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Containers that somebody stopped by hand, and when to believe it.
        let mut later: HashMap<InstanceId, Instant> = HashMap::new();
        loop {
            let due = later.values().min().copied();
            let done = tokio::select! {
                batch = events.next() => match batch {
                    Some(mut batch) => {
                        // The engine may say why the system killed somebody a moment after it has said that somebody was killed.
                        if batch.iter().any(was_killed)
                            && let Ok(Some(more)) = timeout(LATE_CAUSE, events.next()).await
                        {
                            batch.extend(more);
                        }
                        put_causes_first(&mut batch);
                        self.take_events(batch, &mut later).await
                    }
                    None => Err("the engine has closed the connection".to_owned()),
                },
                _ = again.tick() => self.look_at_all(false, false).await,
                () = async { match due { Some(due) => sleep_until(due).await, None => std::future::pending().await } } => {
                    self.look_later(&mut later).await
                }
            };
            if let Err(why) = done {
                return why;
            }
        }
    }

    async fn take_events(
        &self,
        batch: Vec<Event>,
        later: &mut HashMap<InstanceId, Instant>,
    ) -> Result<(), String> {
        let mut touched = HashSet::new();
        let mut entries = Vec::new();
        for event in batch {
            let event = event.map_err(|error| said(&error))?;
            let (Some(action), Some(actor)) = (event.action, event.actor) else { continue };
            let Some(entry) = actor.id.as_deref().and_then(|id| self.entry_of(id)) else { continue };
            if !entry.is_left_alone() {
                let code = actor.attributes.as_ref().and_then(|all| all.get("exitCode")?.parse().ok());
                self.take_event(&entry, &action, code).await;
            }
            if touched.insert(entry.found.instance) {
                entries.push(entry);
            }
        }
        for entry in entries {
            if !entry.is_left_alone() {
                let by_hand = entry.facts.lock().signalled;
                let looked = self.look(&entry, Why::Event).await.map_err(|error| said(&error))?;
                if looked == Looked::DownByHand && by_hand {
                    later.entry(entry.found.instance).or_insert_with(|| Instant::now() + BY_HAND);
                }
            }
            entry.pulse.send_modify(|pulse| *pulse += 1);
        }
        Ok(())
    }

    /// Remembers what a look at the container would not show.
    async fn take_event(&self, entry: &Entry, action: &str, exit_code: Option<i64>) {
        match action {
            "start" => {
                let mut facts = entry.facts.lock();
                (facts.out_of_memory, facts.signalled) = (false, false);
            }
            "oom" => entry.facts.lock().out_of_memory = true,
            "kill" => entry.facts.lock().signalled = true,
            "die" => {
                let lines = self.last_lines(entry, LAST_LINES).await.unwrap_or_default();
                let mut facts = entry.facts.lock();
                facts.last_exit = Some(exit(exit_code, facts.out_of_memory, lines));
                facts.exits += 1;
            }
            _ => {}
        }
    }

    async fn look_later(&self, later: &mut HashMap<InstanceId, Instant>) -> Result<(), String> {
        let now = Instant::now();
        let due: Vec<_> = later.iter().filter(|(_, at)| **at <= now).map(|(instance, _)| *instance).collect();
        for instance in due {
            later.remove(&instance);
            if let Some(entry) = self.entry(instance).filter(|entry| !entry.is_left_alone()) {
                entry.facts.lock().signalled = false;
                self.look(&entry, Why::List).await.map_err(|error| said(&error))?;
            }
        }
        Ok(())
    }

    fn entry_of(&self, container: &str) -> Option<Arc<Entry>> {
        self.0.entries.lock().values().find(|entry| entry.container == container).cloned()
    }

    /// Looks at a container that should run, and says how it is.
    pub(super) async fn look(&self, entry: &Arc<Entry>, why: Why) -> Result<Looked, Error> {
        let Ok(engine) = self.engine() else { return Ok(Looked::Fine) };
        let found = engine.inspect(&entry.container).await?;
        // Asked meanwhile to go, or known to have ended.
        if entry.is_left_alone() || !entry.is_running() {
            return Ok(Looked::Fine);
        }
        let Facts { last_exit, signalled, out_of_memory, exits, .. } = entry.facts.lock().clone();
        let Some(found) = found else {
            tracing::warn!(instance.id = %entry.found.instance, "somebody has removed an instance's container");
            self.set(entry, InstanceStatus::Exited { exit: last_exit.unwrap_or_default() });
            return Ok(Looked::Fine);
        };
        match seen(&found) {
            Seen::Between => {}
            // It ended once more than we know: the event that says how is on its way.
            Seen::Up { restarts, .. } if why == Why::Event && restarts > exits => {}
            Seen::Up { restarts, since } => {
                if why == Why::Blind {
                    // Events that nobody heard do not come any more.
                    entry.facts.lock().exits = restarts;
                }
                let blind = why == Why::Blind;
                // An exit that somebody caused by hand (`docker restart`) is none of its own, and not counted.
                let (another, restarts, last_restart) = self
                    .count(entry, |known| {
                        (known.see(restarts, since, blind), known.total(), known.cause(last_exit))
                    })
                    .await;
                self.runs(entry, restarts, last_restart, another);
                if another {
                    self.check_again(entry);
                }
            }
            Seen::Down { restarts, exit_code, out_of_memory: oom }
                if why == Why::Blind && !gave_up(restarts, exit_code, oom) =>
            {
                tracing::info!(instance.id = %entry.found.instance, "a container went down with the engine; it is started again");
                // Started by hand, the engine counts from 0 again.
                self.count(entry, |known| known.went_down(restarts)).await;
                entry.facts.lock().exits = 0;
                if let Err(error) = engine.api().start_container(&entry.container, None).await {
                    if super::is_away(&error) {
                        return Err(error);
                    }
                    tracing::error!(instance.id = %entry.found.instance, error = said(&error), "failed to start a container again");
                    let lines = self.last_lines(entry, LAST_LINES).await.unwrap_or_default();
                    let exit = Exit { not_started: Some(said(&error)), ..exit(exit_code, oom, lines) };
                    self.set(entry, InstanceStatus::Exited { exit });
                }
            }
            Seen::Down { .. } if signalled => return Ok(Looked::DownByHand),
            Seen::Down { exit_code, out_of_memory: oom, .. } => {
                let lines = self.last_lines(entry, LAST_LINES).await.unwrap_or_default();
                let exit = exit(exit_code, oom || out_of_memory, lines);
                self.set(entry, InstanceStatus::Exited { exit });
            }
        }
        Ok(Looked::Fine)
    }

    /// Counts restarts, and keeps the number if it is another.
    pub(super) async fn count<T>(&self, entry: &Entry, count: impl FnOnce(&mut Restarts) -> T) -> T {
        let (result, restarts, changed) = {
            let mut facts = entry.facts.lock();
            let known = facts.restarts;
            let result = count(&mut facts.restarts);
            (result, facts.restarts, facts.restarts != known)
        };
        if changed {
            let folder = self.0.config.folder(entry.found.instance);
            let written = tokio::task::spawn_blocking(move || restarts.write(&folder)).await;
            if let Ok(Err(error)) = written {
                tracing::warn!(instance.id = %entry.found.instance, %error, "failed to note the restarts of an instance");
            }
        }
        result
    }

    /// It runs; of `another` run it is not known whether it is well.
    fn runs(&self, entry: &Entry, restarts: u32, last_restart: Option<RestartCause>, another: bool) {
        let address = entry.address;
        // In one step: a check may pass at this moment.
        let changed = entry.status.send_if_modified(|known| {
            let health = match known {
                InstanceStatus::Running { health, .. } if !another => health.clone(),
                _ => Health::Checking {},
            };
            let status = InstanceStatus::Running { address, restarts, last_restart, health };
            let changed = *known != status;
            *known = status;
            changed
        });
        if changed {
            self.changed();
        }
    }

    fn set(&self, entry: &Entry, status: InstanceStatus) {
        let changed = entry.status.send_if_modified(|known| {
            let changed = *known != status;
            *known = status;
            changed
        });
        if changed {
            self.changed();
        }
    }
}

/// Why a container is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// It has done something.
    Event,
    /// An event may have been missed.
    List,
    /// Nothing was seen for a while: it may have gone down with the engine or the machine.
    Blind,
}

/// What a look found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Looked {
    /// Its status says it.
    Fine,
    /// It does not run since somebody sent it a signal, who may start it again.
    DownByHand,
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard::models::ContainerState;

    fn inspection(status: ContainerStateStatusEnum, restarts: i64, code: i64) -> ContainerInspectResponse {
        let state = ContainerState {
            status: Some(status),
            exit_code: Some(code),
            oom_killed: Some(code == 137),
            ..ContainerState::default()
        };
        ContainerInspectResponse {
            restart_count: Some(restarts),
            state: Some(state),
            ..ContainerInspectResponse::default()
        }
    }

    #[test]
    fn an_inspection_says_how_a_container_stands() {
        use ContainerStateStatusEnum as Status;
        assert_eq!(seen(&inspection(Status::CREATED, 0, 0)), Seen::Between);
        assert_eq!(seen(&inspection(Status::RUNNING, 0, 0)), Seen::Up { restarts: 0, since: None });
        assert_eq!(seen(&inspection(Status::RESTARTING, 2, 1)), Seen::Up { restarts: 2, since: None });
        let down = Seen::Down { restarts: 3, exit_code: Some(137), out_of_memory: true };
        assert_eq!(seen(&inspection(Status::EXITED, 3, 137)), down);
        assert_eq!(seen(&ContainerInspectResponse::default()), Seen::Between);
    }

    #[test]
    fn how_it_ended_is_a_code_or_a_signal() {
        let said = [(0, false), (1, false), (139, false), (137, true), (0, true), (255, false)]
            .map(|(code, oom)| exit(Some(code), oom, Vec::new()).to_string());
        let expected = [
            "exit status 0",
            "exit status 1",
            "signal 11",
            "out of memory",
            "exit status 0",
            "exit status 255",
        ];
        assert_eq!(said, expected);
        assert_eq!(exit(None, false, Vec::new()).to_string(), "unknown exit status");
    }

    #[test]
    fn who_went_down_with_the_machine_comes_back_and_who_crashed_for_good_does_not() {
        assert!(gave_up(3, Some(1), false));
        assert!(gave_up(3, Some(137), true));
        for (restarts, code) in
            [(2, Some(1)), (3, Some(143)), (3, Some(137)), (3, Some(255)), (3, Some(0)), (0, None)]
        {
            assert!(!gave_up(restarts, code, false), "{restarts} {code:?}");
        }
    }
}

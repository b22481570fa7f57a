//! What a round deploys: a plan for each deployment, asked for as a CI job would, with an idempotency key and again until
//! the server has answered; some are cancelled. [`crate::oracle`] compares what came of it with the plans.

use std::sync::Arc;
use std::time::Duration;

use sdp_core::api::{CreateDeployment, DeploymentCreated};
use sdp_core::client::{Client, ClientError};
use sdp_core::id::DeploymentId;
use sdp_core::name::{GitRef, IdempotencyKey, SandboxName, ServiceName};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::ground::{Ground, SERVICES, service_name};
use crate::report::Findings;
use crate::rng::Rng;

/// Sandboxes of a round.
const SANDBOXES: [&str; 4] = ["anna", "ben", "qa-1", "a-sandbox-with-a-long-name-0123456789"];
/// So many services in sandboxes each agent has; the next deployments replace or supersede the first.
const PAIRS: usize = 7;
/// Between two tries to reach a server that is away.
const AGAIN: Duration = Duration::from_millis(150);
/// How long a server that is always away is tried.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a build ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ends {
    Well,
    /// With exit code 3.
    Fails,
    /// Never by itself.
    Hangs,
    /// Neither by itself nor by SIGTERM, and it has forked something away from its session.
    Deaf,
}

impl Ends {
    fn word(self) -> &'static str {
        match self {
            Self::Well => "well",
            Self::Fails => "fails",
            Self::Hangs => "hangs",
            Self::Deaf => "deaf",
        }
    }

    pub(crate) fn by_itself(self) -> bool {
        matches!(self, Self::Well | Self::Fails)
    }
}

/// One deployment: what it builds, where to, and what is done to it.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Its branch, which no other deployment has; the token of what it prints and serves.
    pub(crate) branch: GitRef,
    pub(crate) service: ServiceName,
    pub(crate) sandbox: SandboxName,
    /// Index of the agent that can run it.
    pub(crate) agent: usize,
    pub(crate) ends: Ends,
    /// After what time it is asked for, and after what time from then on it is cancelled.
    pub(crate) after: Duration,
    pub(crate) cancel_after: Option<Duration>,
    pub(crate) commit: String,
}

impl Plan {
    /// Draws the plan of the `n`th deployment, and commits it. One that is `typed` ends by itself: people cancel nothing here.
    pub(crate) fn draw(ground: &Ground, n: usize, typed: bool, rng: &mut Rng) -> anyhow::Result<Self> {
        let branch: GitRef = format!("plan-{n}").parse()?;
        let agent = n % ground.agents.len();
        let pair = n / ground.agents.len() % PAIRS;
        let service = service_name(ground.agents[agent].name, pair % SERVICES);
        let sandbox = SANDBOXES[pair / SERVICES].parse()?;
        let ends = match n % 10 {
            3 => Ends::Fails,
            7 if !typed => Ends::Hangs,
            8 if !typed => Ends::Deaf,
            _ => Ends::Well,
        };
        // A console's deployments come one after the other, so that they take less time each.
        let duration = if typed { rng.millis(100, 1200) } else { rng.millis(400, 4000) };
        let lines = rng.between(20, 1500);
        // Builds that burst print half of their lines at once.
        let bursts = if rng.chance(40) { rng.between(10, 400) } else { 0 };
        let shape = [
            ("token", branch.to_string()),
            ("side", ground.side.display().to_string()),
            ("bind", if ground.agents[agent].docker { "0.0.0.0" } else { "127.0.0.1" }.to_owned()),
            ("ends", ends.word().to_owned()),
            ("lines", lines.to_string()),
            ("pause_us", (duration.as_micros() / u128::from(lines)).to_string()),
            ("burst_every", bursts.to_string()),
            ("err_every", if rng.chance(60) { rng.between(2, 9) } else { 0 }.to_string()),
            ("long_every", if rng.chance(30) { rng.between(20, 200) } else { 0 }.to_string()),
            // Beyond 64 KiB the agent cuts, and says so.
            ("long_bytes", rng.pick(&[300, 5000, 40_000, 65_000, 70_000]).to_string()),
            ("binary_every", if rng.chance(30) { rng.between(5, 50) } else { 0 }.to_string()),
            ("open_end", u8::from(ends.by_itself() && rng.chance(40)).to_string()),
            ("slow_start_ms", if rng.chance(40) && !typed { rng.between(500, 2500) } else { 0 }.to_string()),
        ];
        let text: String = shape.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        let commit = ground.push(&service, branch.as_str(), &text)?;
        let cancel_after = match ends {
            Ends::Hangs | Ends::Deaf => Some(rng.millis(2000, 7500)),
            Ends::Well | Ends::Fails => (rng.chance(12) && !typed).then(|| rng.millis(0, 5000)),
        };
        let after = rng.millis(0, 1500);
        Ok(Self { branch, service: service.parse()?, sandbox, agent, ends, after, cancel_after, commit })
    }

    /// What a person would type.
    pub(crate) fn command(&self) -> String {
        format!("deploy {} {} to {}", self.service, self.branch, self.sandbox)
    }
}

/// The same request again and again while the server is away.
pub(crate) async fn patiently<T, F: Future<Output = Result<T, ClientError>>>(
    request: impl Fn() -> F,
) -> Result<T, ClientError> {
    let begun = Instant::now();
    loop {
        match request().await {
            Err(error) if error.is_away() && begun.elapsed() < PATIENCE => sleep(AGAIN).await,
            answer => return answer,
        }
    }
}

/// Asks for one deployment, and cancels it if that is planned; its id, once the server has said it.
pub(crate) async fn ask(client: Client, plan: Arc<Plan>, findings: Findings) -> Option<DeploymentId> {
    let begun = Instant::now();
    sleep_until(begun + plan.after).await;
    let wanted = CreateDeployment {
        service: plan.service.clone(),
        git_ref: Some(plan.branch.clone()),
        sandbox: Some(plan.sandbox.clone()),
        env: Default::default(),
        notify: None,
        git_credential: None,
    };
    let Ok(key) = format!("chaos-{}", plan.branch).parse::<IdempotencyKey>() else { return None };
    let created: DeploymentCreated = match patiently(|| client.deploy(&wanted, Some(&key))).await {
        Ok(created) => created,
        Err(error) => {
            findings.say(
                "refused",
                &plan.branch,
                format!("the request was not taken: {error} ({})", error.code()),
            );
            return None;
        }
    };
    if let Some(after) = plan.cancel_after {
        sleep(after).await;
        cancel(&client, created.id, &plan, &findings).await;
    }
    Some(created.id)
}

/// One that is over already is no failure.
pub(crate) async fn cancel(client: &Client, id: DeploymentId, plan: &Plan, findings: &Findings) {
    match patiently(|| client.cancel(id.into())).await {
        Ok(_) => {}
        Err(error) if error.code() == "already_ended" => {}
        Err(error) => findings.say("refused", &plan.branch, format!("it cannot be cancelled: {error}")),
    }
}

/// Asks for all of them at the times they are planned for.
pub(crate) fn ask_for_all(
    client: &Client,
    plans: &[Arc<Plan>],
    findings: &Findings,
) -> JoinSet<Option<DeploymentId>> {
    let mut asking = JoinSet::new();
    for plan in plans {
        asking.spawn(ask(client.clone(), plan.clone(), findings.clone()));
    }
    asking
}

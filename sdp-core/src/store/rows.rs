//! The statements: what is written in one turn of the orchestrator, what a start needs, and what lists ask for.

use rusqlite::{Connection, Row, params, params_from_iter};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::StoreError;
use super::secrets::SecretRow;
use crate::batch::Batch;
use crate::catalog::{Environment, Service, Template};
use crate::deployment::{Deployment, State};
use crate::event::Event;
use crate::feed::EventFilter;
use crate::id::{
    BatchId, BootId, DeploymentId, DeploymentNumber, DeploymentRef, Epoch, EventSeq, InstanceId, LockId,
};
use crate::lock::Lock;
use crate::name::{
    AgentName, CommitId, EnvName, EnvironmentName, IdempotencyKey, PersonName, SandboxName, ServiceName,
    TemplateName,
};
use crate::platform::{DeploymentFilter, InstanceFilter, StateFilter};
use crate::sandbox::{Instance, Sandbox, keeps_route};
use crate::wire::Preflight;

/// How long an idempotency key is remembered, in milliseconds.
const IDEMPOTENCY_KEPT: i64 = 7 * 24 * 3600 * 1000;

/// What an unended deployment was asked with, and how far its agent is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JobRow {
    pub(crate) deployment: DeploymentId,
    /// The service as it was when the deployment was asked for.
    pub(crate) service: Service,
    pub(crate) instance: InstanceId,
    /// The commit of the deployment that had succeeded last in its place when it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) since: Option<CommitId>,
    /// The agent that most likely has what is needed already.
    pub(crate) prefer: Option<AgentName>,
    pub(crate) had_credential: bool,
    /// Whose own credential it was: it can be had again as long as that person is logged in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) credential_of: Option<PersonName>,
    pub(crate) accepted: bool,
    /// The last progress item that was applied.
    pub(crate) progress: u64,
}

/// An agent, as far as it must be known before it connects again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AgentRow {
    pub(crate) name: AgentName,
    pub(crate) epoch: Epoch,
    pub(crate) boot_id: BootId,
    pub(crate) since: jiff::Timestamp,
    pub(crate) version: String,
    pub(crate) labels: std::collections::BTreeSet<crate::name::Label>,
    pub(crate) capacity: u32,
    pub(crate) runtimes: Vec<String>,
    pub(crate) preflight: Vec<Preflight>,
    pub(crate) router: Option<url::Url>,
    /// Somebody wants it to get no new work.
    #[serde(default)]
    pub(crate) draining: bool,
}

/// A request that may come again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IdempotencyRow {
    pub(crate) principal: String,
    pub(crate) key: IdempotencyKey,
    pub(crate) fingerprint: String,
    pub(crate) deployment: DeploymentId,
    pub(crate) at_ms: i64,
}

/// Everything that one turn changes; saved in one transaction.
#[derive(Debug, Default)]
pub(crate) struct Writes {
    pub(crate) events: Vec<Event>,
    pub(crate) deployments: Vec<Deployment>,
    pub(crate) jobs: Vec<JobRow>,
    pub(crate) jobs_gone: Vec<DeploymentId>,
    pub(crate) instances: Vec<(Instance, bool)>,
    pub(crate) environments: Vec<Environment>,
    pub(crate) environments_gone: Vec<EnvironmentName>,
    pub(crate) templates: Vec<Template>,
    pub(crate) templates_gone: Vec<TemplateName>,
    pub(crate) locks: Vec<Lock>,
    pub(crate) locks_gone: Vec<LockId>,
    pub(crate) batches: Vec<Batch>,
    pub(crate) sandboxes: Vec<Sandbox>,
    pub(crate) sandboxes_gone: Vec<SandboxName>,
    pub(crate) services: Vec<Service>,
    pub(crate) services_gone: Vec<ServiceName>,
    pub(crate) secrets: Vec<SecretRow>,
    pub(crate) secrets_gone: Vec<(ServiceName, EnvName)>,
    pub(crate) agents: Vec<AgentRow>,
    /// Those that were forgotten, with all they could come in with.
    pub(crate) agents_gone: Vec<AgentName>,
    pub(crate) idempotency: Vec<IdempotencyRow>,
}

impl Writes {
    pub(crate) fn is_empty(&self) -> bool {
        self.events.is_empty()
            && self.deployments.is_empty()
            && self.jobs.is_empty()
            && self.jobs_gone.is_empty()
            && self.instances.is_empty()
            && self.environments.is_empty()
            && self.environments_gone.is_empty()
            && self.templates.is_empty()
            && self.templates_gone.is_empty()
            && self.locks.is_empty()
            && self.locks_gone.is_empty()
            && self.batches.is_empty()
            && self.sandboxes.is_empty()
            && self.sandboxes_gone.is_empty()
            && self.services.is_empty()
            && self.services_gone.is_empty()
            && self.secrets.is_empty()
            && self.secrets_gone.is_empty()
            && self.agents.is_empty()
            && self.agents_gone.is_empty()
            && self.idempotency.is_empty()
    }

    pub(crate) fn save(&self, db: &Connection) -> Result<(), StoreError> {
        for event in &self.events {
            let about = &event.about;
            db.prepare_cached(
                "INSERT INTO event (seq, at_ms, deployment, instance, service, sandbox, agent, body)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?
            .execute(params![
                int(event.seq.0),
                event.at.as_millisecond(),
                about.deployment.map(|id| id.to_string()),
                about.instance.map(|id| id.to_string()),
                about.service.as_ref().map(ServiceName::as_str),
                about.sandbox.as_ref().map(SandboxName::as_str),
                about.agent.as_ref().map(AgentName::as_str),
                json(event)?,
            ])?;
            if let Some(entry) = crate::audit::automatic(event) {
                crate::audit::insert(db, event.at, entry)?;
            }
        }
        for deployment in &self.deployments {
            let (state, outcome) = match &deployment.state {
                State::Queued {} => ("queued", None),
                State::Running { .. } => ("running", None),
                State::Ended { outcome } => ("ended", Some(outcome.code())),
            };
            db.prepare_cached(
                "INSERT INTO deployment (number, id, service, sandbox, state, outcome, body)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                 ON CONFLICT (number) DO UPDATE SET state = ?5, outcome = ?6, body = ?7",
            )?
            .execute(params![
                int(deployment.number.0),
                deployment.id.to_string(),
                deployment.service.as_str(),
                deployment.sandbox.as_str(),
                state,
                outcome,
                json(deployment)?,
            ])?;
        }
        for job in &self.jobs {
            db.prepare_cached("INSERT OR REPLACE INTO job (deployment, body) VALUES (?1, ?2)")?
                .execute(params![job.deployment.to_string(), json(job)?])?;
        }
        for id in &self.jobs_gone {
            db.prepare_cached("DELETE FROM job WHERE deployment = ?1")?.execute([id.to_string()])?;
        }
        for (instance, routed) in &self.instances {
            db.prepare_cached(
                "INSERT OR REPLACE INTO instance (id, service, sandbox, over, routed, body)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute(params![
                instance.id.to_string(),
                instance.service.as_str(),
                instance.sandbox.as_str(),
                instance.state.is_over(),
                routed,
                json(instance)?,
            ])?;
        }
        save_named(db, "environment", self.environments.iter().map(|e| (e.name.as_str(), e)))?;
        remove_named(db, "environment", self.environments_gone.iter().map(EnvironmentName::as_str))?;
        remove_named(db, "template", self.templates_gone.iter().map(TemplateName::as_str))?;
        for template in &self.templates {
            db.prepare_cached("INSERT OR REPLACE INTO template (name, version, body) VALUES (?1, ?2, ?3)")?
                .execute(params![template.name.as_str(), template.version, json(template)?])?;
        }
        for lock in &self.locks {
            db.prepare_cached("INSERT OR REPLACE INTO lock (id, body) VALUES (?1, ?2)")?
                .execute(params![lock.id.to_string(), json(lock)?])?;
        }
        for id in &self.locks_gone {
            db.prepare_cached("DELETE FROM lock WHERE id = ?1")?.execute([id.to_string()])?;
        }
        for batch in &self.batches {
            db.prepare_cached(
                "INSERT OR REPLACE INTO batch (id, sandbox, open, body) VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![
                batch.id.to_string(),
                batch.sandbox.as_str(),
                batch.outcome.is_none(),
                json(batch)?
            ])?;
        }
        save_named(db, "sandbox", self.sandboxes.iter().map(|s| (s.name.as_str(), s)))?;
        remove_named(db, "sandbox", self.sandboxes_gone.iter().map(SandboxName::as_str))?;
        save_named(db, "service", self.services.iter().map(|s| (s.name.as_str(), s)))?;
        remove_named(db, "service", self.services_gone.iter().map(ServiceName::as_str))?;
        self.secrets.iter().try_for_each(|secret| secret.save(db))?;
        self.secrets_gone.iter().try_for_each(|(service, name)| SecretRow::remove(db, service, name))?;
        for agent in &self.agents_gone {
            db.prepare_cached("DELETE FROM agent WHERE name = ?1")?.execute([agent.as_str()])?;
            crate::access::forget_agent(db, agent)?;
        }
        for agent in &self.agents {
            db.prepare_cached(
                "INSERT OR REPLACE INTO agent (name, epoch, boot_id, body) VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![
                agent.name.as_str(),
                int(agent.epoch.0),
                agent.boot_id.to_string(),
                json(agent)?
            ])?;
        }
        for row in &self.idempotency {
            db.prepare_cached(
                "INSERT OR REPLACE INTO idempotency (principal, key, fingerprint, deployment, at_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![
                row.principal,
                row.key.as_str(),
                row.fingerprint,
                row.deployment.to_string(),
                row.at_ms
            ])?;
        }
        Ok(())
    }
}

fn save_named<'a, T: Serialize + 'a>(
    db: &Connection,
    table: &str,
    rows: impl Iterator<Item = (&'a str, &'a T)>,
) -> Result<(), StoreError> {
    for (name, row) in rows {
        db.prepare_cached(&format!("INSERT OR REPLACE INTO {table} (name, body) VALUES (?1, ?2)"))?
            .execute(params![name, json(row)?])?;
    }
    Ok(())
}

fn remove_named<'a>(
    db: &Connection,
    table: &str,
    names: impl Iterator<Item = &'a str>,
) -> Result<(), StoreError> {
    for name in names {
        db.prepare_cached(&format!("DELETE FROM {table} WHERE name = ?1"))?.execute([name])?;
    }
    Ok(())
}

/// What a start needs: what is open, not history.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) seq: EventSeq,
    pub(crate) number: DeploymentNumber,
    pub(crate) services: Vec<Service>,
    pub(crate) environments: Vec<Environment>,
    /// The newest version of each.
    pub(crate) templates: Vec<Template>,
    pub(crate) locks: Vec<Lock>,
    pub(crate) batches: Vec<Batch>,
    pub(crate) sandboxes: Vec<Sandbox>,
    pub(crate) deployments: Vec<(Deployment, JobRow)>,
    pub(crate) instances: Vec<Instance>,
    pub(crate) secrets: Vec<SecretRow>,
    pub(crate) agents: Vec<AgentRow>,
    pub(crate) idempotency: Vec<IdempotencyRow>,
}

impl Snapshot {
    pub(crate) fn load(db: &Connection) -> Result<Self, StoreError> {
        // After a restore both go on above what they were.
        let (seq, number) = db.query_row(
            "SELECT max(coalesce((SELECT max(seq) FROM event), 0), seq_floor),
                    max(coalesce((SELECT max(number) FROM deployment), 0), number_floor) FROM identity",
            [],
            |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)),
        )?;
        let newest =
            db.query_row("SELECT coalesce(max(at_ms), 0) FROM idempotency", [], |row| row.get::<_, i64>(0))?;
        let mut statement = db.prepare(
            "SELECT d.body, j.body FROM deployment d JOIN job j ON j.deployment = d.id
             WHERE d.state <> 'ended' ORDER BY d.number",
        )?;
        let mut rows = statement.query([])?;
        let mut deployments = Vec::new();
        while let Some(row) = rows.next()? {
            deployments.push((parse("deployment", row.get_ref(0)?)?, parse("job", row.get_ref(1)?)?));
        }
        Ok(Self {
            seq: EventSeq(seq.unsigned_abs()),
            number: DeploymentNumber(number.unsigned_abs()),
            services: bodies(db, "service", "SELECT body FROM service ORDER BY name", [])?,
            environments: bodies(db, "environment", "SELECT body FROM environment ORDER BY name", [])?,
            templates: bodies(
                db,
                "template",
                "SELECT body FROM template t
                 WHERE version = (SELECT max(version) FROM template WHERE name = t.name) ORDER BY name",
                [],
            )?,
            locks: bodies(db, "lock", "SELECT body FROM lock ORDER BY id", [])?,
            batches: bodies(db, "batch", "SELECT body FROM batch WHERE open = 1 ORDER BY id", [])?,
            sandboxes: bodies(db, "sandbox", "SELECT body FROM sandbox ORDER BY name", [])?,
            deployments,
            instances: bodies(
                db,
                "instance",
                "SELECT body FROM instance WHERE over = 0 OR routed = 1 ORDER BY id",
                [],
            )?,
            secrets: SecretRow::all(db)?,
            agents: bodies(db, "agent", "SELECT body FROM agent ORDER BY name", [])?,
            idempotency: idempotency(db, newest - IDEMPOTENCY_KEPT)?,
        })
    }
}

fn idempotency(db: &Connection, since_ms: i64) -> Result<Vec<IdempotencyRow>, StoreError> {
    let mut statement = db.prepare(
        "SELECT principal, key, fingerprint, deployment, at_ms FROM idempotency WHERE at_ms >= ?1",
    )?;
    let mut rows = statement.query([since_ms])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let corrupt = |problem: String| StoreError::Corrupt { table: "idempotency", problem };
        found.push(IdempotencyRow {
            principal: row.get(0)?,
            key: IdempotencyKey::parse(row.get::<_, String>(1)?).map_err(|e| corrupt(e.to_string()))?,
            fingerprint: row.get(2)?,
            deployment: row
                .get::<_, String>(3)?
                .parse()
                .map_err(|e: crate::id::InvalidId| corrupt(e.to_string()))?,
            at_ms: row.get(4)?,
        });
    }
    Ok(found)
}

/// Which events a page of a feed wants.
#[derive(Debug)]
pub(crate) struct EventRowFilter {
    pub(crate) after: EventSeq,
    pub(crate) filter: EventFilter,
    pub(crate) limit: u32,
}

impl EventRowFilter {
    pub(crate) fn load(&self, db: &Connection) -> Result<Vec<Event>, StoreError> {
        let mut query = Query::new("SELECT body FROM event WHERE seq > ?", int(self.after.0));
        query.and("deployment = ?", self.filter.deployment.map(|id| id.to_string()));
        query.and("service = ?", self.filter.service.as_ref().map(ToString::to_string));
        query.and("sandbox = ?", self.filter.sandbox.as_ref().map(ToString::to_string));
        query.end("ORDER BY seq LIMIT ?", self.limit);
        bodies(db, "event", &query.sql, params_from_iter(query.values))
    }
}

pub(crate) fn deployment(
    db: &Connection,
    reference: DeploymentRef,
) -> Result<Option<Deployment>, StoreError> {
    let found = match reference {
        DeploymentRef::Id(id) => {
            bodies(db, "deployment", "SELECT body FROM deployment WHERE id = ?1", [id.to_string()])
        }
        DeploymentRef::Number(number) => {
            bodies(db, "deployment", "SELECT body FROM deployment WHERE number = ?1", [int(number.0)])
        }
    };
    Ok(found?.pop())
}

pub(crate) fn deployments(db: &Connection, filter: &DeploymentFilter) -> Result<Vec<Deployment>, StoreError> {
    let before = filter.before.map_or(i64::MAX, |number| int(number.0));
    let mut query = Query::new("SELECT body FROM deployment WHERE number < ?", before);
    query.and("service = ?", filter.service.as_ref().map(ToString::to_string));
    query.and("sandbox = ?", filter.sandbox.as_ref().map(ToString::to_string));
    query.and(
        "state = ?",
        filter.state.map(|state| {
            match state {
                StateFilter::Queued => "queued",
                StateFilter::Running => "running",
                StateFilter::Ended => "ended",
            }
            .to_owned()
        }),
    );
    query.end("ORDER BY number DESC LIMIT ?", filter.limit);
    bodies(db, "deployment", &query.sql, params_from_iter(query.values))
}

/// The newest deployment of a service in a sandbox that has succeeded.
pub(crate) fn last_succeeded(
    db: &Connection,
    service: &ServiceName,
    sandbox: &SandboxName,
) -> Result<Option<Deployment>, StoreError> {
    let sql = "SELECT body FROM deployment
               WHERE service = ?1 AND sandbox = ?2 AND outcome = 'succeeded' ORDER BY number DESC LIMIT 1";
    Ok(bodies(db, "deployment", sql, [service.as_str(), sandbox.as_str()])?.pop())
}

/// A batch.
pub(crate) fn batch(db: &Connection, id: BatchId) -> Result<Option<Batch>, StoreError> {
    Ok(bodies(db, "batch", "SELECT body FROM batch WHERE id = ?1", [id.to_string()])?.pop())
}

/// All versions of a template, the newest first.
pub(crate) fn template_versions(db: &Connection, name: &TemplateName) -> Result<Vec<Template>, StoreError> {
    let sql = "SELECT body FROM template WHERE name = ?1 ORDER BY version DESC";
    bodies(db, "template", sql, [name.as_str()])
}

/// One version of a template.
pub(crate) fn template_version(
    db: &Connection,
    name: &TemplateName,
    version: u32,
) -> Result<Option<Template>, StoreError> {
    let sql = "SELECT body FROM template WHERE name = ?1 AND version = ?2";
    Ok(bodies(db, "template", sql, params![name.as_str(), version])?.pop())
}

/// How many instances that are over a list holds at most.
const MAX_INSTANCES: u32 = 500;

pub(crate) fn instances(db: &Connection, filter: &InstanceFilter) -> Result<Vec<Instance>, StoreError> {
    let mut query = Query::new("SELECT body FROM instance WHERE over <= ?", i64::from(filter.all));
    query.and("service = ?", filter.service.as_ref().map(ToString::to_string));
    query.and("sandbox = ?", filter.sandbox.as_ref().map(ToString::to_string));
    query.end("ORDER BY id DESC LIMIT ?", MAX_INSTANCES);
    bodies(db, "instance", &query.sql, params_from_iter(query.values))
}

pub(crate) fn instance(db: &Connection, id: InstanceId) -> Result<Option<Instance>, StoreError> {
    Ok(bodies(db, "instance", "SELECT body FROM instance WHERE id = ?1", [id.to_string()])?.pop())
}

/// Writes something that changes nothing, to see that it can be done.
pub(crate) fn probe(db: &Connection) -> Result<(), StoreError> {
    let version: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
    Ok(db.pragma_update(None, "user_version", version)?)
}

/// Whether the route table depends on an instance though it is over.
pub(crate) fn is_routed(instance: &Instance) -> bool {
    keeps_route(instance).is_some()
}

/// A statement whose conditions depend on what is asked; values are always bound, never spliced.
struct Query {
    sql: String,
    values: Vec<rusqlite::types::Value>,
}

impl Query {
    fn new(sql: &str, value: i64) -> Self {
        Self { sql: sql.to_owned(), values: vec![value.into()] }
    }

    fn and(&mut self, condition: &str, value: Option<String>) {
        if let Some(value) = value {
            self.sql.push_str(" AND ");
            self.sql.push_str(condition);
            self.values.push(value.into());
        }
    }

    fn end(&mut self, sql: &str, limit: u32) {
        self.sql.push(' ');
        self.sql.push_str(sql);
        self.values.push(i64::from(limit).into());
    }
}

fn bodies<T: DeserializeOwned>(
    db: &Connection,
    table: &'static str,
    sql: &str,
    values: impl rusqlite::Params,
) -> Result<Vec<T>, StoreError> {
    let mut statement = db.prepare_cached(sql)?;
    let mut rows = statement.query(values)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(body(table, row)?);
    }
    Ok(found)
}

fn body<T: DeserializeOwned>(table: &'static str, row: &Row<'_>) -> Result<T, StoreError> {
    parse(table, row.get_ref(0)?)
}

pub(super) fn parse<T: DeserializeOwned>(
    table: &'static str,
    value: rusqlite::types::ValueRef<'_>,
) -> Result<T, StoreError> {
    let corrupt = |problem: String| StoreError::Corrupt { table, problem };
    let text = value.as_str().map_err(|error| corrupt(error.to_string()))?;
    serde_json::from_str(text).map_err(|error| corrupt(error.to_string()))
}

pub(super) fn json(value: &impl Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value)
        .map_err(|error| StoreError::Corrupt { table: "new row", problem: error.to_string() })
}

/// SQLite's integers are signed; our numbers never reach the sign bit.
fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

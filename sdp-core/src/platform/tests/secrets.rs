//! Secrets of services: where they go, and where they never are.

use std::collections::BTreeMap;

use super::agent::commit;
use super::*;
use crate::deployment::Step;
use crate::failure::FailureReason;
use crate::id::BootId;
use crate::name::{EnvName, ServiceName};
use crate::secret::{GivenTo, Secret};
use crate::wire::{FromAgent, JobResult, Progress, SecretSource, SecretVariable, ToAgent};

const VALUE: &str = "postgres://payments:hunter2@db/payments";

fn value(text: &str) -> SecretSource {
    SecretSource::Value { value: Secret::new(text) }
}

fn file(text: &str) -> SecretSource {
    SecretSource::File { file: name(text) }
}

impl Bench {
    async fn set(
        &self,
        variable: &str,
        source: SecretSource,
        given_to: GivenTo,
    ) -> Result<bool, PlatformError> {
        let set = self.platform.set_secret(&alice(), &name("hello"), name(variable), source, given_to).await;
        set.map(|(_, created)| created)
    }

    async fn code(&self, variable: &str, source: SecretSource) -> &'static str {
        self.set(variable, source, GivenTo::Run).await.expect_err("refused").code()
    }

    /// Whether a text is anywhere in the data folder.
    fn holds(&self, text: &str) -> bool {
        fn search(folder: &Path, text: &[u8]) -> bool {
            std::fs::read_dir(folder).expect("reads").flatten().any(|entry| match entry.path() {
                path if path.is_dir() => search(&path, text),
                path => {
                    let bytes = std::fs::read(path).expect("reads");
                    bytes.windows(text.len()).any(|part| part == text)
                }
            })
        }
        search(self.folder.path(), text.as_bytes())
    }
}

async fn sent(agent: &mut PlayedAgent) -> (ToAgent, Vec<SecretVariable>) {
    let message = agent.hear(|message| matches!(message, ToAgent::Deploy { .. })).await;
    let ToAgent::Deploy { command, secrets, .. } = &message else { unreachable!() };
    agent.say(FromAgent::Accepted { command: *command }).await;
    let secrets = secrets.clone();
    (message, secrets)
}

fn variable(text: &str, source: SecretSource, build: bool, run: bool) -> SecretVariable {
    SecretVariable { name: name(text), source, build, run }
}

#[tokio::test]
async fn a_deployment_brings_them_to_its_agent_and_nothing_else_has_them() {
    let mut bench = Bench::start().await;
    assert!(bench.set("DB", value(VALUE), GivenTo::Both).await.expect("set"));
    assert!(bench.set("KEY", file("payments-key"), GivenTo::Build).await.expect("set"));
    assert!(bench.set("MAIL", value("first value"), GivenTo::Run).await.expect("set"));
    assert!(!bench.set("MAIL", value("second value"), GivenTo::Run).await.expect("set"), "replaced");
    // Known to another life of the server, too.
    bench.restart().await;
    let list = bench.platform.secrets(&name("hello")).await.expect("listed");
    let list = serde_json::to_value(&list).expect("JSON");
    let short: Vec<_> = list
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| format!("{} {} {} {}", one["name"], one["given_to"], one["source"], one["by"]["name"]))
        .collect();
    insta::assert_snapshot!(short.join("\n"), @r#"
    "DB" "both" {"type":"value"} "alice"
    "KEY" "build" {"file":"payments-key","type":"file"} "alice"
    "MAIL" "run" {"type":"value"} "alice"
    "#);
    let mut agent = bench.agent("vm-1").await;
    bench.deploy("hello", "main").await;
    let (message, secrets) = sent(&mut agent).await;
    let expected = [
        variable("DB", value(VALUE), true, true),
        variable("KEY", file("payments-key"), true, false),
        variable("MAIL", value("second value"), false, true),
    ];
    assert_eq!(secrets, expected);
    assert!(!format!("{message:?}").contains("hunter2"), "nobody prints it");
    bench.deploy("ledger", "main").await;
    assert_eq!(sent(&mut agent).await.1, [], "another service's");
    for text in ["hunter2", "first value", "second value"] {
        assert!(!bench.holds(text), "{text} is in the data folder");
    }
    assert!(bench.holds("payments-key"), "the search finds what is there");
}

#[tokio::test]
async fn what_happens_to_them_is_told_by_name_and_the_services_end_takes_them_along() {
    let bench = Bench::start().await;
    bench.set("DB", value(VALUE), GivenTo::Run).await.expect("set");
    let event = bench.event(|event| matches!(event.kind, EventKind::SecretSet { .. })).await;
    assert_eq!((event.by, event.about.service), (alice(), Some(name("hello"))));
    assert_eq!(event.kind, EventKind::SecretSet { name: name("DB") });
    let (service, variable): (ServiceName, EnvName) = (name("hello"), name("DB"));
    bench.platform.delete_secret(&alice(), &service, &variable).await.expect("deleted");
    bench.event(|event| event.kind == EventKind::SecretDeleted { name: name("DB") }).await;
    let again = bench.platform.delete_secret(&alice(), &service, &variable).await.expect_err("gone");
    assert_eq!(again.code(), "unknown_secret");
    assert_eq!(bench.platform.secrets(&name("helo")).await.expect_err("none").code(), "unknown_service");
    bench.set("DB", value(VALUE), GivenTo::Run).await.expect("set");
    bench.platform.delete_service(&alice(), &service).await.expect("deleted");
    bench.platform.save_service(&alice(), super::service("hello"), Save::Create).await.expect("saved");
    assert_eq!(bench.platform.secrets(&service).await.expect("listed"), [], "a new service has none");
    let rows = |db: &rusqlite::Connection| {
        Ok(db.query_row("SELECT count(*) FROM secret", [], |row| row.get::<_, i64>(0))?)
    };
    assert_eq!(bench.platform.store().read(rows).await.expect("read"), 0);
}

#[tokio::test]
async fn a_variable_is_plain_or_secret_and_never_both() {
    let bench = Bench::start().await;
    let plain = |text: &str| BTreeMap::from([(name::<EnvName>(text), "1".to_owned())]);
    let mut hello = service("hello");
    hello.env = plain("LEVEL");
    bench.platform.save_service(&alice(), hello.clone(), Save::Put).await.expect("saved");
    assert_eq!(bench.code("LEVEL", value(VALUE)).await, "variable_taken");
    bench.set("DB", value(VALUE), GivenTo::Run).await.expect("set");
    hello.env = plain("DB");
    let error = bench.platform.save_service(&alice(), hello, Save::Put).await.expect_err("refused");
    insta::assert_snapshot!(
        format!("{}: {error}; {}", error.code(), error.hint()),
        @"variable_taken: DB is a secret of hello already; leave the variable out, or delete the service's secret of that name first"
    );
    let deploy = Deploy { env: plain("DB"), ..Deploy::new(name("hello")) };
    let error = bench.platform.deploy(&alice(), deploy).await.expect_err("refused");
    assert_eq!(error.code(), "variable_taken");
    // Another service may have it.
    let deploy = Deploy { env: plain("DB"), ..Deploy::new(name("ledger")) };
    bench.platform.deploy(&alice(), deploy).await.expect("taken");
}

#[tokio::test]
async fn what_could_not_be_hidden_is_refused_and_there_are_not_too_many() {
    let bench = Bench::start().await;
    assert_eq!(bench.code("DB", value("12345")).await, "secret_too_short");
    assert_eq!(bench.code("DB", value("aaaaaaaa")).await, "secret_unfit");
    assert_eq!(bench.code("DB", value(&"ab".repeat(40_000))).await, "secret_too_long");
    for n in 0..64 {
        bench.set(&format!("V{n}"), file("key"), GivenTo::Run).await.expect("set");
    }
    assert_eq!(bench.code("V64", file("key")).await, "too_many_secrets");
    bench.set("V63", value(VALUE), GivenTo::Run).await.expect("one that is there is replaced");
    let long = "ab".repeat(32 * 1024);
    bench.set("V0", value(&long), GivenTo::Run).await.expect("set");
    assert_eq!(bench.code("V3", value(&long)).await, "too_many_secrets");
}

fn failed_with(deployment: &Deployment) -> (FailureReason, String) {
    match deployment.outcome() {
        Some(Outcome::Failed { failure }) => (failure.reason, failure.detail.clone()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn with_another_key_a_deployment_fails_at_once_until_they_are_set_again() {
    let mut bench = Bench::start().await;
    bench.set("DB", value(VALUE), GivenTo::Run).await.expect("set");
    bench.platform.stop().await;
    std::fs::remove_file(bench.folder.path().join("seal.key")).expect("removed");
    bench.platform = start_in(bench.folder.path(), |_| ()).await;
    let mut agent = bench.agent("vm-1").await;
    let deployment = bench.deploy("hello", "main").await;
    let (reason, detail) = failed_with(&bench.ended(&deployment).await);
    assert_eq!(reason, FailureReason::SecretUnreadable);
    insta::assert_snapshot!(detail, @"DB: it was sealed with another key");
    bench.deploy("ledger", "main").await;
    assert_eq!(sent(&mut agent).await.1, [], "others are none the worse");
    bench.set("DB", value("a new value"), GivenTo::Run).await.expect("set");
    bench.deploy("hello", "main").await;
    assert_eq!(sent(&mut agent).await.1, [variable("DB", value("a new value"), false, true)]);
}

#[tokio::test]
async fn a_row_that_was_copied_to_another_service_opens_nothing() {
    let bench = Bench::start().await;
    bench.set("DB", value(VALUE), GivenTo::Run).await.expect("set");
    let copy = |db: &rusqlite::Connection| {
        let copy = "INSERT INTO secret SELECT 'ledger', name, given_to, file, sealed, by, at_ms FROM secret";
        Ok(db.execute(copy, [])?)
    };
    bench.platform.store().write(copy).await.expect("written");
    let mut bench = bench;
    bench.restart().await;
    let _agent = bench.agent("vm-1").await;
    let deployment = bench.deploy("ledger", "main").await;
    assert_eq!(failed_with(&bench.ended(&deployment).await).0, FailureReason::SecretUnreadable);
}

#[tokio::test]
async fn without_a_key_file_only_files_of_agents_are_taken() {
    let bench = Bench::with(|config| config.vault = VaultKey::Memory).await;
    assert_eq!(bench.code("DB", value(VALUE)).await, "secrets_need_a_key");
    bench.set("DB", file("payments-db"), GivenTo::Run).await.expect("set");
    let mut agent = bench.agent("vm-1").await;
    bench.deploy("hello", "main").await;
    assert_eq!(sent(&mut agent).await.1, [variable("DB", file("payments-db"), false, true)]);
    assert!(!bench.folder.path().join("seal.key").exists());
}

#[tokio::test]
async fn a_key_that_others_can_read_is_refused_and_the_folder_is_free_again() {
    use std::os::unix::fs::PermissionsExt as _;
    let bench = Bench::start().await;
    bench.platform.stop().await;
    let key = bench.folder.path().join("seal.key");
    let mode = |mode| std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).expect("set");
    mode(0o640);
    let error = Platform::start(PlatformConfig::new(bench.folder.path())).await.expect_err("refused");
    assert_eq!((error.code(), error.hint()), ("key_unusable", "chmod 600"));
    assert!(error.needs_a_person());
    mode(0o600);
    start_in(bench.folder.path(), |_| ()).await.stop().await;
}

#[tokio::test]
async fn a_job_past_its_fetch_that_waits_for_secrets_is_sent_again_though_its_credential_is_gone() {
    let bench = Bench::start().await;
    bench.set("DB", value(VALUE), GivenTo::Run).await.expect("set");
    let mut agent = bench.agent("vm-1").await;
    let credential = Some(GitCredential { username: "alice".into(), password: Secret::new("pw") });
    let order = Deploy { credential, ..Deploy::new(name("hello")) };
    let deployment = bench.platform.deploy(&alice(), order).await.expect("taken");
    let mut job = agent.take_job().await;
    job.progress(&agent, Progress::Resolved { commit: commit('a') }).await;
    job.progress(&agent, Progress::StepStarted { step: Step::Build }).await;
    job.progress(&agent, Progress::StepStarted { step: Step::Start }).await;
    agent.hear(|message| matches!(message, ToAgent::Ack { progress: 3, .. })).await;
    agent.boot = BootId::new();
    agent.jobs[0].interrupted = true;
    agent.reconnect(&bench.platform).await;
    assert_eq!(sent(&mut agent).await.1, [variable("DB", value(VALUE), false, true)]);
    let now = bench.platform.deployment(deployment.id.into()).await.expect("known");
    assert!(!now.is_ended(), "{now:?}");
}

#[tokio::test]
async fn a_file_that_is_missing_is_told_with_its_agent() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("vm-1").await;
    let deployment = bench.deploy("hello", "main").await;
    let mut job = agent.take_job().await;
    let detail = "DB: there is no file payments-db in /etc/sdp/secrets";
    let failure = crate::failure::Failure::new(None, FailureReason::SecretMissing, detail);
    job.end(&agent, JobResult::Failed { failure }).await;
    agent.done_ok(&job).await;
    let (_, detail) = failed_with(&bench.ended(&deployment).await);
    insta::assert_snapshot!(detail, @"vm-1: DB: there is no file payments-db in /etc/sdp/secrets");
}

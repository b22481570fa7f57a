//! Names and labels of containers: whatever an agent needs to find its own again after a restart. Pure.
//!
//! People meet the name in `docker ps`: `sdp-<service>-<sandbox>-<hash>`, such as `sdp-payments-qa-42-1a2b3c`, at most [`LONGEST`]
//! characters of `[a-z0-9-]` whatever service and sandbox are called, and the container's host name, too. The same start has the
//! same name, another one another. The agent goes by the labels alone: of a name it asks only whether it is free.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use sdp_core::catalog::HealthCheck;
use sdp_core::id::{DeploymentId, InstanceId};
use sdp_core::name::{SandboxName, ServiceName, short_hash, slug};
use sdp_core::secret::Secret;

use crate::runtime::StartSpec;

/// The longest host name.
const LONGEST: usize = 63;
/// Says whose a container or network is.
pub(super) const AGENT: &str = "sdp.agent";
const KIND: &str = "sdp.kind";
const INSTANCE: &str = "sdp.instance";
const DEPLOYMENT: &str = "sdp.deployment";
const NUMBER: &str = "sdp.number";
const ATTEMPT: &str = "sdp.attempt";
const SERVICE: &str = "sdp.service";
const SANDBOX: &str = "sdp.sandbox";
const BUILD: &str = "sdp.build";
const IMAGE: &str = "sdp.image";
const PORT: &str = "sdp.port";
const ADDRESS: &str = "sdp.address";
const HEALTH: &str = "sdp.health";
const CHECK_LIMIT: &str = "sdp.check-limit";
const SECRETS: &str = "sdp.secrets";

/// An agent as its containers know it: made once for its data folder, so that several agents on a machine keep apart.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct AgentId(String);

impl AgentId {
    pub(super) fn new() -> Self {
        Self(uuid::Uuid::new_v4().simple().to_string()[..8].to_owned())
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let good = text.len() == 8 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        good.then(|| Self(text.to_owned()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// The network of its containers.
    pub(super) fn network(&self) -> String {
        format!("sdp-{}", self.0)
    }

    /// A filter for lists and events.
    pub(super) fn filter(&self) -> String {
        format!("{AGENT}={}", self.0)
    }
}

impl fmt::Debug for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a container is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// An instance.
    Instance,
    /// A command before its start.
    Release,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Instance => "instance",
            Self::Release => "release",
        }
    }
}

/// What the agent wants to know of a container that it finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) kind: Kind,
    pub(super) instance: InstanceId,
    pub(super) deployment: DeploymentId,
    pub(super) attempt: u32,
    /// Whose build it runs.
    pub(super) build: DeploymentId,
    /// Where it listens inside.
    pub(super) port: u16,
    /// Where routers reach it; none: nowhere.
    pub(super) address: Option<SocketAddr>,
    /// How to tell that it is healthy, and how long that may take; none in containers of older agents.
    pub(super) check: Option<(HealthCheck, Duration)>,
}

/// The labels of a container.
pub(super) fn labels(
    agent: &AgentId,
    kind: Kind,
    spec: &StartSpec,
    image: &str,
    port: u16,
    address: Option<SocketAddr>,
) -> HashMap<String, String> {
    let mut labels = HashMap::from(
        [
            (AGENT, agent.0.clone()),
            (KIND, kind.word().to_owned()),
            (INSTANCE, spec.instance.to_string()),
            (DEPLOYMENT, spec.deployment.to_string()),
            (NUMBER, spec.number.to_string()),
            (ATTEMPT, spec.attempt.to_string()),
            (SERVICE, spec.service.to_string()),
            (SANDBOX, spec.sandbox.to_string()),
            (BUILD, spec.build.to_string()),
            (IMAGE, image.to_owned()),
            (PORT, port.to_string()),
            (HEALTH, serde_json::to_string(&spec.health).unwrap_or_default()),
            (CHECK_LIMIT, spec.check_limit.as_secs().to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    );
    if let Some(address) = address {
        labels.insert(ADDRESS.to_owned(), address.to_string());
    }
    if !spec.secrets.is_empty() {
        let names: Vec<&str> = spec.secrets.keys().map(String::as_str).collect();
        labels.insert(SECRETS.to_owned(), names.join(","));
    }
    labels
}

/// The values of a container's secrets: its labels have the names, its environment the rest.
pub(super) fn secrets(labels: &HashMap<String, String>, env: &[String]) -> Vec<Secret> {
    let names: Vec<&str> = labels.get(SECRETS).map(|names| names.split(',').collect()).unwrap_or_default();
    let variables = env.iter().filter_map(|variable| variable.split_once('='));
    variables.filter(|(name, _)| names.contains(name)).map(|(_, value)| Secret::new(value)).collect()
}

/// Reads them; none if it is not ours, or not as we write them.
pub(super) fn read(agent: &AgentId, labels: &HashMap<String, String>) -> Option<Found> {
    fn parse<T: FromStr>(labels: &HashMap<String, String>, name: &str) -> Option<T> {
        labels.get(name)?.parse().ok()
    }
    if labels.get(AGENT) != Some(&agent.0) {
        return None;
    }
    let kind = [Kind::Instance, Kind::Release]
        .into_iter()
        .find(|kind| labels[AGENT] == agent.0 && labels.get(KIND).is_some_and(|word| word == kind.word()))?;
    let address = match labels.get(ADDRESS) {
        Some(text) => Some(text.parse().ok()?),
        None => None,
    };
    Some(Found {
        kind,
        instance: parse(labels, INSTANCE)?,
        deployment: parse(labels, DEPLOYMENT)?,
        attempt: parse(labels, ATTEMPT)?,
        build: parse(labels, BUILD)?,
        port: parse(labels, PORT)?,
        address,
        check: labels
            .get(HEALTH)
            .and_then(|text| serde_json::from_str(text).ok())
            .zip(parse(labels, CHECK_LIMIT).map(Duration::from_secs)),
    })
}

/// A container's name: people read the service and the sandbox, and the hash tells apart what has the same of both.
pub(super) fn name(
    agent: &AgentId,
    kind: Kind,
    (service, sandbox): (&str, &str),
    instance: InstanceId,
    attempt: u32,
) -> String {
    let hash = short_hash(&format!("{}/{}/{instance}/{attempt}/{service}/{sandbox}", agent.0, kind.word()));
    let end = match kind {
        Kind::Instance => format!("-{hash}"),
        Kind::Release => format!("-release-{hash}"),
    };
    let room = LONGEST - "sdp--".len() - end.len();
    // What one does not need the other may have.
    let (service, sandbox) = (slug(service, LONGEST), slug(sandbox, LONGEST));
    let service = slug(&service, room - sandbox.len().min(room / 2));
    let sandbox = slug(&sandbox, room - service.len());
    let words = ["sdp", &service, &sandbox].into_iter().filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("-") + &end
}

/// For messages: whom a container belongs to.
pub(super) fn of(service: &ServiceName, sandbox: &SandboxName) -> String {
    format!("{service} of {sandbox}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::runtime::docker::tests::spec;

    /// What people and hosts call things, and what they had better not.
    const HOSTILE: &str = r"(\PC|[a-z0-9/._-]|\.\./|--|[[:cntrl:]]|[ÅäØ支付💥]|refs/heads/){0,90}";

    #[test]
    fn what_is_written_is_read_and_nobody_elses() {
        let (agent, spec) = (AgentId::parse("0123abcd").unwrap(), spec());
        let address = "10.0.0.7:20001".parse().unwrap();
        let written = labels(&agent, Kind::Instance, &spec, "alpine:3.20", 8080, Some(address));
        let found = read(&agent, &written).unwrap();
        let expected = Found {
            kind: Kind::Instance,
            instance: spec.instance,
            deployment: spec.deployment,
            attempt: 2,
            build: spec.build,
            port: 8080,
            address: Some(address),
            check: Some((spec.health.clone(), spec.check_limit)),
        };
        assert_eq!(found, expected);
        let mut older = written.clone();
        older.remove(HEALTH);
        assert_eq!(read(&agent, &older), Some(Found { check: None, ..expected }), "an older agent's");
        assert_eq!(read(&AgentId::new(), &written), None, "another agent's");
        for name in [AGENT, KIND, INSTANCE, DEPLOYMENT, ATTEMPT, BUILD, PORT] {
            let mut less = written.clone();
            less.remove(name);
            assert_eq!(read(&agent, &less), None, "without {name}");
            less.insert(name.to_owned(), "something".into());
            assert_eq!(read(&agent, &less), None, "with another {name}");
        }
        let release = labels(&agent, Kind::Release, &spec, "alpine:3.20", 8080, None);
        assert_eq!(
            read(&agent, &release).map(|found| (found.kind, found.address)),
            Some((Kind::Release, None))
        );
    }

    #[test]
    fn a_containers_secrets_are_found_again_by_their_names() {
        let (agent, mut spec) = (AgentId::parse("0123abcd").unwrap(), spec());
        let labels = |spec: &StartSpec| labels(&agent, Kind::Instance, spec, "alpine:3.20", 8080, None);
        let env = ["DB=postgres://u:p@h/d?a=b", "PLAIN=x", "KEY=line 1\nline 2", "DBX=y"].map(str::to_owned);
        assert!(secrets(&labels(&spec), &env).is_empty(), "none are named");
        spec.secrets = ["DB", "KEY", "GONE"].map(|name| (name.to_owned(), Secret::new("value"))).into();
        let labels = labels(&spec);
        assert!(!format!("{labels:?}").contains("value"));
        let found = secrets(&labels, &env);
        let found: Vec<_> = found.iter().map(Secret::expose).collect();
        assert_eq!(found, ["postgres://u:p@h/d?a=b", "line 1\nline 2"]);
    }

    fn named(kind: Kind, service: &str, sandbox: &str, instance: u128) -> String {
        let agent = AgentId::parse("0123abcd").unwrap();
        name(&agent, kind, (service, sandbox), uuid::Uuid::from_u128(instance).into(), 1)
    }

    #[test]
    fn a_name_says_whose_it_is_and_is_cut_where_both_are_long() {
        let (long, longer) = ("a".repeat(40), "b".repeat(40));
        let names = [
            named(Kind::Instance, "payments", "qa-42", 1),
            named(Kind::Instance, "payments", "qa-42", 2),
            named(Kind::Release, "payments", "qa-42", 1),
            named(Kind::Instance, &long, &longer, 1),
            named(Kind::Instance, &long, "qa", 1),
            named(Kind::Release, "shop", &longer, 1),
            named(Kind::Instance, "Zahlungen/ümlaut", "../..;rm -rf", 1),
            named(Kind::Instance, "", "支付", 1),
        ];
        insta::assert_snapshot!(names.join("\n"), @r"
        sdp-payments-qa-42-282aa7
        sdp-payments-qa-42-a975ad
        sdp-payments-qa-42-release-0bb33c
        sdp-aaaaaaaaaaaaaaaaaaaaaaaaaa-bbbbbbbbbbbbbbbbbbbbbbbbb-f21695
        sdp-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-qa-bbd8cf
        sdp-shop-bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb-release-f2060f
        sdp-zahlungen-umlaut-rm-rf-4d5304
        sdp-5524b6
        ");
    }

    proptest! {
        #[test]
        fn whatever_they_are_called_it_is_one_host_name_label_and_the_starts_own(
            service in HOSTILE, sandbox in HOSTILE, instance: u128, attempt: u32,
        ) {
            let agent = AgentId::parse("0123abcd").unwrap();
            let of = |kind, service: &str, sandbox: &str, instance: u128, attempt| {
                name(&agent, kind, (service, sandbox), uuid::Uuid::from_u128(instance).into(), attempt)
            };
            let mine = of(Kind::Instance, &service, &sandbox, instance, attempt);
            for name in [&mine, &of(Kind::Release, &service, &sandbox, instance, attempt)] {
                prop_assert!((1..=LONGEST).contains(&name.len()), "{name}");
                prop_assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'), "{name}");
                prop_assert!(name.starts_with("sdp-") && !name.ends_with('-') && !name.contains("--"), "{name}");
            }
            prop_assert_eq!(&mine, &of(Kind::Instance, &service, &sandbox, instance, attempt));
            for another in [
                of(Kind::Release, &service, &sandbox, instance, attempt),
                of(Kind::Instance, &service, &sandbox, instance ^ 1, attempt),
                of(Kind::Instance, &service, &sandbox, instance, attempt ^ 1),
                // Where the part of the two that people read is cut or the same.
                of(Kind::Instance, &format!("{service}x"), &sandbox, instance, attempt),
            ] {
                prop_assert_ne!(&mine, &another);
            }
        }

        #[test]
        fn who_is_named_as_the_catalog_allows_is_read_in_it(service in "[a-z][a-z0-9]{0,19}", branch in HOSTILE) {
            let branch = sdp_core::name::GitRef::parse(branch.trim_start_matches(['-', '/', '.']).to_owned());
            let sandbox = branch.map_or_else(|_| "qa-42".parse().unwrap(), |branch| SandboxName::of_branch(&branch));
            let name = named(Kind::Instance, &service, sandbox.as_str(), 7);
            let shown = sandbox.as_str().get(..25).unwrap_or(sandbox.as_str()).trim_end_matches('-');
            prop_assert!(name.starts_with(&format!("sdp-{service}-{shown}")), "{name} of {sandbox}");
        }
    }

    #[test]
    fn an_agents_id_is_short_and_plain() {
        assert_eq!(AgentId::parse(AgentId::new().as_str()).unwrap().as_str().len(), 8);
        for bad in ["", "0123abc", "0123ABCD", "../../..", "0123abcd\n"] {
            assert_eq!(AgentId::parse(bad), None, "{bad:?}");
        }
    }
}

//! Why a request goes where it goes: the same selection as the routers', with a word about everything that did not win.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use url::Url;

use super::select::{Choice, Head, Index, Refusal, Selector, Target, plain_host, sandbox_in_path};
use crate::catalog::MatchRule;
use crate::id::{InstanceId, RouteVersion};
use crate::name::{CommitId, EnvironmentName, SandboxName, ServiceName};

/// Where a request goes, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Explanation {
    /// The table that was asked.
    pub version: RouteVersion,
    /// In one sentence.
    pub summary: String,
    /// The environment.
    pub environment: Option<EnvironmentName>,
    /// The sandbox; none: the baseline's own traffic.
    pub sandbox: Option<SandboxName>,
    /// The service.
    pub service: Option<ServiceName>,
    /// Where to.
    pub target: ExplainedTarget,
    /// What is taken off the path before the service sees it.
    pub taken: String,
    /// The path that the service sees.
    pub path: Option<String>,
    /// Everything that can name a sandbox, the strongest first.
    pub selectors: Vec<ExplainedSelector>,
    /// Every rule of the environment: the one that matches first, then why the others do not.
    pub rules: Vec<ExplainedRule>,
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum ExplainedTarget {
    /// To an instance.
    Instance {
        /// Which.
        instance: InstanceId,
        /// Where it listens.
        address: String,
        /// What it runs.
        commit: CommitId,
        /// The sandbox that lends it, if it is another one's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        of: Option<SandboxName>,
    },
    /// To an address outside.
    External {
        /// Where it listens.
        address: String,
    },
    /// To the shared deployment.
    Baseline {
        /// Where that is.
        url: Url,
        /// Why, if the sandbox has something of its own that does not answer.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        instead: Option<String>,
    },
    /// Nowhere: the router answers itself.
    Refused {
        /// With this HTTP status.
        status: u16,
        /// And this code in `sdp-error`.
        code: String,
    },
}

/// Something that can name a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ExplainedSelector {
    /// Such as "the header sdp-routing-key".
    pub selector: String,
    /// What it says in this request, if it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub says: Option<String>,
    /// Whether it chose the sandbox.
    pub chosen: bool,
    /// Why it did or did not, as a clause.
    pub why: String,
}

/// A rule of an environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ExplainedRule {
    /// The service whose requests it finds.
    pub service: ServiceName,
    /// The rule.
    pub rule: MatchRule,
    /// Whether it is this request's.
    pub matches: bool,
    /// Why it is or is not, as a clause.
    pub why: String,
}

/// The strongest selector that is there, and the environment and sandbox that it names, if there are such.
type Winner = (Selector, Option<(usize, usize)>);

impl Index {
    /// Where a request with this head goes, and why it goes nowhere else.
    #[must_use]
    pub fn explain(&self, head: &Head<'_>, now: Timestamp) -> Explanation {
        let choice = self.select(head, now);
        let host = head.host.map(plain_host).unwrap_or_default();
        let (selectors, winner) = self.explain_selectors(head, &host, now);
        let environment = match winner {
            Some((_, found)) => found.map(|(environment, _)| environment),
            None => self.environment(&host),
        };
        let path = match winner {
            Some((Selector::Path, _)) => sandbox_in_path(head.path).map_or(head.path, |(_, rest)| rest),
            _ => head.path,
        };
        let service = match &choice {
            Ok(choice) => Some(choice.service.service.clone()),
            Err(refusal) => service_of(refusal),
        };
        let rules =
            environment.map(|at| self.explain_rules(at, &host, path, service.as_ref())).unwrap_or_default();
        let name = environment.map(|at| self.environment_name(at).clone());
        match choice {
            Ok(choice) => Explanation {
                version: self.version(),
                summary: summary(&choice),
                environment: Some(choice.environment.clone()),
                sandbox: choice.sandbox.map(|(sandbox, _)| sandbox.name.clone()),
                service,
                target: explained(&choice.target),
                taken: choice.taken,
                path: Some(choice.rest),
                selectors,
                rules,
            },
            Err(refusal) => Explanation {
                version: self.version(),
                summary: refusal.to_string(),
                environment: name,
                sandbox: sandbox_of(&refusal),
                service,
                target: ExplainedTarget::Refused {
                    status: refusal.status(),
                    code: refusal.code().to_owned(),
                },
                taken: String::new(),
                path: None,
                selectors,
                rules,
            },
        }
    }

    fn explain_selectors(
        &self,
        head: &Head<'_>,
        host: &str,
        now: Timestamp,
    ) -> (Vec<ExplainedSelector>, Option<Winner>) {
        let mut winner: Option<Winner> = None;
        let if_trusted = Head { trusted: true, ..*head };
        let mut all = Vec::new();
        for selector in Selector::ALL {
            let (says, why, chosen) = match (self.said(head, host, selector), winner) {
                (Ok(None), _) => match self.said(&if_trusted, host, selector) {
                    Ok(Some(says)) => (Some(says), "where it comes from is not trusted".to_owned(), false),
                    _ => (None, "it is not there".to_owned(), false),
                },
                (Ok(Some(says)), Some((stronger, _))) => {
                    (Some(says), format!("{} is stronger", stronger.as_str()), false)
                }
                (Err(refusal), Some((stronger, _))) => {
                    (None, format!("{refusal} But {} is stronger", stronger.as_str()), false)
                }
                (Err(refusal), None) => {
                    winner = Some((selector, None));
                    (None, refusal.to_string(), false)
                }
                (Ok(Some(says)), None) => match self.sandbox(&says, selector, now) {
                    Ok(found) => {
                        winner = Some((selector, Some(found)));
                        let why = "it is the strongest that is there".to_owned();
                        (Some(says), why, true)
                    }
                    Err(_) => {
                        winner = Some((selector, None));
                        (
                            Some(says),
                            "no sandbox has it, or the one that had it has expired".to_owned(),
                            false,
                        )
                    }
                },
            };
            all.push(ExplainedSelector { selector: selector.as_str().to_owned(), says, chosen, why });
        }
        (all, winner)
    }

    fn explain_rules(
        &self,
        environment: usize,
        host: &str,
        path: &str,
        matching: Option<&ServiceName>,
    ) -> Vec<ExplainedRule> {
        // A path that begins with a name is only left where the sandbox was named before it.
        let named = sandbox_in_path(path).map(|(name, _)| name);
        let winner = matching.map(ToString::to_string).unwrap_or_default();
        let by_host = |service: &ServiceName| {
            self.rules(environment).any(|route| {
                route.service == *service && route.rule.host().is_some_and(|own| own.as_str() == host)
            })
        };
        let found_by_host = matching.is_some_and(by_host);
        let rules = self.rules(environment).map(|route| {
            let matches = matching == Some(&route.service);
            let why = match (&route.rule, matches) {
                (_, true) if named.is_some() => format!("the path names it: /~{winner}"),
                (_, false) if let Some(name) = named => format!("the path names {name:?}"),
                (MatchRule::Host { host }, true) => format!("the host is {host}"),
                (MatchRule::Host { host: own }, false) => match host {
                    "" => format!("the host is not {own}"),
                    other => format!("the host is {other}, not {own}"),
                },
                (MatchRule::Path { prefix, .. }, true) => format!("{prefix} is the longest prefix of {path}"),
                (MatchRule::Path { .. }, false) if found_by_host => format!("the host is {winner}'s"),
                (MatchRule::Path { prefix, .. }, false) if begins(path, prefix.as_str()) => {
                    format!("{winner} is more exact")
                }
                (MatchRule::Path { prefix, .. }, false) => format!("{path} does not begin with {prefix}"),
            };
            ExplainedRule { service: route.service.clone(), rule: route.rule.clone(), matches, why }
        });
        let mut rules: Vec<_> = rules.collect();
        rules.sort_by_key(|rule| !rule.matches);
        rules
    }
}

/// In whole segments.
fn begins(path: &str, prefix: &str) -> bool {
    let prefix = prefix.trim_end_matches('/');
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn summary(choice: &Choice<'_>) -> String {
    let service = &choice.service.service;
    let whose = match choice.sandbox {
        Some((sandbox, by)) => format!("It is {}'s (by {})", sandbox.name, by.as_str()),
        None => "It names no sandbox".to_owned(),
    };
    match &choice.target {
        Target::Instance { commit, of: None, .. } => {
            format!("{whose}, and goes to {service} there, commit {}.", commit.short())
        }
        Target::Instance { commit, of: Some(lender), .. } => {
            format!("{whose}, and goes to {service} of {lender}, commit {}.", commit.short())
        }
        Target::External { address } => format!("{whose}, and goes to {address} in place of {service}."),
        Target::Baseline { instead: Some(reason), .. } => {
            format!(
                "{whose}, and goes to the baseline of {service}, since what runs there does not answer: {reason}."
            )
        }
        Target::Baseline { .. } => format!("{whose}, and goes to the baseline of {service}."),
    }
}

fn explained(target: &Target<'_>) -> ExplainedTarget {
    match target {
        Target::Instance { instance, address, commit, of, .. } => ExplainedTarget::Instance {
            instance: *instance,
            address: address.to_string(),
            commit: (*commit).clone(),
            of: of.cloned(),
        },
        Target::External { address } => ExplainedTarget::External { address: address.to_string() },
        Target::Baseline { url, instead } => {
            ExplainedTarget::Baseline { url: (*url).clone(), instead: instead.map(str::to_owned) }
        }
    }
}

fn sandbox_of(refusal: &Refusal) -> Option<SandboxName> {
    match refusal {
        Refusal::NoService { sandbox, .. } | Refusal::NoTarget { sandbox, .. } => sandbox.clone(),
        Refusal::Down { sandbox, .. } => Some(sandbox.clone()),
        _ => None,
    }
}

fn service_of(refusal: &Refusal) -> Option<ServiceName> {
    match refusal {
        Refusal::NoTarget { service, .. } | Refusal::Down { service, .. } => Some(service.clone()),
        _ => None,
    }
}

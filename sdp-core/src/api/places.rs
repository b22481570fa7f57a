//! Environments, templates, sandboxes, routes, locks and batches.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use url::Url;

pub use crate::batch::{Batch, BatchOutcome};
pub use crate::catalog::{Environment, MatchRule, Template, TemplateSpec};
pub use crate::lock::{Lock, LockKind, LockPlace};
pub use crate::routing::explain::Explanation;
pub use crate::sandbox::{RouteChoice, TemplateVersion};
pub use crate::wire::ProbeHop;

use super::{Deployment, Instance, Sandbox};
use crate::deployment::Notify;
use crate::name::{
    EnvName, EnvironmentName, GitRef, HostName, PersonName, RoutingKey, SandboxName, ServiceName, TeamName,
    TemplateName,
};
use crate::routing::RouteTarget;
use crate::secret::GitCredential;

/// All environments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EnvironmentList {
    /// By name; `default` is always there.
    pub environments: Vec<Environment>,
}

/// All templates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TemplateList {
    /// By name, the newest version of each; or all versions of one, the newest first.
    pub templates: Vec<Template>,
}

/// What a sandbox shall say. What is left out stays as it is; of a new sandbox it is what the template, or the other sandbox, or else
/// the environment says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct SaveSandbox {
    /// Where it is; of one that exists it cannot be changed. Without one: the template's, or `default`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment: Option<EnvironmentName>,
    /// Make it from this template. Only of a new one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<TemplateChoice>,
    /// Make it from this sandbox: with its variables, notes and lifetime, and what runs there borrowed. Only of a new one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<SandboxName>,
    /// The team that owns it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub team: Option<TeamName>,
    /// Who, beside the owner, may deploy into it and change it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Vec<PersonName>>, max_items = 200))]
    pub members: Option<BTreeSet<PersonName>>,
    /// Whether every developer may deploy into it. A new one that is not the asker's own is shared if nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared: Option<bool>,
    /// How long it lives after it was renewed, which this does.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 8760))]
    pub lifetime_hours: Option<u32>,
    /// Its end, in place of a lifetime from now on.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub expires_at: Option<Timestamp>,
    /// Whether it is kept until somebody deletes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pinned: Option<bool>,
    /// What people are told of it; empty: nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(max_length = 2000))]
    pub notes: Option<String>,
    /// Variables of all its instances.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<BTreeMap<String, String>>))]
    pub env: Option<BTreeMap<EnvName, String>>,
    /// Where services' requests go.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<BTreeMap<String, RouteChoice>>))]
    pub routes: Option<BTreeMap<ServiceName, RouteChoice>>,
}

/// A template, of a certain version or the newest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct TemplateChoice {
    /// The template.
    pub name: TemplateName,
    /// Its version; without one: the newest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1))]
    pub version: Option<u32>,
}

/// Make a sandbox with a name of one's own, or with that of a branch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct CreateSandbox {
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<SandboxName>,
    /// Without a name: the branch that it is for. Its name is a slug of the branch with a short hash, always the same for the same
    /// branch; one that exists already is renewed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub branch: Option<GitRef>,
    /// What it says.
    pub sandbox: SaveSandbox,
}

/// Move a sandbox's end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct RenewSandbox {
    /// From now on so many hours; without it its own lifetime.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 8760))]
    pub hours: Option<u32>,
    /// Keep it until somebody deletes it; `false`: it ends again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pinned: Option<bool>,
}

/// Say where a sandbox's requests for a service go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ChooseRoute {
    /// Where to; null: to what was deployed in the sandbox, or else the baseline. Left out it is an error, not null.
    #[serde(deserialize_with = "Option::deserialize")]
    #[cfg_attr(feature = "openapi", schema(required))]
    pub target: Option<RouteChoice>,
}

/// All sandboxes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SandboxList {
    /// By name.
    pub sandboxes: Vec<SandboxView>,
}

/// A sandbox, how its requests are marked, where they go, and what runs in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SandboxView {
    /// The sandbox.
    pub sandbox: Sandbox,
    /// Its instances that are not over.
    pub instances: Vec<Instance>,
    /// How requests are marked as its own.
    pub access: SandboxAccess,
    /// Every service of its environment, by name, and where its requests go.
    pub routes: Vec<RouteView>,
    /// Locks and freezes that are about it.
    pub locks: Vec<Lock>,
}

/// How requests are marked as a sandbox's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SandboxAccess {
    /// The address below which it is; none while no router has ever connected.
    pub url: Option<Url>,
    /// The link that makes a browser's requests its own, by a cookie.
    pub share_url: Option<Url>,
    /// Its host at the router, if its environment has a domain.
    pub host: Option<HostName>,
    /// The header that marks a request, such as `sdp-routing-key`.
    pub header: String,
    /// The header's value.
    pub key: RoutingKey,
    /// The same as a member of `baggage`, which programs pass on.
    pub baggage: String,
}

/// Where a sandbox's requests for a service go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RouteView {
    /// The service.
    pub service: ServiceName,
    /// Which requests are for it.
    pub rule: MatchRule,
    /// Where to.
    pub target: RouteTarget,
    /// Whether somebody has said so; otherwise it follows from what was deployed.
    pub chosen: bool,
    /// The instance that answers, if one does.
    pub instance: Option<Instance>,
    /// Where people reach it in this sandbox.
    pub url: Option<Url>,
    /// Where programs reach it in this sandbox: what `SDP_ROUTE_<SERVICE>` has.
    pub service_url: Option<Url>,
    /// The shared deployment.
    pub baseline: Option<Url>,
}

/// Set a lock or a freeze.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CreateLock {
    /// The environment; without one: the sandbox's, or else `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<EnvironmentName>,
    /// One sandbox of it; none: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<SandboxName>,
    /// One service there; none: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceName>,
    /// What it forbids.
    #[serde(default)]
    pub kind: LockKind,
    /// Why, 1 to 500 characters: others are told.
    #[cfg_attr(feature = "openapi", schema(min_length = 1, max_length = 500))]
    pub reason: String,
    /// It ends by itself after so many hours; without it when its owner says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 8760))]
    pub hours: Option<u32>,
    /// Take it away from whoever holds it; they are told, with the reason.
    #[serde(default)]
    pub steal: bool,
}

/// All locks and freezes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LockList {
    /// The oldest first.
    pub locks: Vec<Lock>,
}

/// Ask for several deployments into one sandbox together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct CreateBatch {
    /// Where to; without one: the asker's own sandbox. Made on first use, from the template if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<SandboxName>,
    /// Deploy this template's services, with its refs where `services` says nothing else. Its variables and routes come with the
    /// sandbox that is made from it; one that exists keeps its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<TemplateChoice>,
    /// What to deploy: at most 50 services, each once. None: all of the template.
    #[cfg_attr(feature = "openapi", schema(max_items = 50))]
    pub services: Vec<BatchService>,
    /// Where in the team's chat it is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notify: Option<Notify>,
    /// For the fetches alone; never stored. Write-only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub git_credential: Option<GitCredential>,
}

/// One of several services to deploy together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct BatchService {
    /// Which service.
    pub service: ServiceName,
    /// Branch, tag or commit; without one: the template's, else the last one in that sandbox, else the service's default branch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git_ref: Option<GitRef>,
    /// Variables for this deployment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = BTreeMap<String, String>))]
    pub env: BTreeMap<EnvName, String>,
}

/// A batch and its deployments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BatchView {
    /// The batch.
    pub batch: Batch,
    /// Its deployments, in its order.
    pub deployments: Vec<Deployment>,
    /// The sandbox's page.
    pub url: Url,
}

/// The variables that a service's instances get in a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VariableList {
    /// By name.
    pub variables: Vec<VariableView>,
}

/// A variable, and where its value comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VariableView {
    /// Its name.
    pub name: String,
    /// Its value; none: it is a secret.
    pub value: Option<String>,
    /// The layer that it comes from.
    pub layer: VariableLayer,
    /// The layers whose value it stands above.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub over: Vec<VariableLayer>,
}

/// Where a variable comes from; each layer stands above those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum VariableLayer {
    /// The environment.
    Environment,
    /// The service's entry in the catalog.
    Service,
    /// A secret of the service.
    Secret,
    /// The template, or what it says of the service.
    Template,
    /// The sandbox.
    Sandbox,
    /// The deployment that runs there now.
    Deploy,
    /// SDP itself.
    Sdp,
}

/// See whether the services of a chain pass a sandbox's mark on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CreateProbe {
    /// Path and query to ask for with GET, beginning with `/`, as without a sandbox: the mark is in a header.
    #[cfg_attr(feature = "openapi", schema(min_length = 1, max_length = 2000))]
    pub path: String,
    /// The host, if not the router's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostName>,
    /// The services that should be reached, in order, e.g. `["gateway", "payments", "ledger"]`; none: those that are reached.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(max_items = 50))]
    pub through: Vec<ServiceName>,
}

/// What a probe found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ProbeReport {
    /// Whether every request kept the mark, and all the services that should be were reached.
    pub kept: bool,
    /// The service that did not pass the mark on, if one did not.
    pub dropped_by: Option<ServiceName>,
    /// In one sentence.
    pub summary: String,
    /// The answer's HTTP status.
    pub status: u16,
    /// Who gave it.
    pub served_by: Option<String>,
    /// The requests that passed the router, in order.
    pub hops: Vec<ProbeHop>,
}

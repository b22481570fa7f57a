//! Templates: what a sandbox is made from. Each change is a new version; a sandbox says which one it came from.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::environment::{LONGEST_LIFETIME_HOURS, is_note};
use super::{InvalidService, check_variables};
use crate::name::{EnvName, EnvironmentName, GitRef, ServiceName, TemplateName};
use crate::principal::Principal;
use crate::sandbox::RouteChoice;

/// A version of a template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Template {
    /// Its name, what people type.
    pub name: TemplateName,
    /// From 1; each change makes a new one.
    pub version: u32,
    /// What it says.
    pub spec: TemplateSpec,
    /// When this version was made.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
    /// Who made it.
    pub created_by: Principal,
}

/// What a template says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct TemplateSpec {
    /// What it is for, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(max_length = 500))]
    pub description: Option<String>,
    /// Where its sandboxes are; without one: `default`.
    #[serde(default = "super::environment::default_name")]
    #[cfg_attr(feature = "openapi", schema(value_type = String, default = "default"))]
    pub environment: EnvironmentName,
    /// What is deployed together.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = BTreeMap<String, TemplateService>))]
    pub services: BTreeMap<ServiceName, TemplateService>,
    /// Where other services' requests go.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = BTreeMap<String, RouteChoice>))]
    pub routes: BTreeMap<ServiceName, RouteChoice>,
    /// Variables of all its services, over those of environment and service.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = BTreeMap<String, String>))]
    pub env: BTreeMap<EnvName, String>,
    /// How long its sandboxes live; without one: as the environment says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 8760))]
    pub lifetime_hours: Option<u32>,
}

/// What a template says of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct TemplateService {
    /// What is deployed if nothing else is asked for; without one: the service's default branch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub git_ref: Option<GitRef>,
    /// Variables of this service, over those of the whole template.
    #[cfg_attr(feature = "openapi", schema(value_type = BTreeMap<String, String>))]
    pub env: BTreeMap<EnvName, String>,
}

impl TemplateSpec {
    /// Checks what the types alone do not.
    ///
    /// # Errors
    /// The first field that cannot work.
    pub fn check(&self) -> Result<(), InvalidService> {
        let err = |field, problem: &str| Err(InvalidService { field, problem: problem.to_owned() });
        if self.services.len() > 50 {
            return err("services", "at most 50");
        }
        if self.routes.len() > 500 {
            return err("routes", "at most 500");
        }
        if let Some(both) = self.services.keys().find(|name| self.routes.contains_key(*name)) {
            return err("routes", &format!("{both} is deployed, and cannot have another route as well"));
        }
        if self.lifetime_hours.is_some_and(|hours| !(1..=LONGEST_LIFETIME_HOURS).contains(&hours)) {
            return err("lifetime_hours", "1 to 8760");
        }
        if self.description.as_ref().is_some_and(|text| !is_note(text, 500)) {
            return err("description", "at most 500 characters, no control characters");
        }
        self.services.values().try_for_each(|service| check_variables(&service.env))?;
        check_variables(&self.env)
    }
}

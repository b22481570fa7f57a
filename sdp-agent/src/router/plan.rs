//! Where a request goes and what it carries, with nothing borrowed from the table.

use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Uri, header};
use sdp_core::name::{RoutingKey, SandboxName};
use sdp_core::routing::select::{Choice, Refusal, Selector, Target, served_by_baseline};
use url::Url;

use super::answer::Problem;

/// Why a baseline answers whose instance cannot be connected to.
pub(crate) const UNREACHABLE: &str = "it cannot be reached";

#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) sandbox: Option<(SandboxName, RoutingKey)>,
    /// Whether a cache sees by the URL alone whose answer it is.
    pub(crate) by_url: bool,
    pub(crate) served_by: String,
    /// What was taken off the path, as seen from outside.
    pub(crate) prefix: String,
    pub(crate) uri: Uri,
    pub(crate) host: Option<HeaderValue>,
    pub(crate) baseline: Option<Url>,
    /// Who should have answered, as people read it.
    pub(crate) place: String,
    /// What to do if it does not.
    pub(crate) next: String,
}

impl Plan {
    /// To an instance, or an address outside.
    pub(crate) fn to_instance(
        base_url: &Url,
        choice: &Choice<'_>,
        authority: &Authority,
        parts: &Parts,
    ) -> Result<Self, Problem> {
        // What the client asked for, so that the service can build URLs; HTTP/1.0 may not say.
        let host = parts.headers.get(header::HOST).cloned().or_else(|| as_value(authority));
        let origin = Some((Scheme::HTTP, authority.clone()));
        let service = &choice.service.service;
        let sandbox = choice.sandbox.map(|(sandbox, _)| sandbox.name.to_string()).unwrap_or_default();
        let (place, next) = match &choice.target {
            Target::Instance { commit, of, .. } => {
                let of = of.map_or_else(|| sandbox.clone(), ToString::to_string);
                let place = format!("{service} in the sandbox {of} (commit {})", commit.short());
                (place, format!("See how it is: /sdp status {of}"))
            }
            _ => (
                format!("{authority}, which takes the place of {service} in the sandbox {sandbox},"),
                "Look whether it runs there, or take the route back.".to_owned(),
            ),
        };
        let plan = Self { served_by: choice.served_by(), host, place, next, ..Self::default() };
        plan.with(base_url, choice, origin, "", parts)
    }

    pub(crate) fn to_baseline(
        base_url: &Url,
        choice: &Choice<'_>,
        url: &Url,
        parts: &Parts,
    ) -> Result<Self, Problem> {
        let origin = origin_of(url);
        // Its own, by which OpenShift's router finds it.
        let host = origin.as_ref().and_then(|(_, authority)| as_value(authority));
        let service = &choice.service.service;
        let served_by = match &choice.target {
            Target::Baseline { .. } => choice.served_by(),
            _ => served_by_baseline(service, Some(UNREACHABLE)),
        };
        let place = format!("The baseline of {service}");
        let next = "Tell whoever runs the baseline.".to_owned();
        let plan = Self { served_by, host, baseline: Some(url.clone()), place, next, ..Self::default() };
        plan.with(base_url, choice, origin, url.path().trim_end_matches('/'), parts)
    }

    fn with(
        self,
        base_url: &Url,
        choice: &Choice<'_>,
        origin: Option<(Scheme, Authority)>,
        base: &str,
        parts: &Parts,
    ) -> Result<Self, Problem> {
        let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        let mut uri = http::uri::Parts::default();
        (uri.scheme, uri.authority) = origin.unzip();
        uri.path_and_query = PathAndQuery::try_from(format!("{base}{}{query}", choice.rest)).ok();
        let uri = Uri::from_parts(uri).map_err(|_| {
            Problem::from_refusal(Refusal::BadPath { why: "it is no path of a URL" }, base_url)
        })?;
        Ok(Self {
            sandbox: choice.sandbox.map(|(sandbox, _)| (sandbox.name.clone(), sandbox.key.clone())),
            by_url: choice.sandbox.is_some_and(|(_, by)| matches!(by, Selector::Path | Selector::Host)),
            prefix: format!("{}{}", base_url.path().trim_end_matches('/'), choice.taken),
            uri,
            ..self
        })
    }
}

fn as_value(authority: &Authority) -> Option<HeaderValue> {
    HeaderValue::from_str(authority.as_str()).ok()
}

fn origin_of(url: &Url) -> Option<(Scheme, Authority)> {
    let scheme = Scheme::try_from(url.scheme()).ok()?;
    let authority = match url.port() {
        Some(port) => format!("{}:{port}", url.host_str()?),
        None => url.host_str()?.to_owned(),
    };
    Some((scheme, Authority::try_from(authority).ok()?))
}

//! From where a browser signs in: what its owner sees in the list of their sessions.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use axum::http::header;
use axum::http::request::Parts;
use sdp_core::access::Origin;

use super::ClientAddress;

/// A request's address and browser.
pub(crate) struct CameFrom(pub(crate) Origin);

impl<S: Sync> FromRequestParts<S> for CameFrom {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let user_agent = parts.headers.get(header::USER_AGENT);
        let user_agent = user_agent.and_then(|value| value.to_str().ok()).map(str::to_owned);
        let address = parts.extensions.get().map(|ClientAddress(address)| address.to_string());
        Ok(Self(Origin { address, user_agent }))
    }
}

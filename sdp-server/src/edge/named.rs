//! Names in addresses, queries and headers, parsed into their types.

use std::str::FromStr;

use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::Uri;
use axum::http::request::Parts;
use sdp_core::api::IDEMPOTENCY_KEY;
use sdp_core::name::IdempotencyKey;
use serde::de::DeserializeOwned;

use super::describe::describe;
use crate::problem::Refused;

/// The one name in a route's path.
pub(crate) struct Named<T>(pub(crate) T);

impl<T, S> FromRequestParts<S> for Named<T>
where
    T: FromStr,
    Refused: From<T::Err>,
    S: Send + Sync,
{
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        let not_text = |_| Refused::new("invalid_name", "the address is no UTF-8");
        let params = RawPathParams::from_request_parts(parts, state).await.map_err(not_text)?;
        let text = params.iter().next().map_or("", |(_, value)| value);
        Ok(Self(text.parse()?))
    }
}

/// The two names in a route's path.
pub(crate) struct NamedTwo<A, B>(pub(crate) A, pub(crate) B);

impl<A, B, S> FromRequestParts<S> for NamedTwo<A, B>
where
    A: FromStr,
    B: FromStr,
    Refused: From<A::Err> + From<B::Err>,
    S: Send + Sync,
{
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        let not_text = |_| Refused::new("invalid_name", "the address is no UTF-8");
        let params = RawPathParams::from_request_parts(parts, state).await.map_err(not_text)?;
        let mut texts = params.iter().map(|(_, value)| value);
        let (first, second) = (texts.next().unwrap_or_default(), texts.next().unwrap_or_default());
        Ok(Self(first.parse()?, second.parse()?))
    }
}

/// The query, every field of which is known.
pub(crate) struct Query<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refused> {
        query(&parts.uri).map(Self)
    }
}

fn query<T: DeserializeOwned>(uri: &Uri) -> Result<T, Refused> {
    axum::extract::Query::try_from_uri(uri).map(|axum::extract::Query(query)| query).map_err(|rejection| {
        let text = rejection.body_text();
        let text = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text);
        // Where a path is known it stands before the message.
        let (path, message) = match text.split_once(": ") {
            Some((path, message)) if !path.contains(' ') => (path, message),
            _ => (".", text),
        };
        describe("invalid_query", "the query cannot be used", path, message)
    })
}

/// The header that makes a request safe to repeat.
pub(crate) struct IdempotencyHeader(pub(crate) Option<IdempotencyKey>);

impl<S: Sync> FromRequestParts<S> for IdempotencyHeader {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refused> {
        let mut values = parts.headers.get_all(IDEMPOTENCY_KEY).iter();
        match (values.next(), values.next()) {
            (None, _) => Ok(Self(None)),
            (Some(value), None) => Ok(Self(Some(IdempotencyKey::parse(value.to_str().unwrap_or_default())?))),
            (Some(_), Some(_)) => {
                Err(Refused::new("invalid_header", "more than one idempotency key was given"))
            }
        }
    }
}

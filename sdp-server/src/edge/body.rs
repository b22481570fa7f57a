//! JSON bodies, with our own refusals: what is no JSON is `malformed_json`, what is JSON but not what was asked for is
//! `invalid_body` or the code of the name that is wrong.

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderValue, StatusCode, header};
use serde::de::DeserializeOwned;

use super::BODY_LIMIT;
use super::describe::describe;
use crate::app::App;
use crate::problem::Refused;

/// A body that must be there.
pub(crate) struct JsonBody<T>(pub(crate) T);

/// A body that may be left out.
pub(crate) struct OptionalJsonBody<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<App> for JsonBody<T> {
    type Rejection = Refused;

    async fn from_request(request: Request, app: &App) -> Result<Self, Refused> {
        let is_json = is_json(&request);
        let bytes = read(request, app).await?;
        if !is_json {
            return Err(not_json());
        }
        parse(&bytes).map(Self)
    }
}

impl<T: DeserializeOwned + Default> FromRequest<App> for OptionalJsonBody<T> {
    type Rejection = Refused;

    async fn from_request(request: Request, app: &App) -> Result<Self, Refused> {
        let is_json = is_json(&request);
        let bytes = read(request, app).await?;
        match (bytes.is_empty(), is_json) {
            (true, _) => Ok(Self(T::default())),
            (false, true) => Ok(Self(parse::<Option<T>>(&bytes)?.unwrap_or_default())),
            (false, false) => Err(not_json()),
        }
    }
}

fn is_json(request: &Request) -> bool {
    let content =
        request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let kind = content.split(';').next().unwrap_or("").trim();
    kind.eq_ignore_ascii_case("application/json")
}

async fn read(request: Request, app: &App) -> Result<Bytes, Refused> {
    // A small body can be packed that is large when it is unpacked.
    let is_packed = |value: &HeaderValue| !value.as_bytes().eq_ignore_ascii_case(b"identity");
    if request.headers().get_all(header::CONTENT_ENCODING).iter().any(is_packed) {
        return Err(Refused::new("unsupported_media_type", "a compressed body is not taken")
            .hint("send it without `content-encoding`"));
    }
    let declared = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    if declared.and_then(|value| value.parse::<u64>().ok()).is_some_and(|length| length > BODY_LIMIT as u64) {
        return Err(too_large());
    }
    match tokio::time::timeout(app.config().limits.body, Bytes::from_request(request, app)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(rejection)) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => Err(too_large()),
        Ok(Err(_)) => Err(Refused::new("malformed_json", "the body ended in the middle")),
        Err(_) => Err(Refused::new("body_timeout", "the body did not arrive in time")),
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refused> {
    // serde would take a list for a struct, field by field.
    if bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[') {
        return Err(Refused::new("invalid_body", "the body cannot be used").detail("expected an object"));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.inner();
        if inner.is_data() {
            describe("invalid_body", "the body cannot be used", &path, &inner.to_string())
        } else {
            malformed(inner)
        }
    })?;
    deserializer.end().map_err(|error| malformed(&error))?;
    Ok(value)
}

fn malformed(error: &serde_json::Error) -> Refused {
    Refused::new("malformed_json", "the body is no well-formed JSON").detail(format!(
        "at line {} column {}",
        error.line(),
        error.column()
    ))
}

pub(super) fn too_large() -> Refused {
    Refused::new("body_too_large", "the body is too large")
        .detail(format!("at most {} KiB", BODY_LIMIT >> 10))
}

pub(super) fn not_json() -> Refused {
    Refused::new("unsupported_media_type", "a JSON body is expected")
        .hint("send `content-type: application/json`")
}

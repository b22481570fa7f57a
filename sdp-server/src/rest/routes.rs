//! Where a request goes, and why.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderName, Uri};
use sdp_core::api::{Explanation, Problem};

use crate::app::App;
use crate::problem::Refused;

/// The longest of a host, a path and a header.
const HOST_LIMIT: usize = 255;
const PATH_LIMIT: usize = 2000;
const HEADER_LIMIT: usize = 8192;
/// Most of the query: routers take no larger heads either.
const QUERY_LIMIT: usize = 64 * 1024;

/// Explain where the routers send a request: which selector chose the sandbox, which rule matched, and why the others did not.
///
/// Nothing is sent anywhere. Headers and cookies are taken as from a trusted origin.
#[utoipa::path(get, path = "/api/v1/routes/explain", operation_id = "explain_route", tag = "routes",
    params(
        ("host" = Option<String>, Query, max_length = 255, description = "The host that it is sent to, with or without a port",
            example = "api.shop.example.com"),
        ("path" = Option<String>, Query, max_length = 2000, description = "Its path, beginning with `/`; without it `/`",
            example = "/payments/7"),
        ("header" = Option<Vec<String>>, Query, style = Form, explode,
            description = "A header as `name:value`; may be there more than once, at most 100",
            example = json!(["sdp-sandbox:alice"]))),
    responses((status = 200, description = "Where it goes, and why", body = Explanation),
        (status = 422, description = "`invalid_query`", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn explain(State(app): State<App>, uri: Uri) -> Result<Json<Explanation>, Refused> {
    let Asked { host, path, headers } = asked(uri.query().unwrap_or_default())?;
    let path = path.unwrap_or_else(|| "/".to_owned());
    Ok(Json(app.platform().explain_route(host, path, headers).await?))
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Asked {
    host: Option<String>,
    path: Option<String>,
    headers: Vec<(String, String)>,
}

/// The query, in which `header` may be repeated.
fn asked(query: &str) -> Result<Asked, Refused> {
    if query.len() > QUERY_LIMIT {
        return Err(invalid("at most 64 KiB"));
    }
    let mut asked = Asked::default();
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        match &*name {
            "host" if asked.host.is_some() => return Err(invalid("duplicate field `host`")),
            "path" if asked.path.is_some() => return Err(invalid("duplicate field `path`")),
            "host" if value.is_empty() || value.len() > HOST_LIMIT || !is_visible(&value) => {
                return Err(invalid("host: 1 to 255 visible ASCII characters"));
            }
            "path" if !value.starts_with('/') || value.len() > PATH_LIMIT || !is_visible(&value) => {
                return Err(invalid("path: begins with /, visible ASCII characters, at most 2000"));
            }
            "host" => asked.host = Some(value.into_owned()),
            "path" => asked.path = Some(value.into_owned()),
            "header" => asked.headers.push(header(&value)?),
            _ => return Err(invalid("unknown field, expected one of `host`, `path`, `header`")),
        }
    }
    Ok(asked)
}

fn header(text: &str) -> Result<(String, String), Refused> {
    let plain = |value: &&str| value.len() <= HEADER_LIMIT && !value.chars().any(char::is_control);
    let parts = text.split_once(':').filter(|(name, _)| HeaderName::try_from(*name).is_ok());
    let (name, value) = parts
        .map(|(name, value)| (name, value.trim_matches([' ', '\t'])))
        .filter(|(_, value)| plain(value))
        .ok_or_else(|| invalid("header: `name:value`, at most 8192 characters, no control characters"))?;
    Ok((name.to_owned(), value.to_owned()))
}

fn is_visible(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn invalid(detail: &str) -> Refused {
    Refused::new("invalid_query", "the query cannot be used").detail(detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_repeated_and_everything_else_is_not() {
        let asked_for = asked("host=a.test:80&path=%2Fx%3Fy&header=cookie:a%3Db&header=Sdp-Sandbox:+alice");
        let headers = [("cookie", "a=b"), ("Sdp-Sandbox", "alice")];
        assert_eq!(
            asked_for.expect("valid"),
            Asked {
                host: Some("a.test:80".into()),
                path: Some("/x?y".into()),
                headers: headers.map(|(name, value)| (name.into(), value.into())).into(),
            }
        );
        assert_eq!(asked("").expect("valid"), Asked::default());
        let refused = [
            "host=",
            "host=a&host=b",
            "path=x",
            "path=/a%0Ab",
            "path=/%C3%A4",
            "path=/a&path=/b",
            "header=x",
            "header=:x",
            "header=a%20b:x",
            "header=a:%0D%0Ab:c",
            "header=a:%00",
            "header=a:%0Ab",
            "other=1",
        ];
        for query in refused {
            assert_eq!(asked(query).expect_err("refused").code(), "invalid_query", "{query}");
        }
        assert!(asked(&format!("path=/{}", "a".repeat(PATH_LIMIT))).is_err());
    }
}

//! The pages' own files: compiled in, and served under the digest of them all, so that a browser keeps them for good and
//! still never mixes those of two versions (scripts name each other relatively, inside the same folder).

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

/// Name, type, content.
const ASSETS: [(&str, &str, &str); 18] = [
    ("sdp.css", "text/css; charset=utf-8", include_str!("assets/sdp.css")),
    ("common.js", "text/javascript; charset=utf-8", include_str!("assets/common.js")),
    ("home.js", "text/javascript; charset=utf-8", include_str!("assets/home.js")),
    ("log.js", "text/javascript; charset=utf-8", include_str!("assets/log.js")),
    ("lines.js", "text/javascript; charset=utf-8", include_str!("assets/lines.js")),
    ("search.js", "text/javascript; charset=utf-8", include_str!("assets/search.js")),
    ("sections.js", "text/javascript; charset=utf-8", include_str!("assets/sections.js")),
    ("source.js", "text/javascript; charset=utf-8", include_str!("assets/source.js")),
    ("tools.js", "text/javascript; charset=utf-8", include_str!("assets/tools.js")),
    ("live.js", "text/javascript; charset=utf-8", include_str!("assets/live.js")),
    ("instance.js", "text/javascript; charset=utf-8", include_str!("assets/instance.js")),
    ("ansi.js", "text/javascript; charset=utf-8", include_str!("assets/ansi.js")),
    ("sandbox.js", "text/javascript; charset=utf-8", include_str!("assets/sandbox.js")),
    ("sandboxes.js", "text/javascript; charset=utf-8", include_str!("assets/sandboxes.js")),
    ("live-page.js", "text/javascript; charset=utf-8", include_str!("assets/live-page.js")),
    ("account.js", "text/javascript; charset=utf-8", include_str!("assets/account.js")),
    ("sign-in.js", "text/javascript; charset=utf-8", include_str!("assets/sign-in.js")),
    ("icon.svg", "image/svg+xml", include_str!("assets/icon.svg")),
];

/// The digest of all assets, short.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let mut digest = Sha256::new();
    for (name, _, content) in ASSETS {
        digest.update(name.as_bytes());
        digest.update((content.len() as u64).to_be_bytes());
        digest.update(content.as_bytes());
    }
    digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
});

/// Where a page finds an asset.
pub(super) fn url(name: &str) -> String {
    debug_assert!(ASSETS.iter().any(|(known, ..)| *known == name), "no asset named {name}");
    format!("/assets/{}/{name}", *VERSION)
}

/// `GET /assets/{version}/{name}`
pub(super) async fn serve(Path((version, name)): Path<(String, String)>) -> Response {
    let found = ASSETS.iter().find(|(known, ..)| *known == name && version == *VERSION);
    let Some((_, content_type, content)) = found else {
        return (StatusCode::NOT_FOUND, "There is no such file; load the page again.\n").into_response();
    };
    let mut headers = HeaderMap::new();
    for (name, value) in [
        (header::CONTENT_TYPE, *content_type),
        (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
    ] {
        headers.insert(name, header::HeaderValue::from_static(value));
    }
    (headers, *content).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_asset_is_served_for_good_under_its_digest_only() {
        let version = VERSION.clone();
        assert_eq!(url("log.js"), format!("/assets/{version}/log.js"));
        let served = serve(Path((version.clone(), "log.js".into()))).await;
        assert_eq!(served.status(), StatusCode::OK);
        assert_eq!(served.headers()[header::CACHE_CONTROL], "public, max-age=31536000, immutable");
        for (version, name) in
            [("0".repeat(16), "log.js"), (version.clone(), "../log.js"), (version, "LOG.JS")]
        {
            assert_eq!(serve(Path((version, name.into()))).await.status(), StatusCode::NOT_FOUND);
        }
    }

    #[test]
    fn assets_load_nothing_from_outside() {
        for (name, _, content) in ASSETS {
            let outside = ["http://", "https://", "//cdn", "@import", "eval(", "innerHTML", "document.write"];
            let allowed = "http://www.w3.org/2000/svg";
            for word in outside {
                assert!(!content.replace(allowed, "").contains(word), "{name}: {word}");
            }
        }
    }
}

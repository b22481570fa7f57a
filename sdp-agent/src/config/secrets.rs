//! Which parts of the operator's settings for builds are secrets: what a tool prints of them is taken out of the log.

use percent_encoding::percent_decode_str;
use sdp_core::secret::Secret;

/// A variable whose name has one of these in it is a secret as a whole.
const NAMES: [&str; 6] = ["TOKEN", "PASSWORD", "PASSWD", "SECRET", "CREDENTIAL", "API_KEY"];

/// A variable's value, if its name says so; the passwords of URLs in it; the logins in it if it is `COMPOSER_AUTH`.
pub(super) fn of_variable(name: &str, value: &str, found: &mut Vec<Secret>) {
    let name = name.to_ascii_uppercase();
    if NAMES.iter().any(|word| name.contains(word)) {
        found.push(Secret::new(value));
    }
    if name.ends_with("_AUTH") {
        of_json(value, found);
    }
    of_urls(value, found);
}

/// Passwords in `scheme://user:password@host`, as they are written and as they are meant.
fn of_urls(text: &str, found: &mut Vec<Secret>) {
    for rest in text.split("://").skip(1) {
        let authority = rest.split(['/', ',', ' ', '|', '?', '#']).next().unwrap_or_default();
        let Some((login, _host)) = authority.rsplit_once('@') else { continue };
        // A lone word before the @ is a token as often as a user.
        let password = login.split_once(':').map_or(login, |(_, password)| password);
        if !password.is_empty() {
            found.push(Secret::new(password));
            let meant = percent_decode_str(password).decode_utf8_lossy();
            if meant != password {
                found.push(Secret::new(meant));
            }
        }
    }
}

/// All that is written below composer's keys for logins, but for the names of users.
pub(super) fn of_json(text: &str, found: &mut Vec<Secret>) {
    if let Ok(json) = serde_json::from_str::<serde_json::Value>(text) {
        logins(&json, found);
    }
}

fn logins(json: &serde_json::Value, found: &mut Vec<Secret>) {
    const KEYS: [&str; 8] = [
        "http-basic",
        "bearer",
        "github-oauth",
        "gitlab-oauth",
        "gitlab-token",
        "bitbucket-oauth",
        "forgejo-token",
        "custom-headers",
    ];
    match json {
        serde_json::Value::Object(fields) => {
            for (key, value) in fields {
                if KEYS.contains(&key.as_str()) { texts(value, found) } else { logins(value, found) }
            }
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| logins(item, found)),
        serde_json::Value::String(text) => of_urls(text, found),
        _ => {}
    }
}

fn texts(json: &serde_json::Value, found: &mut Vec<Secret>) {
    match json {
        serde_json::Value::String(text) => found.push(Secret::new(text.as_str())),
        serde_json::Value::Array(items) => items.iter().for_each(|item| texts(item, found)),
        serde_json::Value::Object(fields) => {
            for (key, value) in fields {
                if !matches!(key.as_str(), "username" | "consumer-key") {
                    texts(value, found);
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str, value: &str) -> Vec<String> {
        let mut found = Vec::new();
        of_variable(name, value, &mut found);
        found.iter().map(|secret| secret.expose().to_owned()).collect()
    }

    #[test]
    fn secrets_are_known_by_their_names_and_places() {
        assert_eq!(found("NPM_TOKEN", "abc"), ["abc"]);
        assert!(found("GOFLAGS", "-mod=mod").is_empty());
        assert_eq!(
            found("GOPROXY", "https://me:p%40ss@mirror.example/go,https://tok3n@other.example|direct"),
            ["p%40ss", "p@ss", "tok3n"]
        );
        let auth = r#"{"http-basic": {"mirror.example": {"username": "me", "password": "hunter2"}},
                       "bearer": {"x.example": "b3arer"}, "gitlab-token": {"g.example": {"username": "u", "token": "t0ken"}}}"#;
        assert_eq!(found("COMPOSER_AUTH", auth), ["b3arer", "t0ken", "hunter2"]);
        let mut all = Vec::new();
        let config = r#"{"config": {"bearer": {"x": "b3arer"}, "vendor-dir": "v"},
                         "repositories": [{"type": "composer", "url": "https://u:pw12345@m.example"}]}"#;
        of_json(config, &mut all);
        assert_eq!(all.iter().map(Secret::expose).collect::<Vec<_>>(), ["b3arer", "pw12345"]);
        of_json("not json", &mut all);
        assert_eq!(all.len(), 2);
    }
}

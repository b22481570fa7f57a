//! What a chat must not hold. Better a harmless name refused than a password read by the whole channel.

/// Whether a variable of this name usually holds a secret.
pub(super) fn is_secret_name(name: &str) -> bool {
    const PARTS: [&str; 14] = [
        "TOKEN",
        "SECRET",
        "PASSWORD",
        "PASSWD",
        "PASSPHRASE",
        "PWD",
        "CREDENTIAL",
        "PRIVATE",
        "APIKEY",
        "API_KEY",
        "ACCESS_KEY",
        "SSH_KEY",
        "CONNECTION_STRING",
        "DSN",
    ];
    let name = name.to_ascii_uppercase();
    PARTS.iter().any(|part| name.contains(part))
        || name.ends_with("_KEY")
        || name == "KEY"
        || name.ends_with("_PASS")
}

/// Whether a text looks like a secret itself: the tokens of well-known services, a private key, a password in an address.
#[must_use]
pub fn looks_like_a_secret(text: &str) -> bool {
    const PREFIXES: [&str; 21] = [
        "ghp_",
        "gho_",
        "ghu_",
        "ghs_",
        "ghr_",
        "github_pat_",
        "glpat-",
        "xoxb-",
        "xoxp-",
        "xoxa-",
        "xoxs-",
        "xapp-",
        "ATBB",
        "ATATT",
        "AKIA",
        "ASIA",
        "sk_live_",
        "sdp_",
        "sdpa_",
        "sdpe_",
        "eyJhbGci",
    ];
    let words = text.split(|c: char| c.is_whitespace() || "=,;\"'".contains(c));
    text.contains("-----BEGIN")
        || words.into_iter().any(|word| {
            let word = word.rsplit(['/', ':', '@']).next().unwrap_or(word);
            PREFIXES.iter().any(|prefix| word.strip_prefix(prefix).is_some_and(|rest| rest.len() >= 16))
        })
        || has_password(text)
}

/// `scheme://user:password@host`.
fn has_password(text: &str) -> bool {
    text.split("://").skip(1).any(|rest| {
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        authority
            .rsplit_once('@')
            .is_some_and(|(user, _)| user.split_once(':').is_some_and(|(_, password)| !password.is_empty()))
    })
}

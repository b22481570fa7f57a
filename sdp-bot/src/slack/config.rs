//! How the bot is set up for Slack: the part `[slack]` of its configuration.
//!
//! | entry | variable | meaning |
//! | --- | --- | --- |
//! | `mode` | | `socket` (the default: the bot connects to Slack) or `http` (Slack calls the bot) |
//! | `bot_token_file` | `SDP_SLACK_BOT_TOKEN_FILE` | file with the app's bot token (`xoxb-…`) |
//! | `app_token_file` | `SDP_SLACK_APP_TOKEN_FILE` | `socket`: file with the app-level token (`xapp-…`, scope `connections:write`) |
//! | `signing_secret_file` | `SDP_SLACK_SIGNING_SECRET_FILE` | `http`: file with the app's signing secret |
//! | `listen` | `SDP_SLACK_LISTEN` | `http`: address and port on which Slack's requests arrive; TLS is a reverse proxy's |
//! | `app_id` | | the app's id (`A…`): what is sent to another app is ignored |
//! | `proxy` | `SDP_SLACK_PROXY` | `http://[user:password@]host:port` of a proxy that lets the bot out (CONNECT) |
//! | `api_url` | | where Slack's Web API is, if not at Slack |
//! | `[slack.channels]` | | `service = "C024BE91L"`: where deployments of a service are told that nobody asked for in Slack |
//! | `[slack.environments]` | | `staging = "C024BE91L"`: the same for deployments in an environment; it goes before their services' |
//!
//! Without a file, a token may stand in the variable itself: `SDP_SLACK_BOT_TOKEN`, `SDP_SLACK_APP_TOKEN`,
//! `SDP_SLACK_SIGNING_SECRET`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use sdp_core::name::{EnvironmentName, ServiceName};
use sdp_core::secret::Secret;
use serde::Deserialize;
use url::Url;

use crate::config::{ConfigError, read_secret};

/// `[slack]`, as far as it is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SlackConfig {
    /// How what people do comes here.
    pub mode: Mode,
    /// File with the bot token.
    pub bot_token_file: Option<PathBuf>,
    /// File with the app-level token.
    pub app_token_file: Option<PathBuf>,
    /// File with the signing secret.
    pub signing_secret_file: Option<PathBuf>,
    /// Where Slack's requests arrive.
    pub listen: Option<SocketAddr>,
    /// The app.
    pub app_id: Option<String>,
    /// The proxy on the way out.
    pub proxy: Option<Url>,
    /// Slack's Web API.
    pub api_url: Option<Url>,
    /// Where deployments are told that nobody asked for in Slack.
    pub channels: HashMap<ServiceName, String>,
    /// The same by environment; that goes first.
    pub environments: HashMap<EnvironmentName, String>,
}

/// How what people do comes to the bot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Over a WebSocket that the bot opens.
    #[default]
    Socket,
    /// Over signed requests of Slack's.
    Http,
}

/// What the bot needs to run in Slack.
#[derive(Clone, Debug)]
pub struct Slack {
    /// The bot token.
    pub bot_token: Secret,
    /// How what people do comes here.
    pub way: Way,
    /// The app.
    pub app_id: Option<String>,
    /// The proxy on the way out.
    pub proxy: Option<Url>,
    /// Slack's Web API.
    pub api_url: Url,
    /// Where deployments are told that nobody asked for in Slack.
    pub channels: HashMap<ServiceName, String>,
    /// The same by environment; that goes first.
    pub environments: HashMap<EnvironmentName, String>,
    /// How fast it speaks.
    pub rates: super::Rates,
}

/// A way in, with what it needs.
#[derive(Clone, Debug)]
pub enum Way {
    /// Over a WebSocket that the bot opens.
    Socket {
        /// The app-level token.
        app_token: Secret,
    },
    /// Over signed requests.
    Http {
        /// With what they are signed.
        signing_secret: Secret,
        /// Where they arrive.
        listen: SocketAddr,
    },
}

impl SlackConfig {
    /// Lays variables over it and reads the files. `lookup` gives a variable's value; empty counts as not set.
    ///
    /// # Errors
    /// [`ConfigError`], naming the entry or variable.
    pub fn resolve(self, lookup: impl Fn(&str) -> Option<String>) -> Result<Slack, ConfigError> {
        let lookup = |name: &str| lookup(name).filter(|value| !value.is_empty());
        let parsed = |name: &'static str, problem: String| ConfigError::Variable { name, problem };
        let proxy = match lookup("SDP_SLACK_PROXY") {
            // It may hold a password: only what is wrong is repeated.
            Some(url) => Some(
                url.parse().map_err(|error: url::ParseError| parsed("SDP_SLACK_PROXY", error.to_string()))?,
            ),
            None => self.proxy,
        };
        let secret = |what: &'static str, variable: &str, file: Option<PathBuf>, hint: &'static str| {
            let file = lookup(&format!("{variable}_FILE")).map(PathBuf::from).or(file);
            match (lookup(variable), file) {
                (Some(value), _) => Ok(Secret::new(value.trim())),
                (None, Some(file)) => read_secret(&file),
                (None, None) => Err(ConfigError::Missing { what, hint }),
            }
        };
        let bot_token = secret(
            "Slack's bot token",
            "SDP_SLACK_BOT_TOKEN",
            self.bot_token_file,
            "give slack.bot_token_file, SDP_SLACK_BOT_TOKEN_FILE or SDP_SLACK_BOT_TOKEN; it begins with xoxb-",
        )?;
        let bot_token = of_kind(bot_token, "xoxb-", "slack.bot_token_file")?;
        if let Some(channel) =
            self.channels.values().chain(self.environments.values()).find(|channel| !is_channel(channel))
        {
            let problem =
                format!("“{}” is no channel's id, such as C024BE91L", crate::text::clean(channel, 40));
            return Err(parsed("slack.channels", problem));
        }
        let way = match self.mode {
            Mode::Socket => Way::Socket {
                app_token: of_kind(secret(
                    "Slack's app-level token",
                    "SDP_SLACK_APP_TOKEN",
                    self.app_token_file,
                    "give slack.app_token_file, SDP_SLACK_APP_TOKEN_FILE or SDP_SLACK_APP_TOKEN; it begins with xapp- and has the scope connections:write",
                )?, "xapp-", "slack.app_token_file")?,
            },
            Mode::Http => Way::Http {
                signing_secret: secret(
                    "Slack's signing secret",
                    "SDP_SLACK_SIGNING_SECRET",
                    self.signing_secret_file,
                    "give slack.signing_secret_file, SDP_SLACK_SIGNING_SECRET_FILE or SDP_SLACK_SIGNING_SECRET",
                )?,
                listen: match lookup("SDP_SLACK_LISTEN") {
                    Some(text) => text.parse().map_err(|_| {
                        parsed("SDP_SLACK_LISTEN", "it has to be address:port, e.g. 127.0.0.1:8090".to_owned())
                    })?,
                    None => self.listen.ok_or(ConfigError::Missing {
                        what: "slack.listen",
                        hint: "in mode http, give the address and port on which Slack's requests arrive, e.g. 127.0.0.1:8090",
                    })?,
                },
            },
        };
        let api_url = match self.api_url {
            Some(url) => url,
            None => DEFAULT_API.parse().map_err(|_| parsed("slack.api_url", "no address".to_owned()))?,
        };
        if api_url.scheme() != "https" && !is_loopback(&api_url) {
            let problem = "it has to be https: what is sent there holds the app's token".to_owned();
            return Err(parsed("slack.api_url", problem));
        }
        Ok(Slack {
            bot_token,
            way,
            app_id: self.app_id,
            proxy,
            api_url,
            channels: self.channels,
            environments: self.environments,
            rates: super::Rates::default(),
        })
    }
}

impl Slack {
    /// What can be told without asking Slack.
    ///
    /// # Errors
    /// [`super::DialError`]: an authority or the proxy.
    pub fn check(&self, authorities: &[u8]) -> Result<(), super::DialError> {
        super::dial::dial(authorities, self.proxy.as_ref()).map(drop)
    }
}

/// A token of the other kind is a mistake that Slack would name only later.
fn of_kind(token: Secret, prefix: &'static str, name: &'static str) -> Result<Secret, ConfigError> {
    match token.expose().starts_with(prefix) {
        true => Ok(token),
        false => Err(ConfigError::Variable {
            name,
            problem: format!("a token that begins with {prefix} is needed"),
        }),
    }
}

/// Whether it is an id, by which a channel can be posted to and read.
fn is_channel(id: &str) -> bool {
    id.len() >= 2
        && id.starts_with(['C', 'G', 'D'])
        && id.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
}

/// Where Slack's Web API is.
const DEFAULT_API: &str = "https://slack.com/api";

/// Whether an address is this machine's own.
pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(toml: &str, variables: &[(&str, &str)]) -> Result<Slack, String> {
        let config: SlackConfig = toml::from_str(toml).map_err(|error| error.to_string())?;
        let lookup = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        config.resolve(lookup).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_missing_is_named_with_where_to_give_it() {
        let bot = ("SDP_SLACK_BOT_TOKEN", "xoxb-1");
        for (toml, variables, wanted) in [
            ("", &[][..], "bot token is missing"),
            ("", &[bot][..], "app-level token is missing"),
            ("mode = \"http\"", &[bot][..], "signing secret is missing"),
            ("mode = \"http\"", &[bot, ("SDP_SLACK_SIGNING_SECRET", "s")][..], "slack.listen is missing"),
            ("mode = \"pigeon\"", &[][..], "pigeon"),
            ("bot_token = \"xoxb-1\"", &[][..], "bot_token"),
            ("", &[("SDP_SLACK_BOT_TOKEN", "xapp-1")][..], "begins with xoxb-"),
            ("", &[bot, ("SDP_SLACK_APP_TOKEN", "xoxb-1")][..], "begins with xapp-"),
            ("[channels]\npayments = \"#deploys\"", &[bot][..], "no channel's id"),
            (
                "api_url = \"http://slack.example/api\"",
                &[bot, ("SDP_SLACK_APP_TOKEN", "xapp-1")][..],
                "https",
            ),
        ] {
            let error = resolve(toml, variables).unwrap_err();
            assert!(error.contains(wanted), "{toml}: {error}");
        }
    }

    #[test]
    fn a_variable_comes_before_a_file_and_slack_is_slack() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, "xapp-file\n").unwrap();
        let toml = format!("app_token_file = {:?}\n[channels]\npayments = \"C1\"\n", file.to_str().unwrap());
        let slack = resolve(&toml, &[("SDP_SLACK_BOT_TOKEN", " xoxb-1\n")]).unwrap();
        assert_eq!(slack.bot_token.expose(), "xoxb-1");
        assert_eq!(slack.api_url.as_str(), "https://slack.com/api");
        assert_eq!(slack.channels.len(), 1);
        assert!(matches!(slack.way, Way::Socket { app_token } if app_token.expose() == "xapp-file"));
    }
}

//! The way out of the machine: a proxy, the hosts that are reached without it, and the certificates of a company's own
//! authority. From the `[network]` section; the agent's git uses it where `[git]` says nothing else, and builds are told
//! in the variables that their tools look for.
//!
//! The agent's own connection to its server trusts the same authority and never takes the proxy.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer};
use url::Url;

/// The `[network]` section.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkConfig {
    /// An HTTP proxy, with a user and password where it wants them.
    pub proxy: Option<Url>,
    /// Who is reached without it.
    pub no_proxy: NoProxy,
    /// Certificates (PEM) of authorities that are trusted besides the system's.
    pub ca_file: Option<PathBuf>,
}

impl fmt::Debug for NetworkConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The proxy's URL may hold a password.
        let proxy = self.proxy.as_ref().and_then(Url::host_str);
        f.debug_struct("NetworkConfig")
            .field("proxy", &proxy)
            .field("no_proxy", &self.no_proxy.text())
            .field("ca_file", &self.ca_file)
            .finish()
    }
}

impl NetworkConfig {
    /// Looks whether the section makes sense, without touching the disk.
    ///
    /// # Errors
    /// The key and what is wrong with it.
    pub fn validate(&self) -> Result<(), (&'static str, String)> {
        if let Some(proxy) = &self.proxy
            && (!matches!(proxy.scheme(), "http" | "https") || proxy.host_str().is_none_or(str::is_empty))
        {
            return Err((
                "network.proxy",
                "only http://host:port and https://host:port are understood".into(),
            ));
        }
        if self.ca_file.as_ref().is_some_and(|path| !path.is_absolute()) {
            return Err(("network.ca_file", "an absolute path".into()));
        }
        Ok(())
    }

    /// The variables that say it to the tools of a build. `bundle` is a file with all trusted certificates.
    #[must_use]
    pub fn variables(&self, bundle: Option<&Path>) -> BTreeMap<String, String> {
        let mut variables = BTreeMap::new();
        if let Some(proxy) = &self.proxy {
            let proxy = proxy.as_str().trim_end_matches('/').to_owned();
            // Some tools look for one case, some for the other.
            for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"] {
                variables.insert(name.to_owned(), proxy.clone());
            }
            let hosts = self.no_proxy.text();
            if !hosts.is_empty() {
                for name in ["NO_PROXY", "no_proxy"] {
                    variables.insert(name.to_owned(), hosts.clone());
                }
            }
        }
        if let Some(bundle) = bundle {
            let bundle = bundle.to_string_lossy().into_owned();
            // Go, OpenSSL and PHP; composer; git; curl; Python; Node.
            for name in [
                "SSL_CERT_FILE",
                "COMPOSER_CAFILE",
                "GIT_SSL_CAINFO",
                "CURL_CA_BUNDLE",
                "REQUESTS_CA_BUNDLE",
                "NODE_EXTRA_CA_CERTS",
            ] {
                variables.insert(name.to_owned(), bundle.clone());
            }
        }
        variables
    }

    /// The system's certificates and those of `ca_file`, as PEM: most tools take one file in place of the system's, not
    /// besides it. `None` where there is no `ca_file`. Blocking.
    ///
    /// # Errors
    /// When the file cannot be read or holds no certificate.
    pub fn bundle(&self) -> io::Result<Option<String>> {
        let Some(path) = &self.ca_file else { return Ok(None) };
        let own = read_certificates(path)?;
        let system = rustls_native_certs::load_native_certs();
        let mut text = String::new();
        for der in system.certs.iter().map(AsRef::as_ref).chain(own.iter().map(Vec::as_slice)) {
            text.push_str("-----BEGIN CERTIFICATE-----\n");
            let encoded = STANDARD.encode(der);
            for line in encoded.as_bytes().chunks(64) {
                text.push_str(&String::from_utf8_lossy(line));
                text.push('\n');
            }
            text.push_str("-----END CERTIFICATE-----\n");
        }
        Ok(Some(text))
    }
}

/// The certificates of a PEM file; at least one.
fn read_certificates(path: &Path) -> io::Result<Vec<Vec<u8>>> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    let wrong = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let pem = std::fs::read(path)?;
    let found: Vec<Vec<u8>> = CertificateDer::pem_slice_iter(&pem)
        .map(|item| item.map(|der| der.to_vec()))
        .collect::<Result<_, _>>()
        .map_err(|error| wrong(format!("it is not PEM: {error:?}")))?;
    if found.is_empty() { Err(wrong("it holds no certificate".to_owned())) } else { Ok(found) }
}

/// Who is reached without a proxy: names, addresses and networks, in the spelling of the variable `NO_PROXY`.
///
/// | written | means |
/// | --- | --- |
/// | `example.com` | that host and all below it |
/// | `.example.com`, `*.example.com` | all below it |
/// | `10.0.0.7`, `fd00::7` | that address |
/// | `10.0.0.0/8`, `fd00::/8` | all addresses of that network; names are not looked up for it |
/// | any of these with `:8443` | only on that port (an IPv6 address in brackets then) |
/// | `*` | everybody |
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NoProxy(Vec<Rule>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    text: String,
    who: Who,
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Who {
    Everybody,
    /// A host and, if so, those below it.
    Host {
        name: String,
        itself: bool,
    },
    Network {
        address: IpAddr,
        bits: u8,
    },
}

impl NoProxy {
    /// Each of these may hold several, with commas between them.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        let rules = texts
            .into_iter()
            .flat_map(|text| text.split(','))
            .map(str::trim)
            .filter(|text| !text.is_empty())
            .map(Rule::parse);
        Self(rules.collect())
    }

    /// As the variable `NO_PROXY` has it.
    #[must_use]
    pub fn text(&self) -> String {
        self.0.iter().map(|rule| rule.text.as_str()).collect::<Vec<_>>().join(",")
    }

    /// Whether there is nobody in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a URL's host is reached without the proxy.
    #[must_use]
    pub fn matches(&self, url: &Url) -> bool {
        let Some(host) = url.host_str() else { return false };
        let host =
            host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.').to_ascii_lowercase();
        let port = url.port_or_known_default();
        let address = host.parse::<IpAddr>().ok();
        self.0.iter().any(|rule| {
            rule.port.is_none_or(|wanted| Some(wanted) == port)
                && match &rule.who {
                    Who::Everybody => true,
                    Who::Host { name, itself } => {
                        address.is_none()
                            && host.strip_suffix(name.as_str()).is_some_and(|rest| {
                                if rest.is_empty() { *itself } else { rest.ends_with('.') }
                            })
                    }
                    Who::Network { address: network, bits } => {
                        address.is_some_and(|address| same_network(address, *network, *bits))
                    }
                }
        })
    }
}

impl<'de> Deserialize<'de> for NoProxy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            One(String),
            Several(Vec<String>),
        }
        Ok(match Written::deserialize(deserializer)? {
            Written::One(text) => Self::parse([text.as_str()]),
            Written::Several(texts) => Self::parse(texts.iter().map(String::as_str)),
        })
    }
}

impl Rule {
    fn parse(text: &str) -> Self {
        let (host, port) = split_port(text);
        let who = if host == "*" {
            Who::Everybody
        } else if let Some(network) = network(host) {
            network
        } else {
            let below = host.strip_prefix("*.").or_else(|| host.strip_prefix('.'));
            let name = below.unwrap_or(host).trim_end_matches('.').to_ascii_lowercase();
            Who::Host { name, itself: below.is_none() }
        };
        Self { text: text.to_owned(), who, port }
    }
}

fn split_port(text: &str) -> (&str, Option<u16>) {
    if let Some(rest) = text.strip_prefix('[')
        && let Some((host, after)) = rest.split_once(']')
    {
        return (host, after.strip_prefix(':').and_then(|port| port.parse().ok()));
    }
    match text.split_once(':') {
        // More than one colon: an IPv6 address without a port.
        Some((host, port)) if !port.contains(':') => match port.parse() {
            Ok(port) => (host, Some(port)),
            Err(_) => (text, None),
        },
        _ => (text, None),
    }
}

fn network(text: &str) -> Option<Who> {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address.parse::<IpAddr>().ok()?, Some(bits.parse::<u8>().ok()?)),
        None => (text.parse::<IpAddr>().ok()?, None),
    };
    let longest = if address.is_ipv4() { 32 } else { 128 };
    Some(Who::Network { address, bits: bits.unwrap_or(longest).min(longest) })
}

fn same_network(one: IpAddr, other: IpAddr, bits: u8) -> bool {
    let differ = match (one.to_canonical(), other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => (u32::from(one) ^ u32::from(other)).leading_zeros(),
        (IpAddr::V6(one), IpAddr::V6(other)) => (u128::from(one) ^ u128::from(other)).leading_zeros(),
        _ => return false,
    };
    differ >= u32::from(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn without(rules: &str, url: &str) -> bool {
        NoProxy::parse([rules]).matches(&Url::parse(url).expect(url))
    }

    #[test]
    fn hosts_without_the_proxy_are_names_addresses_and_networks() {
        let rules =
            "localhost, .corp.example, git.example.com:8443, 10.0.0.0/8, fd00::/8, [::1]:80, 192.0.2.7";
        for (url, expected) in [
            ("http://localhost:8080/", true),
            ("http://www.localhost/", true),
            ("http://notlocalhost/", false),
            ("https://corp.example/", false),
            ("https://Git.CORP.example./", true),
            ("https://evilcorp.example/", false),
            ("https://git.example.com:8443/", true),
            ("https://git.example.com/", false),
            ("https://10.200.3.4/", true),
            ("https://11.0.0.1/", false),
            ("https://[fd12::1]/", true),
            ("https://[fe80::1]/", false),
            ("http://[::1]/", true),
            ("https://[::1]/", false),
            ("https://192.0.2.7/", true),
            ("https://192.0.2.70/", false),
            ("https://10.example.com/", false),
        ] {
            assert_eq!(without(rules, url), expected, "{url}");
        }
        assert!(without("*", "https://anything.example/"));
        assert!(!without("", "https://anything.example/"));
        assert!(without("*.corp.example", "https://a.b.corp.example/"));
        assert!(without("0.0.0.0/0", "https://1.2.3.4/"));
    }

    #[test]
    fn the_section_is_read_and_its_password_never_shown() {
        let config: NetworkConfig = toml::from_str(
            "proxy = \"http://me:hunter2@proxy:3128\"\nno_proxy = \"localhost, .corp\"\nca_file = \"/etc/ca.pem\"",
        )
        .expect("good");
        config.validate().expect("good");
        insta::assert_debug_snapshot!(config, @r#"
        NetworkConfig {
            proxy: Some(
                "proxy",
            ),
            no_proxy: "localhost,.corp",
            ca_file: Some(
                "/etc/ca.pem",
            ),
        }
        "#);
        let variables = config.variables(Some(Path::new("/w/ca.pem")));
        assert_eq!(variables["https_proxy"], "http://me:hunter2@proxy:3128");
        assert_eq!(
            (variables["NO_PROXY"].as_str(), variables["SSL_CERT_FILE"].as_str()),
            ("localhost,.corp", "/w/ca.pem")
        );
        let list: NetworkConfig = toml::from_str("no_proxy = [\"a\", \"b, c\"]").expect("good");
        assert_eq!(list.no_proxy.text(), "a,b,c");
        for bad in ["proxy = \"socks5://x\"", "ca_file = \"ca.pem\""] {
            let config: NetworkConfig = toml::from_str(bad).expect("reads");
            assert!(config.validate().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_bundle_has_the_companys_certificates_beside_the_systems() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ca.pem");
        let made = rcgen::generate_simple_self_signed(["corp.example".to_owned()]).expect("a certificate");
        std::fs::write(&path, made.cert.pem()).expect("written");
        let config = NetworkConfig { ca_file: Some(path.clone()), ..NetworkConfig::default() };
        let bundle = config.bundle().expect("read").expect("one");
        let own = made.cert.pem().lines().nth(3).expect("a line").trim().to_owned();
        assert!(bundle.contains(&own));
        let system = rustls_native_certs::load_native_certs().certs.len();
        assert_eq!(bundle.matches("BEGIN CERTIFICATE").count(), system + 1);
        std::fs::write(&path, "nothing").expect("written");
        assert!(config.bundle().is_err());
        assert!(NetworkConfig::default().bundle().expect("none").is_none());
    }
}

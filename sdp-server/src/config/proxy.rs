//! `[proxy]` of the configuration: whose word counts for where a request comes from.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer};

/// The proxies before the server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Proxy {
    /// Addresses (`127.0.0.1`) and networks (`10.0.0.0/8`) of proxies. What they say in `X-Forwarded-For` counts, from
    /// everybody else it is ignored.
    #[serde(deserialize_with = "networks")]
    pub trusted: Vec<IpNet>,
}

impl Proxy {
    /// Whether a proxy of ours is at this address.
    pub(crate) fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(&address))
    }
}

/// A list, or in one text with commas, as a variable of the environment has it.
fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Given {
        Text(String),
        List(Vec<String>),
    }
    let wrong = |text: &str| {
        serde::de::Error::custom(format!(
            "{text:?} is no address and no network, such as \"127.0.0.1\", \"10.0.0.0/8\" or \"fd00::/8\""
        ))
    };
    let given = match Given::deserialize(deserializer) {
        Ok(Given::Text(text)) => text.split(',').map(|one| one.trim().to_owned()).collect(),
        Ok(Given::List(list)) => list,
        Err(_) => return Err(serde::de::Error::custom("expected a list of addresses and networks")),
    };
    given.iter().map(|text| network(text).ok_or_else(|| wrong(text))).collect()
}

/// One that reaches beyond its own prefix (`10.0.0.1/8`) is a slip, and none.
fn network(text: &str) -> Option<IpNet> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address.to_canonical().into());
    }
    text.parse::<IpNet>().ok().filter(|network| network.addr() == network.network())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_networks_and_nothing_else() {
        let read = |text: &str| toml::from_str::<Proxy>(text).map_err(|error| error.message().to_owned());
        let proxy = read("trusted = [\"127.0.0.1\", \"10.0.0.0/8\", \"fd00::/8\"]").expect("valid");
        for (address, is_trusted) in [
            ("127.0.0.1", true),
            ("127.0.0.2", false),
            ("10.255.0.1", true),
            ("11.0.0.1", false),
            ("fd12::1", true),
            ("fe80::1", false),
        ] {
            assert_eq!(proxy.trusts(address.parse().expect("an address")), is_trusted, "{address}");
        }
        assert_eq!(read("trusted = \"127.0.0.1, 10.0.0.0/8\"").expect("valid").trusted.len(), 2);
        assert!(!Proxy::default().trusts("127.0.0.1".parse().expect("an address")));
        for bad in ["localhost", "10.0.0.1/8", "10.0.0.0/33", "", "10.0.0.0/255.0.0.0"] {
            let said = read(&format!("trusted = [\"{bad}\"]")).expect_err("refused");
            assert!(said.contains(&format!("{bad:?} is no address")), "{said}");
        }
        assert!(read("trusted = 1").is_err());
    }
}

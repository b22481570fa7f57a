//! What the machine says that nginx has to be told: resolvers, names of its own, certificate authorities.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The name servers in `/etc/resolv.conf`.
pub(super) fn resolvers(text: &str) -> Vec<SocketAddr> {
    let server = |line: &str| {
        let address = line.trim().strip_prefix("nameserver")?.trim();
        Some(SocketAddr::new(address.parse::<IpAddr>().ok()?, 53))
    };
    text.lines().filter_map(server).collect()
}

/// The names in `/etc/hosts`, IPv4 first: nginx's resolver does not look there.
pub(super) fn hosts(text: &str) -> BTreeMap<String, IpAddr> {
    let mut found: BTreeMap<String, IpAddr> = BTreeMap::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let Some(address) = words.next().and_then(|word| word.parse::<IpAddr>().ok()) else { continue };
        for name in words {
            let known = found.entry(name.to_ascii_lowercase()).or_insert(address);
            if known.is_ipv6() && address.is_ipv4() {
                *known = address;
            }
        }
    }
    found
}

/// Whether the machine has an IPv6 address that others reach: `/proc/net/if_inet6`.
pub(super) fn has_ipv6(text: &str) -> bool {
    text.lines().any(|line| line.split_whitespace().nth(3) == Some("00"))
}

/// The system's certificate authorities and those of a file, as PEM.
pub(super) fn bundle(ca_file: Option<&Path>) -> io::Result<String> {
    let mut pem = String::new();
    for certificate in rustls_native_certs::load_native_certs().certs {
        pem.push_str("-----BEGIN CERTIFICATE-----\n");
        let text = STANDARD.encode(&certificate);
        for line in text.as_bytes().chunks(64) {
            pem.push_str(&String::from_utf8_lossy(line));
            pem.push('\n');
        }
        pem.push_str("-----END CERTIFICATE-----\n");
    }
    if let Some(path) = ca_file {
        let own = std::fs::read_to_string(path).map_err(|error| {
            io::Error::new(error.kind(), format!("router.ca_file {}: {error}", path.display()))
        })?;
        pem.push_str(&own);
    }
    Ok(pem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_s_files_are_read_as_they_are() {
        let said = resolvers("search x\nnameserver 10.0.0.2\n nameserver fd00::2 \nnameserver odd\n");
        assert_eq!(said, ["10.0.0.2:53".parse().unwrap(), "[fd00::2]:53".parse().unwrap()]);
        let found = hosts("127.0.0.1 localhost A # b\n::1 localhost six\n::1 both\n10.0.0.1 both\nodd x\n");
        let shown: Vec<_> = found.iter().map(|(name, address)| format!("{name} {address}")).collect();
        assert_eq!(shown, ["a 127.0.0.1", "both 10.0.0.1", "localhost 127.0.0.1", "six ::1"]);
        let local = "00000000000000000000000000000001 01 80 10 80 lo\n";
        assert!(!has_ipv6(local));
        assert!(has_ipv6(&format!("{local}20010db8000000000000000000000001 02 40 00 80 eth0\n")));
    }
}

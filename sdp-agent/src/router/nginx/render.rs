//! A route table as nginx's configuration: a pure function of typed values. The same choice as [`sdp_core::routing::select`], as
//! maps that nginx evaluates when they are needed:
//!
//! ```text
//!  request ─▶ sdp_said (which selector, what) ─▶ sdp_place (environment, sandbox, key) ─▶ sdp_found (service, how)
//!          ─▶ sdp_row, sdp_baseline (where to) ─▶ sdp_goes ─▶ location: instance │ external │ http │ https │ link │ no/<code>
//! ```
//! Paths are matched on the request line as it was sent, never on what nginx makes of it. Keys of maps are compared without regard
//! to case, so what chooses is checked by a regular expression first.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;
use sdp_core::catalog::{MatchRule, WhenDown};
use sdp_core::id::RouteVersion;
use sdp_core::routing::{COOKIE, EnvironmentRoutes, ROUTING_KEY, RouteTable, RouteTarget, TRACESTATE};
use url::{Host, Url};

use super::conf::{Conf, LONGEST, literal, quoted, value};
use super::{pass, refuse};
use crate::router::Limits;

/// What a configuration is made for, beside the table.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) listen: SocketAddr,
    pub(super) base_url: Url,
    pub(super) trust_forwarded: bool,
    pub(super) trusted_networks: Vec<IpNet>,
    pub(super) limits: Limits,
    /// All files are below it.
    pub(super) folder: PathBuf,
    pub(super) workers: usize,
    /// How long connections of an earlier table may live, in seconds.
    pub(super) old_connections: u64,
    pub(super) resolvers: Vec<SocketAddr>,
    /// Whether names are looked up for IPv6, too.
    pub(super) ipv6: bool,
    /// Names that this machine knows by itself.
    pub(super) hosts: BTreeMap<String, IpAddr>,
}

impl Settings {
    pub(super) fn path(&self, name: &str) -> String {
        self.folder.join(name).to_string_lossy().into_owned()
    }

    /// What stands before every path outside, without a final `/`.
    pub(super) fn base_path(&self) -> &str {
        self.base_url.path().trim_end_matches('/')
    }
}

/// The whole configuration.
///
/// `stamp` is what the version endpoint answers.
pub(super) fn render(table: &RouteTable, to: &Settings, stamp: &str) -> String {
    let mut conf = Conf::default();
    begin(&mut conf, to);
    selectors(&mut conf, table, to);
    sandboxes(&mut conf, table);
    services(&mut conf, table);
    targets(&mut conf, table, to);
    goes(&mut conf, table, to);
    pass::maps(&mut conf, to);
    refuse::maps(&mut conf, table, to);
    servers(&mut conf, table, to, stamp);
    conf.into_text()
}

fn begin(conf: &mut Conf, to: &Settings) {
    let connections = to.limits.connections.saturating_mul(2).saturating_add(64);
    conf.line("# Written by sdp-agent for each route table; changes are lost.");
    conf.line(&format!("pid {};", quoted(&to.path("nginx.pid"))));
    conf.line(&format!("error_log {} warn;", quoted(&to.path("error.log"))));
    conf.line(&format!("worker_processes {};", to.workers));
    conf.line(&format!("worker_shutdown_timeout {}s;", to.old_connections));
    conf.line(&format!("events {{ worker_connections {connections}; }}"));
    conf.line("http {");
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        conf.line(&format!("{kind}_temp_path {};", quoted(&to.path(&format!("temp/{kind}")))));
    }
    let header = to.limits.header_bytes;
    let read = to.limits.header_read_timeout.as_secs().max(1);
    conf.line(&format!(
        "map_hash_max_size 1048576;\nmap_hash_bucket_size 512;\nvariables_hash_max_size 4096;\nserver_tokens off;\n\
         underscores_in_headers on;\nabsolute_redirect off;\nclient_max_body_size 0;\nclient_header_buffer_size 4k;\n\
         large_client_header_buffers 8 {header};\nclient_header_timeout {read}s;\nkeepalive_timeout {read}s;\n\
         keepalive_requests 1000000000;\nclient_body_timeout 1d;\nsend_timeout 1d;\nrecursive_error_pages on;\n\
         log_format sdp_probe escape=json '{{\"trace\":\"$sdp_trace\",\"ended\":$msec,\"took\":$request_time,\
         \"service\":\"$sdp_service\",\"sandbox\":\"$sdp_sandbox\",\"said\":\"$sdp_said\",\
         \"served_by\":\"$sent_http_sdp_served_by\",\"status\":$status}}';\n\
         access_log {} sdp_probe if=$sdp_trace;\ngeo $sdp_dollar {{ default \"$\"; }}",
        quoted(&to.path("probes.log"))
    ));
    let probe = format!("~^00-(?<sdp_trace_id>{}[0-9a-f]{{24}})-", crate::router::probe::PREFIX);
    conf.map("$http_traceparent", "sdp_trace", "", &[(&probe, "$sdp_trace_id")]);
}

/// What names the sandbox: `<number of the selector>:<what it says>`.
fn selectors(conf: &mut Conf, table: &RouteTable, to: &Settings) {
    let mut headers = vec![
        ("sdp_h_key", "$http_sdp_routing_key"),
        ("sdp_h_name", "$http_sdp_sandbox"),
        ("sdp_h_baggage", "$http_baggage"),
        ("sdp_h_state", "$http_tracestate"),
        ("sdp_h_cookie", "$http_cookie"),
    ];
    if !to.trusted_networks.is_empty() {
        let origin = if to.trust_forwarded {
            let last = r"~(?:^|,)[ \t]*(?<sdp_last>[0-9A-Fa-f.:]+)[ \t]*$";
            let rows = [("", "$remote_addr"), (last, "$sdp_last")];
            conf.map("$http_x_forwarded_for", "sdp_origin", "255.255.255.255", &rows);
            "$sdp_origin"
        } else {
            "$remote_addr"
        };
        conf.line(&format!("geo {origin} $sdp_trusted {{\n  default \"\";"));
        for network in &to.trusted_networks {
            conf.line(&format!("  {} 1;", network.trunc()));
        }
        conf.line("}");
    }
    for (name, header) in &mut headers {
        match to.trusted_networks.is_empty() {
            true => conf.map(header, name, header, &[]),
            false => conf.map("$sdp_trusted", name, "", &[("1", header)]),
        }
    }
    conf.map("$request_uri", "sdp_path", "", &[("~^(?<sdp_p>[^?#]*)", "$sdp_p")]);
    conf.map("$request_uri", "sdp_query", "", &[(r"~^[^?#]*(?<sdp_q>\?[^#]*)", "$sdp_q")]);
    let link_query = r"~^/(?:~|%7[Ee]){2}/(?<sdp_l_key>off|rk_[a-z2-7]{26})(?<sdp_l_to>\?.*)$";
    let slash = r"~^/(?:~|%7[Ee]){2}/(?<sdp_l_key>off|rk_[a-z2-7]{26})[/\\]+(?<sdp_l_to>.*)$";
    let bare = r"~^/(?:~|%7[Ee]){2}/(?<sdp_l_key>off|rk_[a-z2-7]{26})(?<sdp_l_to>)$";
    let rows = [(slash, "$sdp_l_key"), (link_query, "$sdp_l_key"), (bare, "$sdp_l_key")];
    conf.map("$request_uri", "sdp_link", "", &rows);
    let in_path = "~^/(?:~|%7[Ee])(?<sdp_p_name>[^/]*)(?<sdp_p_rest>.*)$";
    conf.map("$sdp_path", "sdp_s1", "$sdp_s2", &[(in_path, "1:$sdp_p_name")]);
    conf.begin_map("$host", "sdp_s2", "$sdp_s3");
    for environment in &table.environments {
        for host in environment.services.iter().filter_map(|service| service.rule.host()) {
            conf.row(&quoted(&format!("~^{}$", literal(host.as_str()))), "\"$sdp_s3\"");
        }
    }
    for (at, environment) in table.environments.iter().enumerate() {
        if let Some(domain) = &environment.domain {
            let key = format!(r"~^(?<sdp_d{at}>[^.]*)\.{}$", literal(domain.as_str()));
            conf.row(&quoted(&key), &format!("\"2:$sdp_d{at}\""));
        }
    }
    conf.line("}");
    conf.map("$sdp_h_key", "sdp_s3", "3:$sdp_h_key", &[("", "$sdp_s4")]);
    conf.map("$sdp_h_name", "sdp_s4", "4:$sdp_h_name", &[("", "$sdp_s5")]);
    let member = |name: &str, to: &str| format!(r"~(?:^|,)[ \t]*{name}[ \t]*=[ \t]*(?<{to}>[^,;]*[^,; \t])");
    conf.map("$sdp_h_baggage", "sdp_s5", "$sdp_s6", &[(&member(ROUTING_KEY, "sdp_b"), "5:$sdp_b")]);
    conf.map("$sdp_h_state", "sdp_s6", "$sdp_s7", &[(&member(TRACESTATE, "sdp_t"), "6:$sdp_t")]);
    let cookie = format!(r#"~(?:^|;)[ \t]*{COOKIE}[ \t]*=[ \t"]*(?<sdp_c>[^;" \t]+)"#);
    conf.map("$sdp_h_cookie", "sdp_s7", "", &[(&cookie, "7:$sdp_c")]);
    conf.map("$sdp_link", "sdp_said", "0:$sdp_link", &[("", "$sdp_s1"), ("off", "")]);
    let two = |name: &str, to: &str| {
        format!(
            r"~(?:^|,)[ \t]*{name}[ \t]*=[ \t]*+(?<{to}>[^,; \t]++)[^,]*,(?:.*,)?[ \t]*{name}[ \t]*=[ \t]*+(?!\k<{to}>[ \t]*(?:[,;]|$))[^,; \t]"
        )
    };
    conf.map("$sdp_h_baggage", "sdp_two_b", "", &[(&two(ROUTING_KEY, "sdp_b2"), "baggage")]);
    conf.map("$sdp_h_state", "sdp_two_t", "", &[(&two(TRACESTATE, "sdp_t2"), "tracestate")]);
    conf.map("$sdp_said", "sdp_two", "", &[("~^5:", "$sdp_two_b"), ("~^6:", "$sdp_two_t")]);
}

/// Which sandbox it is, and which environment.
fn sandboxes(conf: &mut Conf, table: &RouteTable) {
    let rows = [
        ("", ""),
        ("~^[124]:(?<sdp_t_name>[a-z][a-z0-9-]*)$", "n:$sdp_t_name"),
        ("~^[03567]:(?<sdp_t_key>rk_[a-z2-7]{26})$", "k:$sdp_t_key"),
    ];
    conf.map("$sdp_said", "sdp_token", "?", &rows);
    conf.begin_map("$sdp_token", "sdp_place", "?");
    conf.row("\"\"", "\"\"");
    for environment in &table.environments {
        for sandbox in &environment.sandboxes {
            let place = value(&format!("{} {} {}", environment.name, sandbox.name, sandbox.key));
            conf.row(&quoted(&format!("n:{}", sandbox.name)), &place);
            conf.row(&quoted(&format!("k:{}", sandbox.key)), &place);
        }
    }
    conf.line("}");
    let (env, name, key) = (r"~^(?<sdp_pe>\S+) ", r"~^\S+ (?<sdp_ps>\S+) ", r" (?<sdp_pk>\S+)$");
    conf.map("$sdp_place", "sdp_sandbox", "", &[("?", "?"), (name, "$sdp_ps")]);
    conf.map("$sdp_place", "sdp_key", "", &[("?", ""), (&format!("~{key}"), "$sdp_pk")]);
    conf.map("$sdp_place", "sdp_env", "", &[("", "$sdp_env_by_host"), (env, "$sdp_pe")]);
    let only = (table.environments.len() == 1).then(|| &table.environments[0].name);
    let named = table.environments.iter().map(|environment| &environment.name);
    let default = named.clone().find(|name| name.as_str() == "default").or(only);
    conf.begin_map("h:$host", "sdp_env_by_host", default.map_or("", |name| name.as_str()));
    let mut seen = std::collections::BTreeSet::new();
    let hosts = table.environments.iter().flat_map(|environment| {
        let hosts = environment.services.iter().filter_map(|service| service.rule.host());
        hosts.map(move |host| (host, &environment.name))
    });
    let domains = table
        .environments
        .iter()
        .filter_map(|environment| Some((environment.domain.as_ref()?, &environment.name)));
    for (host, name) in hosts.chain(domains) {
        if seen.insert(host) {
            conf.row(&quoted(&format!("h:{host}")), &value(name.as_str()));
        }
    }
    conf.line("}");
}

/// Which service, and how it was found: `n` by name, `h` by host, `s` and `k` by a prefix that is stripped or kept.
fn services(conf: &mut Conf, table: &RouteTable) {
    conf.map("$sdp_p_rest", "sdp_after_name", "$sdp_p_rest", &[("", "/")]);
    conf.map("$sdp_said", "sdp_after", "$sdp_path", &[("~^1:", "$sdp_after_name")]);
    let named = "~^/(?:~|%7[Ee])(?<sdp_n_name>[^/]*)(?<sdp_n_rest>.*)$";
    conf.map("$sdp_after", "sdp_named", "", &[(named, "n:$sdp_n_name")]);
    let rows = [("", "$sdp_found_by_rule"), ("~^n:[a-z][a-z0-9-]*$", "$sdp_found_by_name")];
    conf.map("$sdp_named", "sdp_found", "", &rows);
    conf.map("$sdp_found_by_host", "sdp_found_by_rule", "$sdp_found_by_host", &[("", "$sdp_found_by_path")]);
    let mut prefixes = Vec::new();
    let (mut names, mut hosts) = (Vec::new(), Vec::new());
    for environment in &table.environments {
        let name = &environment.name;
        for route in &environment.services {
            let service = &route.service;
            names.push((format!("{name} n:{service}"), format!("n {service}")));
            match &route.rule {
                MatchRule::Host { host } => {
                    hosts.push((format!("{name} h:{host}"), format!("h {service}")));
                }
                MatchRule::Path { prefix, strip } => prefixes.push((name, prefix.as_str(), *strip, service)),
            }
        }
    }
    let mut table_of = |source: &str, to: &str, mut rows: Vec<(String, String)>| {
        // Of two with one rule the first gets the requests; nginx refuses such maps.
        let mut seen = std::collections::HashSet::new();
        rows.retain(|(key, _)| seen.insert(key.clone()));
        conf.begin_map(source, to, "");
        for (key, to) in rows {
            conf.row(&quoted(&key), &value(&to));
        }
        conf.line("}");
    };
    table_of("$sdp_env $sdp_named", "sdp_found_by_name", names);
    table_of("$sdp_env h:$host", "sdp_found_by_host", hosts);
    // The longest comes first; of two with one rule the first gets the requests.
    prefixes.sort_by_key(|(_, prefix, ..)| std::cmp::Reverse(prefix.len()));
    conf.begin_map("$sdp_env:$sdp_after", "sdp_found_by_path", "");
    // Never true: nginx must know the variables even if no service has such a rule.
    conf.row(&quoted("~(?!)(?<sdp_prefix>)(?<sdp_tail>)"), "\"\"");
    for (name, prefix, strip, service) in prefixes {
        let (name, text) = (literal(name.as_str()), literal(prefix.trim_end_matches('/')));
        let (key, how) = match (prefix, strip) {
            ("/", _) => (format!("~^{name}:(?<sdp_tail>/.*)$"), "k"),
            (_, true) => (format!("~^{name}:(?<sdp_prefix>{text})(?<sdp_tail>(?:/.*)?)$"), "s"),
            (_, false) => (format!("~^{name}:(?<sdp_tail>{text}(?:/.*)?)$"), "k"),
        };
        conf.row(&quoted(&key), &value(&format!("{how} {service}")));
    }
    conf.line("}");
    conf.map("$sdp_found", "sdp_service", "", &[("~^. (?<sdp_f>.+)$", "$sdp_f")]);
    conf.map("$sdp_said", "sdp_taken_first", "", &[("~^1:", "/~$sdp_sandbox")]);
    let rows = [("~^n ", "$sdp_taken_first/~$sdp_service"), ("~^s ", "$sdp_taken_first$sdp_prefix")];
    conf.map("$sdp_found", "sdp_taken", "$sdp_taken_first", &rows);
    conf.map("$sdp_found", "sdp_left", "$sdp_after", &[("~^n ", "$sdp_n_rest"), ("~^[sk] ", "$sdp_tail")]);
    // Where something was taken off, `//host` must not be left.
    let rows = [("~^ (?<sdp_r0>.*)$", "$sdp_r0"), ("~^[^ ]+ /*(?<sdp_r1>.*)$", "/$sdp_r1")];
    conf.map("$sdp_taken $sdp_left", "sdp_rest", "/", &rows);
}

/// Where to.
fn targets(conf: &mut Conf, table: &RouteTable, to: &Settings) {
    conf.begin_map("$sdp_sandbox $sdp_service", "sdp_row", "");
    for environment in &table.environments {
        for sandbox in &environment.sandboxes {
            for route in &sandbox.routes {
                let service = &route.service;
                let row = match &route.target {
                    RouteTarget::Instance { address, commit, of, .. } => {
                        let of = of.as_ref().unwrap_or(&sandbox.name);
                        format!("instance {address} sandbox/{of}/{service}@{}", commit.short())
                    }
                    RouteTarget::External { address } => format!("external {address} external/{service}"),
                    RouteTarget::Baseline { reason: Some(reason) } => format!("because {}", clause(reason)),
                    RouteTarget::Down { reason } => format!("down {}", clause(reason)),
                    _ => continue,
                };
                conf.row(&quoted(&format!("{} {service}", sandbox.name)), &value(&row));
            }
        }
    }
    conf.line("}");
    conf.begin_map("$sdp_env $sdp_service", "sdp_baseline", "");
    for environment in &table.environments {
        for route in &environment.services {
            if let Some(baseline) = route.baseline.as_ref().and_then(|url| baseline(url, to)) {
                conf.row(&quoted(&format!("{} {}", environment.name, route.service)), &value(&baseline));
            }
        }
    }
    conf.line("}");
    let rows = [("~^(?<sdp_k>instance|external|down) ", "$sdp_k")];
    conf.map("$sdp_row", "sdp_kind", "baseline", &rows);
    conf.map("$sdp_row", "sdp_address", "", &[("~^[a-z]+ (?<sdp_a>[^ ]+) [^ ]+$", "$sdp_a")]);
    conf.map("$sdp_row", "sdp_reason", "", &[("~^(?:down|because) (?<sdp_w>.*)$", "$sdp_w")]);
    conf.map("$sdp_row", "sdp_instead", "", &[("~^because ", "; instead-of=\\\"$sdp_reason\\\"")]);
    let served = r"~^(?:instance|external) \S+ (?<sdp_served_of>\S+)$";
    let rows = [(served, "$sdp_served_of")];
    conf.map("$sdp_row", "sdp_served", "baseline/$sdp_service$sdp_instead", &rows);
    for (at, name) in ["scheme", "connect", "host", "name", "base"].into_iter().enumerate() {
        let key = format!(r"~^(?:\S* ){{{at}}}(?<sdp_b_{name}_>\S*)");
        conf.map("$sdp_baseline", &format!("sdp_b_{name}"), "", &[(&key, &format!("$sdp_b_{name}_"))]);
    }
    conf.begin_map("$sdp_env", "sdp_policy", "fail");
    for EnvironmentRoutes { name, when_down, .. } in &table.environments {
        if *when_down == WhenDown::Baseline {
            conf.row(&quoted(&format!("~^{}$", literal(name.as_str()))), "\"baseline\"");
        }
    }
    conf.line("}");
}

/// Why, as it can stand in a quoted string of a header.
fn clause(reason: &str) -> String {
    let quotable = |c: &char| matches!(c, ' '..='~') && !matches!(c, '"' | '\\');
    reason.chars().filter(quotable).take(200).collect()
}

/// `scheme connect host name base`: where to connect, what `Host` says, the name in TLS, and what stands before the path.
fn baseline(url: &Url, to: &Settings) -> Option<String> {
    let port = url.port_or_known_default()?;
    let name = url.host_str()?;
    let host = url.port().map_or_else(|| name.to_owned(), |port| format!("{name}:{port}"));
    let connect = match url.host()? {
        Host::Domain(domain) => match to.hosts.get(&domain.to_ascii_lowercase()) {
            Some(address) => SocketAddr::new(*address, port).to_string(),
            None => format!("{domain}:{port}"),
        },
        Host::Ipv4(address) => SocketAddr::new(address.into(), port).to_string(),
        Host::Ipv6(address) => SocketAddr::new(address.into(), port).to_string(),
    };
    let base = url.path().trim_end_matches('/');
    let row = format!("{} {connect} {host} {name} {base}", url.scheme());
    if row.len() > LONGEST || name.contains(['/', ' ']) {
        tracing::warn!(%url, "a baseline's URL is too long for nginx: requests for it are refused");
        return None;
    }
    Some(row)
}

/// Which location: [`refuse`] has those below `no/`.
fn goes(conf: &mut Conf, table: &RouteTable, to: &Settings) {
    let no = |code: &str| format!("/-sdp/no/{code}$sdp_page");
    let rows = [("", "$sdp_goes_path"), ("off", "/-sdp/unlink")];
    conf.map("$sdp_link", "sdp_goes_first", "$sdp_goes_link", &rows);
    conf.map("$sdp_sandbox", "sdp_goes_link", "/-sdp/link", &[("?", &no("unknown_sandbox"))]);
    let long = format!("~^.{{{}}}", to.limits.uri_bytes + 1);
    let too_long = no("uri_too_long");
    let rows = [(long.as_str(), too_long.as_str())];
    // A regular expression repeats something at most 65535 times.
    let rows = if to.limits.uri_bytes < 65_535 { &rows[..] } else { &[] };
    match table.version == RouteVersion::default() {
        true => conf.map("$request_uri", "sdp_goes", &no("no_routes"), &[]),
        false => conf.map("$request_uri", "sdp_goes", "$sdp_goes_first", rows),
    }
    let dots = r"~*(?:^|/|\\|%2f|%5c)(?:\.|%2e){1,2}(?:/|\\|%2f|%5c|;|%3b|$)";
    let rows = [("~%00", no("bad_path_nul")), (dots, no("bad_path")), ("~^/", "$sdp_goes_two".to_owned())];
    let rows: Vec<_> = rows.iter().map(|(key, to)| (*key, to.as_str())).collect();
    conf.map("$sdp_path", "sdp_goes_path", &no("bad_path_begin"), &rows);
    conf.map("$sdp_two", "sdp_goes_two", &no("two_sandboxes_$sdp_two"), &[("", "$sdp_goes_sandbox")]);
    let cookie = no("unknown_sandbox_cookie");
    conf.map("$sdp_said", "sdp_no_sandbox", &no("unknown_sandbox"), &[("~^7:", &cookie)]);
    conf.map("$sdp_sandbox", "sdp_goes_sandbox", "$sdp_goes_service", &[("?", "$sdp_no_sandbox")]);
    conf.map("$sdp_service", "sdp_goes_service", "$sdp_goes_target", &[("", &no("no_service"))]);
    let (down, nothing, alone) = (no("instance_down"), no("no_target"), no("no_target_alone"));
    let rows = [
        ("~^external ", "/-sdp/external"),
        ("~^down ", down.as_str()),
        ("~^instance baseline http", "/-sdp/instance-or-baseline"),
        ("~^instance ", "/-sdp/instance"),
        (r"~^baseline \S+ https ", "/-sdp/https"),
        (r"~^baseline \S+ http ", "/-sdp/http"),
        (r"~^baseline \S+  .", nothing.as_str()),
    ];
    conf.map("$sdp_kind $sdp_policy $sdp_b_scheme $sdp_sandbox", "sdp_goes_target", &alone, &rows);
}

fn servers(conf: &mut Conf, table: &RouteTable, to: &Settings, stamp: &str) {
    let dual = if to.listen.is_ipv6() { " ipv6only=off" } else { "" };
    conf.line("server {");
    conf.line(&format!("listen {}{dual} backlog=1024 so_keepalive=60s::;", to.listen));
    conf.line("server_name \"\";\nrewrite ^ $sdp_goes last;");
    pass::locations(conf, to);
    refuse::locations(conf, to);
    refuse::no_service_locations(conf, table, to);
    conf.line("}");
    conf.line(&format!("server {{\nlisten {};", quoted(&format!("unix:{}", to.path("status.sock")))));
    conf.line(&format!("access_log off;\nlocation / {{ return 200 {}; }}\n}}\n}}", value(stamp)));
}

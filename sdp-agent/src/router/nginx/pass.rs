//! What requests carry on their way on, what answers carry on their way back, and the locations that pass them: what
//! [`super::super::headers`] and [`super::super::marks`] do, in nginx's words.

use sdp_core::routing::{COOKIE, ROUTING_KEY, SANDBOX, TRACESTATE};

use super::conf::{Conf, quoted, value};
use super::render::Settings;
use crate::router::forward::VARY;
use crate::router::plan::UNREACHABLE;

pub(super) fn maps(conf: &mut Conf, to: &Settings) {
    let scheme = if to.base_url.scheme() == "https" { "https" } else { "http" };
    conf.map("$http_host", "sdp_own_host", "$http_host", &[("", "$sdp_address")]);
    conf.begin_map("$sdp_taken", "sdp_prefix_out", "");
    conf.row(
        "\"~^(?<sdp_px>.*)$\"",
        &value(&format!("{}{}", to.base_path(), super::conf::variable("sdp_px"))),
    );
    conf.line("}");
    if to.trust_forwarded {
        conf.map("$http_x_forwarded_proto", "sdp_proto", "$http_x_forwarded_proto", &[("", scheme)]);
        conf.map("$http_x_forwarded_host", "sdp_asked", "$http_x_forwarded_host", &[("", "$http_host")]);
    } else {
        conf.map("$http_host", "sdp_proto", scheme, &[]);
        conf.map("$http_host", "sdp_asked", "$http_host", &[]);
    }
    let upgrade = [("", ""), ("~*(?:^|[ \t,])h2c(?:[ \t,;]|$)", "")];
    conf.map("$http_upgrade", "sdp_upgrade_wanted", "$http_upgrade", &upgrade);
    let rows = [(r"~*(?:^|[ \t,])upgrade(?:[ \t,]|$)", "$sdp_upgrade_wanted")];
    conf.map("$http_connection", "sdp_upgrade", "", &rows);
    conf.map("$sdp_upgrade", "sdp_connection", "upgrade", &[("", "")]);
    without(conf, "$http_baggage", "sdp_bag", ROUTING_KEY, ',');
    without(conf, "$http_tracestate", "sdp_trs", TRACESTATE, ',');
    without(conf, "$http_cookie", "sdp_cok", &format!("(?:sdp|__Host-sdp|{COOKIE})"), ';');
    conf.map("$sdp_bag", "sdp_bag_begin", "$sdp_bag,", &[("", "")]);
    conf.map(
        "$sdp_key",
        "sdp_bag_out",
        &format!("${{sdp_bag_begin}}{ROUTING_KEY}=$sdp_key"),
        &[("", "$sdp_bag")],
    );
    conf.map("$sdp_trs", "sdp_trs_end", ",$sdp_trs", &[("", "")]);
    let rows = [("~^ ", "$sdp_trs"), ("~ $", "")];
    conf.map(
        "$sdp_key $http_tracestate",
        "sdp_trs_out",
        &format!("{TRACESTATE}=$sdp_key$sdp_trs_end"),
        &rows,
    );
    conf.map("$sdp_said", "sdp_vary", VARY, &[("~^[12]:", "")]);
    locations_of_redirects(conf);
}

/// The list without members of this name: whatever place they have, at most four of them; with more the list goes.
fn without(conf: &mut Conf, source: &str, to: &str, name: &str, between: char) {
    let mut from = source.to_owned();
    for step in 0..4 {
        let next = format!("{to}_{step}");
        let first = format!(r"~^[ \t]*{name}[ \t]*=[^{between}]*(?:{between}[ \t]*(?<{to}_a{step}>.*))?$");
        let later = format!(
            r"~^(?<{to}_b{step}>.*){between}[ \t]*{name}[ \t]*=[^{between}]*(?<{to}_c{step}>(?:{between}.*)?)$"
        );
        let rows = [
            (first.as_str(), format!("${to}_a{step}")),
            (later.as_str(), format!("${to}_b{step}${to}_c{step}")),
        ];
        let rows: Vec<_> = rows.iter().map(|(key, to)| (*key, to.as_str())).collect();
        conf.map(&from, &next, &from, &rows);
        from = format!("${next}");
    }
    let more = format!(r"~(?:^|{between})[ \t]*{name}[ \t]*=");
    conf.map(&from, to, &from, &[(&more, "")]);
}

/// Where redirects lead from outside, for what got the host that was asked for (`i`), and for baselines (`b`).
fn locations_of_redirects(conf: &mut Conf) {
    let same = "$upstream_http_location";
    for (kind, host) in [("i", "$sdp_own_host"), ("b", "$sdp_b_host")] {
        let path = format!("sdp_lp_{kind}");
        let ours =
            format!(r"~^(?<sdp_lh_{kind}>\S+) https?://\k<sdp_lh_{kind}>(?<sdp_lr_{kind}>/(?![/\\]).*)$");
        let root =
            format!(r"~^(?<sdp_lg_{kind}>\S+) https?://\k<sdp_lg_{kind}>(?<sdp_lq_{kind}>(?:[?#].*)?)$");
        let bare = format!(r"~^\S* (?<sdp_lb_{kind}>/(?![/\\]).*)$");
        let rows = [
            (ours.as_str(), format!("$sdp_lr_{kind}")),
            (root.as_str(), format!("/$sdp_lq_{kind}")),
            (bare.as_str(), format!("$sdp_lb_{kind}")),
        ];
        let rows: Vec<_> = rows.iter().map(|(key, to)| (*key, to.as_str())).collect();
        conf.map(&format!("{host} {same}"), &path, "", &rows);
    }
    let rows = [("~ $", same), ("~^ ", same), (r"~^(?<sdp_lu>\S+) \k<sdp_lu>(?:[/?#]|$)", same)];
    conf.map("$sdp_prefix_out $sdp_lp_i", "sdp_location_i", "$sdp_prefix_out$sdp_lp_i", &rows);
    let rows = [
        ("~ $", same),
        (
            r"~^(?<sdp_lv>\S+) (?<sdp_lw>\S*) (?=\k<sdp_lw>(?:[/?#]|$))(?<sdp_lx>\k<sdp_lv>(?:[/?#].*)?)$",
            "$sdp_lx",
        ),
        (r"~^(?<sdp_lm>\S*) (?<sdp_ln>\S*) \k<sdp_ln>(?<sdp_lo>/(?![/\\]).*)$", "$sdp_lm$sdp_lo"),
        (r"~^(?<sdp_ls>\S*) (?<sdp_lt>\S*) \k<sdp_lt>(?<sdp_ly>(?:[?#].*)?)$", "$sdp_ls/$sdp_ly"),
    ];
    conf.map("$sdp_prefix_out $sdp_b_base $sdp_lp_b", "sdp_location_b", same, &rows);
}

pub(super) fn locations(conf: &mut Conf, to: &Settings) {
    conf.line(
        "proxy_http_version 1.1;\nproxy_buffering off;\nproxy_request_buffering off;\nproxy_max_temp_file_size 0;\n\
         proxy_buffer_size 64k;\nproxy_buffers 4 64k;\nproxy_busy_buffers_size 128k;\nproxy_read_timeout 1d;\n\
         proxy_send_timeout 1d;\nproxy_next_upstream off;\nproxy_socket_keepalive on;\nproxy_pass_header Server;\n\
         proxy_pass_header Date;\nproxy_hide_header Location;\nproxy_hide_header sdp-served-by;\nproxy_redirect off;\n\
         proxy_ignore_headers X-Accel-Redirect X-Accel-Expires X-Accel-Limit-Rate X-Accel-Buffering X-Accel-Charset \
         Expires Cache-Control Set-Cookie Vary;",
    );
    let near = to.limits.connect_timeout.as_millis().max(1);
    let far = to.limits.baseline_connect_timeout.as_millis().max(1);
    for (name, timeout, failed, more) in [
        ("instance", near, "@sdp_failed_instance", ""),
        ("instance-or-baseline", near, "@sdp_failed_first", "proxy_request_buffering on;\n"),
        ("external", far, "@sdp_failed_external", ""),
    ] {
        conf.line(&format!(
            "location = /-sdp/{name} {{\ninternal;\nproxy_connect_timeout {timeout}ms;\n{more}"
        ));
        conf.line(&format!("error_page 502 504 = {failed};"));
        headers(conf, to, "$sdp_own_host");
        answers(conf, "$sdp_served", "$sdp_location_i");
        conf.line("proxy_pass http://$sdp_address$sdp_rest$sdp_query;\n}");
    }
    let instead = format!("baseline/$sdp_service; instead-of=\\\"{UNREACHABLE}\\\"");
    for (name, served) in [("", "$sdp_served"), ("otherwise-", instead.as_str())] {
        for scheme in ["http", "https"] {
            conf.line(&format!(
                "location = /-sdp/{name}{scheme} {{\ninternal;\nproxy_connect_timeout {far}ms;"
            ));
            conf.line("proxy_next_upstream error timeout;\nproxy_next_upstream_tries 3;");
            conf.line("error_page 502 504 = @sdp_failed_baseline;");
            if !to.resolvers.is_empty() {
                let resolvers: Vec<_> = to.resolvers.iter().map(ToString::to_string).collect();
                let ipv6 = if to.ipv6 { "" } else { " ipv6=off" };
                conf.line(&format!("resolver {} valid=10s{ipv6};", resolvers.join(" ")));
                conf.line(&format!("resolver_timeout {}s;", far.div_ceil(1000)));
            }
            if scheme == "https" {
                conf.line("proxy_ssl_server_name on;\nproxy_ssl_name $sdp_b_name;\nproxy_ssl_verify on;");
                conf.line("proxy_ssl_verify_depth 8;\nproxy_ssl_protocols TLSv1.2 TLSv1.3;");
                conf.line(&format!("proxy_ssl_trusted_certificate {};", quoted(&to.path("ca.pem"))));
            }
            headers(conf, to, "$sdp_b_host");
            answers(conf, served, "$sdp_location_b");
            conf.line(&format!("proxy_pass {scheme}://$sdp_b_connect$sdp_b_base$sdp_rest$sdp_query;\n}}"));
        }
    }
    let secure = if to.base_url.scheme() == "https" { "; Secure" } else { "" };
    for (name, cookie) in [
        ("link", format!("{COOKIE}=$sdp_link; Path=/; HttpOnly; SameSite=Lax{secure}")),
        ("unlink", format!("{COOKIE}=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax{secure}")),
    ] {
        conf.line(&format!("location = /-sdp/{name} {{\ninternal;"));
        conf.line(&format!("add_header Set-Cookie \"{cookie}\" always;"));
        conf.line("add_header Cache-Control no-store always;\nadd_header sdp-served-by router always;");
        let place = format!("{}/{}", to.base_path(), super::conf::variable("sdp_l_to"));
        conf.line(&format!("return 302 {};\n}}", value(&place)));
    }
}

fn headers(conf: &mut Conf, to: &Settings, host: &str) {
    let chain = if to.trust_forwarded { "$proxy_add_x_forwarded_for" } else { "$remote_addr" };
    for (name, from) in [
        ("Host", host),
        ("Connection", "$sdp_connection"),
        ("Upgrade", "$sdp_upgrade"),
        ("Proxy-Authorization", ""),
        ("Proxy-Connection", ""),
        ("X-Forwarded-For", chain),
        ("X-Forwarded-Proto", "$sdp_proto"),
        ("X-Forwarded-Host", "$sdp_asked"),
        ("X-Forwarded-Prefix", "$sdp_prefix_out"),
        (ROUTING_KEY, "$sdp_key"),
        (SANDBOX, "$sdp_sandbox"),
        ("baggage", "$sdp_bag_out"),
        ("tracestate", "$sdp_trs_out"),
        ("Cookie", "$sdp_cok"),
    ] {
        conf.line(&format!("proxy_set_header {name} \"{from}\";"));
    }
    if !to.trust_forwarded {
        conf.line("proxy_set_header X-Real-IP \"\";\nproxy_set_header Forwarded \"\";");
    }
}

fn answers(conf: &mut Conf, served_by: &str, location: &str) {
    conf.line(&format!("add_header sdp-served-by \"{served_by}\" always;"));
    conf.line(&format!("add_header Location \"{location}\" always;\nadd_header Vary \"$sdp_vary\" always;"));
}

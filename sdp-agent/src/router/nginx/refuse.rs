//! The answers that nginx gives itself: the built-in router's words ([`Problem`]), made once for all requests with
//! [`variable`]s where they name something of the request. Names that stand in for those are put into the refusals of core, so that
//! the words are theirs. nginx does not know what was probably meant, nor why a connection failed.

use std::collections::BTreeMap;

use http::StatusCode;
use sdp_core::catalog::MatchRule;
use sdp_core::name::{SandboxName, ServiceName};
use sdp_core::routing::RouteTable;
use sdp_core::routing::select::{Refusal, Selector};

use super::conf::{Conf, LONGEST, literal, quoted, value, variable};
use super::render::Settings;
use crate::router::answer::{CONTENT_SECURITY_POLICY, Problem};

/// Stand for a sandbox and a service of the request.
const A_SANDBOX: &str = "zz-the-sandbox-zz";
const A_SERVICE: &str = "zz-the-service-zz";

/// Puts variables where names stand in for them.
fn with_variables(text: &str) -> String {
    text.replace(A_SANDBOX, &variable("sdp_sandbox"))
        .replace(A_SERVICE, &variable("sdp_service"))
        .replace("zz-what-was-said-zz", &variable("sdp_what_was_said"))
        .replace("zz-the-reason-zz", &variable("sdp_reason"))
        .replace("zz-the-address-zz", &variable("sdp_address"))
        .replace("zz-the-lender-zz", &variable("sdp_lender"))
        .replace("zz-the-commit-zz", &variable("sdp_commit"))
        .replace("zz-the-selector-zz", &variable("sdp_selector"))
}

/// All of them but `no_service`, by the name of their location.
fn problems(to: &Settings) -> Vec<(&'static str, Problem)> {
    let of = |refusal| Problem::from_refusal(refusal, &to.base_url);
    let (Ok(sandbox), Ok(service)) = (SandboxName::parse(A_SANDBOX), ServiceName::parse(A_SERVICE)) else {
        return Vec::new();
    };
    let unknown = |selector: Selector| {
        let mut problem =
            of(Refusal::UnknownSandbox { name: "zz-what-was-said-zz".into(), selector, near: None });
        problem.what = problem
            .what
            .replace(&format!(", which {} names", selector.as_str()), ", which zz-the-selector-zz names");
        problem
    };
    let bad = |why| of(Refusal::BadPath { why });
    let two = |selector| of(Refusal::TwoSandboxes { selector });
    let instance = "zz-the-service-zz in the sandbox zz-the-lender-zz (commit zz-the-commit-zz)";
    let external =
        "zz-the-address-zz, which takes the place of zz-the-service-zz in the sandbox zz-the-sandbox-zz,";
    let baseline = "The baseline of zz-the-service-zz";
    let mut all = vec![
        ("unknown_sandbox", unknown(Selector::Path)),
        ("unknown_sandbox_cookie", unknown(Selector::Cookie)),
        ("no_routes", of(Refusal::NoTable)),
        ("bad_path", bad("a part of it is . or .., or an encoded form of them")),
        ("bad_path_nul", bad("it contains a NUL")),
        ("bad_path_begin", bad("it does not begin with /")),
        ("two_sandboxes_baggage", two(Selector::Baggage)),
        ("two_sandboxes_tracestate", two(Selector::Tracestate)),
        ("no_target", of(Refusal::NoTarget { sandbox: Some(sandbox.clone()), service: service.clone() })),
        ("no_target_alone", of(Refusal::NoTarget { sandbox: None, service: service.clone() })),
        ("instance_down", of(Refusal::Down { sandbox, service, reason: "zz-the-reason-zz".into() })),
        ("uri_too_long", Problem::uri_too_long(to.limits.uri_bytes)),
        ("method_not_allowed", Problem::method_not_allowed("This method")),
        (
            "bad_request",
            Problem::new(
                StatusCode::BAD_REQUEST,
                "bad_request",
                "This is no request of HTTP that is accepted.".into(),
                "Look at its request line and headers.".into(),
            ),
        ),
        (
            "headers_too_large",
            Problem::new(
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "headers_too_large",
                format!("Its headers have more than {} bytes.", to.limits.header_bytes),
                "Send the data in the body.".into(),
            ),
        ),
    ];
    for (kind, place, next) in [
        ("instance", instance, "See how it is: /sdp status zz-the-lender-zz"),
        ("external", external, "Look whether it runs there, or take the route back."),
        ("baseline", baseline, "Tell whoever runs the baseline."),
    ] {
        let failed = |status, code, what: &str, next: &str| {
            Problem::new(status, code, format!("{place} {what}."), next.to_owned())
        };
        let [unreachable, timeout, no_answer] = match kind {
            "instance" => ["unreachable_instance", "connect_timeout_instance", "no_answer_instance"],
            "external" => ["unreachable_external", "connect_timeout_external", "no_answer_external"],
            _ => ["unreachable_baseline", "connect_timeout_baseline", "no_answer_baseline"],
        };
        let look = "Look at what it printed, and send the request again.";
        all.push((unreachable, failed(StatusCode::BAD_GATEWAY, "unreachable", "cannot be reached", next)));
        let late = "cannot be reached: no connection in time";
        all.push((timeout, failed(StatusCode::GATEWAY_TIMEOUT, "connect_timeout", late, next)));
        all.push((no_answer, failed(StatusCode::BAD_GATEWAY, "no_answer", "gave no answer", look)));
    }
    all
}

/// `no_service` for each environment, and for none; with a sandbox and without; as text and as a page: in pieces that nginx can read.
fn no_service(table: &RouteTable, to: &Settings) -> BTreeMap<(String, bool, bool), Vec<String>> {
    let sandbox = SandboxName::parse(A_SANDBOX).ok();
    let environments = table.environments.iter().map(|environment| {
        let of = |route: &sdp_core::routing::ServiceRoute| (route.service.clone(), route.rule.clone());
        (environment.name.to_string(), environment.services.iter().map(of).collect::<Vec<(_, MatchRule)>>())
    });
    let mut all = BTreeMap::new();
    for (name, services) in environments.chain([(String::new(), Vec::new())]) {
        for with_sandbox in [false, true] {
            let sandbox = sandbox.clone().filter(|_| with_sandbox);
            let problem = Problem::from_refusal(
                Refusal::NoService { sandbox, services: services.clone() },
                &to.base_url,
            );
            for page in [false, true] {
                let text = if page { problem.page() } else { problem.text() };
                all.insert((name.clone(), with_sandbox, page), pieces(&with_variables(&text)));
            }
        }
    }
    all
}

/// Cut after ends of lines.
fn pieces(text: &str) -> Vec<String> {
    let mut pieces = vec![String::new()];
    for line in text.split_inclusive('\n') {
        // Quoting may double it.
        if pieces.last().is_some_and(|last| last.len() + line.len() > LONGEST / 2) {
            pieces.push(String::new());
        }
        if let Some(last) = pieces.last_mut() {
            last.push_str(line);
        }
    }
    pieces
}

/// How many pieces the longest has.
fn most(all: &BTreeMap<(String, bool, bool), Vec<String>>) -> usize {
    all.values().map(Vec::len).max().unwrap_or(0)
}

pub(super) fn maps(conf: &mut Conf, table: &RouteTable, to: &Settings) {
    conf.map("$http_accept", "sdp_page", "", &[("~*text/html", ".page")]);
    let said = "~^.:(?<sdp_ww>[A-Za-z0-9._~%,=+-]{0,60})";
    conf.map("$sdp_said", "sdp_what_was_said", "", &[(said, "$sdp_ww")]);
    conf.begin_map("$sdp_said", "sdp_selector", Selector::Path.as_str());
    for (at, selector) in Selector::ALL.into_iter().enumerate() {
        conf.row(&quoted(&format!("~^{}:", at + 1)), &value(selector.as_str()));
    }
    conf.line("}");
    let served = r"~ sandbox/(?<sdp_of>[^/]+)/[^@]+@(?<sdp_at>\S+)$";
    conf.map("$sdp_row", "sdp_lender", "$sdp_sandbox", &[(served, "$sdp_of")]);
    conf.map(
        "$sdp_row",
        "sdp_commit",
        "",
        &[(&served.replace("sdp_of", "sdp_of2").replace("sdp_at", "sdp_at2"), "$sdp_at2")],
    );
    let all = no_service(table, to);
    for at in 0..most(&all) {
        conf.begin_map("$sdp_env $sdp_sandbox $sdp_page", &format!("sdp_ns{at}"), "");
        for ((environment, with_sandbox, page), pieces) in &all {
            let sandbox = if *with_sandbox { r"\S+" } else { "" };
            let page = if *page { r"\.page" } else { "" };
            let key = format!("~^{} {sandbox} {page}$", literal(environment));
            conf.row(&quoted(&key), &value(pieces.get(at).map_or("", String::as_str)));
        }
        conf.line("}");
    }
    // What became of the connection is asked anew where a second place is tried.
    conf.begin_map("$upstream_status/$upstream_connect_time", "sdp_failure", "unreachable");
    conf.line("  volatile;");
    conf.row("\"~[0-9]$\"", "\"no_answer\"");
    conf.row("\"~504/\"", "\"connect_timeout\"");
    conf.line("}");
    for kind in ["instance", "external", "baseline"] {
        conf.begin_map(
            "$sdp_failure",
            &format!("sdp_goes_failed_{kind}"),
            &format!("/-sdp/no/${{sdp_failure}}_{kind}$sdp_page"),
        );
        conf.line("  volatile;\n}");
    }
    conf.begin_map("$sdp_failure", "sdp_goes_failed_first", "/-sdp/otherwise-$sdp_b_scheme");
    conf.row("no_answer", "\"/-sdp/no/no_answer_instance$sdp_page\"");
    conf.line("}");
    conf.map(
        "$sdp_path",
        "sdp_goes_400",
        "/-sdp/no/bad_request$sdp_page",
        &[
            (r"~*(?:^|/|\\|%2f|%5c)(?:\.|%2e){1,2}(?:/|\\|%2f|%5c|;|%3b|$)", "/-sdp/no/bad_path$sdp_page"),
            ("~%00", "/-sdp/no/bad_path_nul$sdp_page"),
            ("*", "/-sdp/no/bad_path_begin$sdp_page"),
        ],
    );
}

pub(super) fn locations(conf: &mut Conf, to: &Settings) {
    for kind in ["failed_instance", "failed_external", "failed_baseline", "failed_first"] {
        conf.line(&format!("location @sdp_{kind} {{ rewrite ^ $sdp_goes_{kind} last; }}"));
    }
    conf.line("error_page 400 = @sdp_400;\nlocation @sdp_400 { rewrite ^ $sdp_goes_400 last; }");
    for (status, code) in [(405, "method_not_allowed"), (414, "uri_too_long"), (494, "headers_too_large")] {
        conf.line(&format!("error_page {status} = @sdp_{status};"));
        conf.line(&format!("location @sdp_{status} {{ rewrite ^ /-sdp/no/{code}$sdp_page last; }}"));
    }
    let all = problems(to);
    for page in [false, true] {
        for (name, problem) in &all {
            let text = if page { problem.page() } else { problem.text() };
            location(conf, name, page, problem, &value(&with_variables(&text)));
        }
    }
}

pub(super) fn no_service_locations(conf: &mut Conf, table: &RouteTable, to: &Settings) {
    let count = most(&no_service(table, to));
    let text: String = (0..count).map(|at| format!("$sdp_ns{at}")).collect();
    let problem =
        Problem::from_refusal(Refusal::NoService { sandbox: None, services: Vec::new() }, &to.base_url);
    for page in [false, true] {
        location(conf, "no_service", page, &problem, &format!("\"{text}\""));
    }
}

fn location(conf: &mut Conf, name: &str, page: bool, problem: &Problem, text: &str) {
    let (end, kind) = if page { (".page", "text/html") } else { ("", "text/plain") };
    conf.line(&format!(
        "location = /-sdp/no/{name}{end} {{\ninternal;\ndefault_type \"{kind}; charset=utf-8\";"
    ));
    conf.line("add_header sdp-served-by router always;\nadd_header Cache-Control no-store always;");
    conf.line(&format!(
        "add_header sdp-error {} always;\nadd_header X-Content-Type-Options nosniff always;",
        problem.code
    ));
    conf.line(&format!("add_header Content-Security-Policy {} always;", quoted(CONTENT_SECURITY_POLICY)));
    if problem.status == StatusCode::METHOD_NOT_ALLOWED {
        conf.line(&format!("add_header Allow {} always;", quoted(crate::router::answer::ALLOWED)));
    }
    conf.line(&format!("return {} {text};\n}}", problem.status.as_u16()));
}

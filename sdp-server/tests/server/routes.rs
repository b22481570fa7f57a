//! Where requests go: explained by each selector, and probed.

use reqwest::Method;
use sdp_core::api::{CreateProbe, Explanation};
use sdp_core::client::RouteQuestion;
use sdp_core::wire::ProbeHop;
use serde_json::json;

use crate::harness::{Host, refused};

#[tokio::test]
async fn each_selector_is_explained() {
    let host = Host::start().await;
    host.shop().await;
    host.staging().await;
    let client = host.client();
    let put = host.put("/api/v1/sandboxes/qa", &json!({ "environment": "staging" }));
    assert_eq!(put.send().await.expect("answered").status(), 201);
    let key = client.sandbox(&"qa".parse().expect("a name")).await.expect("there").access.key.to_string();
    let ask = async |host: Option<&str>, path: &str, headers: &[(&str, &str)]| -> Explanation {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let asked = RouteQuestion { host: host.map(str::to_owned), path: Some(path.to_owned()), headers };
        client.explain_route(&asked).await.expect("explained")
    };
    let (baggage, tracestate) = (format!("a=b, sdp-routing-key={key}"), format!("x=1,sdp={key}"));
    let cookie = format!("session=1; sdp_routing_key={key}");
    let asked = [
        ("path", ask(None, "/~qa/pay/7", &[]).await),
        ("host", ask(Some("qa.sandboxes.shop.test:8080"), "/pay/7", &[]).await),
        ("key", ask(None, "/pay/7", &[("Sdp-Routing-Key", &key)]).await),
        ("name", ask(None, "/pay/7", &[("sdp-sandbox", "qa")]).await),
        ("baggage", ask(None, "/pay/7?x=1", &[("baggage", "c=d"), ("baggage", &baggage)]).await),
        ("tracestate", ask(None, "/pay/7", &[("tracestate", &tracestate)]).await),
        ("cookie", ask(None, "/pay/7", &[("cookie", &cookie)]).await),
        ("service's host", ask(Some("ledger.shop.test"), "/x", &[("sdp-sandbox", "qa")]).await),
        ("address of the service", ask(None, "/~qa/~ledger/x", &[]).await),
        ("none", ask(None, "/payments/7", &[]).await),
        ("unknown", ask(None, "/pay/7", &[("sdp-sandbox", "qb")]).await),
        ("no service", ask(Some("qa.sandboxes.shop.test"), "/nothing", &[]).await),
    ];
    let lines: Vec<_> = asked
        .iter()
        .map(|(what, found)| {
            let chosen = found.selectors.iter().find(|selector| selector.chosen);
            let by = chosen.map_or("nothing", |selector| selector.selector.as_str());
            let rule = found.rules.iter().find(|rule| rule.matches);
            let rule = rule.map_or_else(|| "no rule".to_owned(), |rule| rule.rule.to_string());
            format!("{what}: by {by}; {rule}; {}", found.summary)
        })
        .collect();
    insta::assert_snapshot!(lines.join("\n"), @r#"
    path: by the path; paths below /pay; It is qa's (by the path), and goes to the baseline of payments.
    host: by the host; paths below /pay; It is qa's (by the host), and goes to the baseline of payments.
    key: by the header sdp-routing-key; paths below /pay; It is qa's (by the header sdp-routing-key), and goes to the baseline of payments.
    name: by the header sdp-sandbox; paths below /pay; It is qa's (by the header sdp-sandbox), and goes to the baseline of payments.
    baggage: by the header baggage; paths below /pay; It is qa's (by the header baggage), and goes to the baseline of payments.
    tracestate: by the header tracestate; paths below /pay; It is qa's (by the header tracestate), and goes to the baseline of payments.
    cookie: by the cookie sdp_routing_key; paths below /pay; It is qa's (by the cookie sdp_routing_key), and goes to the baseline of payments.
    service's host: by the header sdp-sandbox; the host ledger.shop.test; It is qa's (by the header sdp-sandbox), and goes to the baseline of ledger.
    address of the service: by the path; the host ledger.shop.test; It is qa's (by the path), and goes to the baseline of ledger.
    none: by nothing; paths below /payments; It names no sandbox, and goes to the baseline of payments.
    unknown: by nothing; no rule; There is no sandbox "qb", which the header sdp-sandbox names.
    no service: by the host; no rule; No service has this path or host.
    "#);
    // All the others say why they did not.
    let (_, by_key) = &asked[2];
    assert_eq!(by_key.selectors.len(), 7);
    assert!(by_key.selectors.iter().all(|selector| !selector.why.is_empty()));
    assert!(by_key.rules.iter().all(|rule| !rule.why.is_empty()));

    let bare = host.get("/api/v1/routes/explain").send().await.expect("answered");
    assert_eq!(bare.status(), 200, "the path is / without one");
    for query in
        ["header=x", "host=", "path=x", "path=%2Fa%00", "nonsense=1", "host=a&host=b", "header=a:%0Ab"]
    {
        refused(host.get(&format!("/api/v1/routes/explain?{query}")), 422, "invalid_query").await;
    }
    let many = "header=a:b&".repeat(101);
    refused(host.get(&format!("/api/v1/routes/explain?{many}")), 422, "invalid_service").await;
    host.stop().await;
}

#[tokio::test]
async fn a_probe_names_who_dropped_the_mark() {
    let host = Host::start().await;
    host.shop().await;
    let client = host.client();
    let qa: sdp_core::name::SandboxName = "qa".parse().expect("a name");
    let put = host.put("/api/v1/sandboxes/qa", &json!({}));
    assert_eq!(put.send().await.expect("answered").status(), 201);
    let probe = json!({ "path": "/gateway/cart?x=1", "through": ["gateway", "payments", "ledger"] });
    let ask = || host.post("/api/v1/sandboxes/qa/probe", &probe);
    refused(ask(), 503, "no_agent").await;
    let mut router = host.router().await;
    let hop = |service: &str, marked: bool| ProbeHop {
        service: Some(service.parse().expect("a name")),
        sandbox: marked.then(|| qa.clone()),
        named_by: marked.then(|| "the header baggage".to_owned()),
        served_by: format!("baseline/{service}"),
        status: 200,
    };
    let wanted: CreateProbe = serde_json::from_value(probe.clone()).expect("valid");
    let hops = vec![hop("gateway", true), hop("payments", true), hop("ledger", false)];
    let (report, sent) = tokio::join!(client.probe(&qa, &wanted), router.probed(200, hops));
    let report = report.expect("probed");
    assert_eq!((report.kept, report.dropped_by.as_ref().map(|s| s.as_str())), (false, Some("payments")));
    assert!(report.summary.contains("payments") && report.summary.contains("baggage"), "{}", report.summary);
    assert_eq!(sent.path, "/gateway/cart?x=1");
    assert_eq!(sent.key, client.sandbox(&qa).await.expect("there").access.key);
    let hops = vec![hop("gateway", true), hop("payments", true), hop("ledger", true)];
    let (report, _) = tokio::join!(client.probe(&qa, &wanted), router.probed(204, hops));
    let report = report.expect("probed");
    assert_eq!((report.kept, report.status, report.hops.len()), (true, 204, 3));

    for (body, status, code) in [
        (json!({ "path": "cart" }), 422, "invalid_service"),
        (json!({ "path": "/a b" }), 422, "invalid_service"),
        (json!({ "path": "/a\r\nx: y" }), 422, "invalid_service"),
        (json!({ "path": "/", "host": "127.0.0.1" }), 422, "invalid_name"),
        (json!({ "path": "/", "through": ["nosuch"] }), 404, "unknown_service"),
        (json!({ "path": format!("/{}", "a".repeat(2000)) }), 422, "invalid_service"),
        (json!({}), 422, "invalid_body"),
    ] {
        refused(host.post("/api/v1/sandboxes/qa/probe", &body), status, code).await;
    }
    refused(host.post("/api/v1/sandboxes/nosuch/probe", &probe), 404, "unknown_sandbox").await;
    let audit: serde_json::Value = crate::harness::ok(
        host.with(&host.admin, Method::GET, "/api/v1/audit?action=probe&limit=1")
            .send()
            .await
            .expect("answered"),
        200,
    )
    .await;
    assert_eq!(audit["entries"][0]["target"], "nosuch", "{audit}");
    host.stop().await;
}

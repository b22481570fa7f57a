//! The catalog over REST.

use reqwest::Method;
use sdp_core::api::{BranchList, RepositoryList, Service, ServiceList};
use serde_json::json;

use crate::harness::{Host, hello, ok, refused};

#[tokio::test]
async fn a_service_is_added_changed_and_taken_out() {
    let host = Host::start().await;
    let put =
        |body: &serde_json::Value| host.with(&host.admin, Method::PUT, "/api/v1/services/hello").json(body);
    let answer = host.post("/api/v1/services", &hello()).send().await.expect("answered");
    assert_eq!(answer.headers()["location"], "/api/v1/services/hello");
    let made: Service = ok(answer, 201).await;
    refused(host.post("/api/v1/services", &hello()), 409, "service_exists").await;
    assert_eq!(put(&hello()).send().await.expect("answered").status(), 200);
    let mut changed = hello();
    changed["default_branch"] = json!("trunk");
    let answer: Service = ok(put(&changed).send().await.expect("answered"), 200).await;
    assert_eq!(answer.default_branch.as_str(), "trunk");
    let read: Service = ok(host.get("/api/v1/services/hello").send().await.expect("answered"), 200).await;
    assert_eq!(read, answer);
    assert_ne!(read, made);
    let mut other = hello();
    other["name"] = json!("other");
    refused(put(&other), 422, "invalid_body").await;
    other["path_prefix"] = json!("/hello");
    refused(host.post("/api/v1/services", &other), 409, "prefix_taken").await;
    let mut broken = hello();
    broken["builder"]["run"] = json!([]);
    refused(put(&broken), 422, "invalid_service").await;
    let list: ServiceList = ok(host.get("/api/v1/services").send().await.expect("answered"), 200).await;
    assert_eq!(list.services, [read]);
    let delete = || host.with(&host.admin, Method::DELETE, "/api/v1/services/hello");
    assert_eq!(delete().send().await.expect("answered").status(), 204);
    refused(delete(), 404, "unknown_service").await;
    assert_eq!(put(&hello()).send().await.expect("answered").status(), 201, "PUT adds, too");
    host.stop().await;
}

#[tokio::test]
async fn the_repositories_of_the_catalog_are_listed_and_searched() {
    let host = Host::start().await;
    host.hello().await;
    let list = async |query: &str| {
        let path = format!("/api/v1/repositories{query}");
        ok::<RepositoryList>(host.get(&path).send().await.expect("answered"), 200).await
    };
    let all = list("").await;
    assert_eq!((all.repositories.len(), all.complete), (1, true));
    let repository = &all.repositories[0];
    assert_eq!((repository.name.as_str(), repository.url.as_str()), ("git/hello", "/srv/git/hello.git"));
    assert_eq!(repository.service.as_ref().map(|service| service.as_str()), Some("hello"));
    for (query, found) in [("?q=", 1), ("?q=HELLO", 1), ("?q=/srv/", 1), ("?q=ledger", 0)] {
        assert_eq!(list(query).await.repositories.len(), found, "{query}");
    }
    refused(host.get("/api/v1/repositories?host=https://evil.example"), 422, "invalid_query").await;
    host.stop().await;
}

#[tokio::test]
async fn branches_come_from_memory_and_are_searched() {
    let host = Host::start().await;
    host.hello().await;
    let mut agent = host.agent().await;
    let list = async |query: &str| {
        let path = format!("/api/v1/services/hello/branches{query}");
        ok::<BranchList>(host.get(&path).send().await.expect("answered"), 200).await
    };
    let (first, ()) = tokio::join!(list(""), agent.list_refs(&["main", "feature/Greeting"]));
    assert_eq!(first.branches.len(), 2);
    // The agent says nothing any more.
    for (query, found) in [("?q=", 2), ("?q=greet", 1), ("?q=none", 0)] {
        assert_eq!(list(query).await.branches.len(), found, "{query}");
    }
    host.stop().await;
}

#[tokio::test]
async fn branches_need_an_agent() {
    let host = Host::start().await;
    host.hello().await;
    refused(host.get("/api/v1/services/hello/branches"), 503, "no_agent").await;
    refused(host.get("/api/v1/services/other/branches"), 404, "unknown_service").await;
    host.stop().await;
}

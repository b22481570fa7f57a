//! Locks and freezes: whom they stop, and how they end.

use serde_json::json;

use super::*;
use crate::api::CreateLock;
use crate::lock::Lock;

fn bob() -> Principal {
    Principal::person(name("bob"))
}

impl Bench {
    async fn lock(&self, by: &Principal, wanted: serde_json::Value) -> Result<Lock, String> {
        let wanted: CreateLock = serde_json::from_value(wanted).expect("a lock");
        let set = self.platform.lock(by, wanted, Power::Member).await;
        set.map_err(|error| format!("{}: {error}", error.code()))
    }

    async fn refusal(&self, by: &Principal, service: &str) -> Option<String> {
        let deploy = Deploy::new(name(service)).git_ref(name("main")).to(name("qa"));
        let refused = self.platform.deploy(by, deploy).await.err()?;
        Some(format!("{}: {refused}", refused.code()))
    }
}

#[tokio::test]
async fn a_lock_stops_others_and_a_freeze_everybody() {
    let bench = Bench::start().await;
    bench.deploy_to("hello", "main", "qa").await;
    let lock = bench.lock(&alice(), json!({ "sandbox": "qa", "service": "hello", "reason": "demo" })).await;
    let lock = lock.expect("locked");
    assert_eq!(bench.refusal(&alice(), "hello").await, None);
    let refusal = bench.refusal(&bob(), "hello").await;
    assert_eq!(refusal.as_deref(), Some("locked: hello in qa is locked by alice: demo"));
    assert_eq!(bench.refusal(&bob(), "ledger").await, None, "another service");
    // Through the chat it is the same person.
    let chat = Principal::Bot { name: name("chat"), person: name("alice") };
    assert_eq!(bench.refusal(&chat, "hello").await, None);

    let freeze = json!({ "environment": "default", "kind": "freeze", "reason": "release", "hours": 2 });
    let freeze = bench.lock(&bob(), freeze).await.expect("frozen");
    let refusal = bench.refusal(&bob(), "ledger").await;
    assert_eq!(refusal.as_deref(), Some("frozen: everything in default is frozen by bob: release"));
    let unlock = async |by: &Principal, id| {
        let done = bench.platform.unlock(by, id, Power::Member).await;
        done.map(drop).map_err(|error| error.code())
    };
    assert_eq!(unlock(&alice(), freeze.id).await, Err("not_your_lock"));
    assert_eq!(unlock(&bob(), freeze.id).await, Ok(()));
    assert_eq!(unlock(&bob(), freeze.id).await, Err("unknown_lock"));
    assert_eq!(bench.platform.locks().await.expect("locks"), [lock]);
}

#[tokio::test]
async fn a_lock_is_stolen_with_a_reason_and_whoever_had_it_is_named() {
    let mut bench = Bench::start().await;
    bench.deploy_to("hello", "main", "qa").await;
    let place = |reason: &str, steal| json!({ "sandbox": "qa", "reason": reason, "steal": steal });
    let first = bench.lock(&alice(), place("demo", false)).await.expect("locked");
    let refused = bench.lock(&bob(), place("mine", false)).await;
    assert_eq!(refused.err().as_deref(), Some("locked: everything in qa is locked by alice: demo"));
    assert!(bench.lock(&bob(), place("  ", true)).await.is_err(), "a reason is wanted");
    let second = bench.lock(&bob(), place("hotfix", true)).await.expect("stolen");
    let event = bench.event(|event| matches!(&event.kind, EventKind::Locked { stolen: Some(_), .. })).await;
    assert_eq!(event.kind, EventKind::Locked { lock: second.clone(), stolen: Some(first) });
    bench.restart().await;
    assert_eq!(bench.platform.locks().await.expect("locks"), std::slice::from_ref(&second));
    assert!(bench.refusal(&alice(), "hello").await.is_some());
    // One's own is replaced, and goes with the sandbox.
    let third = bench.lock(&bob(), place("still", false)).await.expect("locked");
    assert_eq!(bench.platform.locks().await.expect("locks"), [third]);
    bench.platform.delete_sandbox(&bob(), &name("qa"), Power::Member).await.expect("deleted");
    assert_eq!(bench.platform.locks().await.expect("locks"), []);
}

#[tokio::test]
async fn what_somebody_holds_is_not_changed_by_another_verb() {
    let bench = Bench::start().await;
    bench.deploy_to("hello", "main", "qa").await;
    let lock = bench.lock(&alice(), json!({ "sandbox": "qa", "reason": "demo" })).await.expect("locked");
    let put = async |by: &Principal, wanted| {
        let wanted = serde_json::from_value(wanted).expect("a sandbox");
        let put = bench.platform.save_sandbox(by, &name("qa"), wanted, Save::Put, Power::Member).await;
        put.map(drop).map_err(|error| error.code())
    };
    let routes = json!({ "routes": { "hello": { "type": "baseline" } } });
    assert_eq!(put(&bob(), routes.clone()).await, Err("locked"));
    assert_eq!(put(&bob(), json!({ "notes": "x" })).await, Ok(()));
    assert_eq!(put(&alice(), routes.clone()).await, Ok(()));
    assert_eq!(put(&bob(), routes).await, Ok(()), "nothing changes");
    assert_eq!(put(&bob(), json!({ "routes": {} })).await, Err("locked"));
    let delete = async |by: &Principal, power| {
        let deleted = bench.platform.delete_sandbox(by, &name("qa"), power).await;
        deleted.map_err(|error| error.code())
    };
    assert_eq!(delete(&bob(), Power::Member).await, Err("locked"));
    assert_eq!(bench.platform.locks().await.expect("locks"), [lock]);
    let freeze = json!({ "environment": "default", "kind": "freeze", "reason": "release" });
    bench.lock(&bob(), freeze).await.expect("frozen");
    assert_eq!(delete(&alice(), Power::Member).await, Ok(()), "a freeze of all keeps nobody from tidying up");
}

//! The chain: what is in it stays, and what was touched is found.

use super::*;
use crate::access::Access;
use crate::api::TokenKind;
use crate::event::About;
use crate::failure::Failure;
use crate::id::EventSeq;

async fn audit() -> (Audit, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    (Audit::open(folder.path()).await.expect("opened"), folder)
}

fn entry(action: &str, target: &str) -> NewEntry {
    NewEntry {
        who: AuditWho::Known { principal: Principal::person("alice".parse().expect("valid")) },
        via: AuditVia::Page,
        address: Some("192.0.2.7".into()),
        action: action.into(),
        target: Some(target.into()),
        result: DONE.into(),
        request: None,
    }
}

async fn write(audit: &Audit, sql: &'static str) -> Result<usize, StoreError> {
    audit.store.write(move |connection| Ok(connection.execute(sql, [])?)).await
}

#[tokio::test]
async fn an_entry_can_neither_be_changed_nor_taken_out_and_what_was_is_found() {
    let (audit, _folder) = audit().await;
    for n in 0..700 {
        audit.record(entry("create_deployment", &format!("payments #{n}"))).await.expect("written");
    }
    assert_eq!(audit.verify().await.expect("read"), Chain::Whole { entries: 700 });
    for sql in ["UPDATE audit SET result = 'x' WHERE seq = 3", "DELETE FROM audit WHERE seq = 3"] {
        let error = write(&audit, sql).await.expect_err("refused").to_string();
        assert!(error.contains("append-only"), "{error}");
    }
    // Somebody with the file takes the triggers away first.
    write(&audit, "DROP TRIGGER audit_is_never_changed").await.expect("dropped");
    write(&audit, "DROP TRIGGER audit_is_never_cut").await.expect("dropped");
    for (touch, mend) in [
        (
            "UPDATE audit SET target = 'ledger' WHERE seq = 601",
            "UPDATE audit SET target = 'payments #600' WHERE seq = 601",
        ),
        (
            "UPDATE audit SET address = NULL WHERE seq = 601",
            "UPDATE audit SET address = '192.0.2.7' WHERE seq = 601",
        ),
    ] {
        write(&audit, touch).await.expect("done");
        assert_eq!(audit.verify().await.expect("read"), Chain::Broken { at: 601 }, "{touch}");
        write(&audit, mend).await.expect("done");
        assert_eq!(audit.verify().await.expect("read"), Chain::Whole { entries: 700 }, "{mend}");
    }
    write(&audit, "DELETE FROM audit WHERE seq = 20").await.expect("done");
    assert_eq!(audit.verify().await.expect("read"), Chain::Broken { at: 21 });
}

#[tokio::test]
async fn entries_are_listed_newest_first_and_brought_out_oldest_first() {
    let (audit, _folder) = audit().await;
    for n in 1..=1100 {
        audit.record(entry(if n % 2 == 0 { "even" } else { "odd" }, &n.to_string())).await.expect("written");
    }
    let filter = AuditFilter { limit: 3, ..AuditFilter::default() };
    let seqs = |entries: Vec<AuditEntry>| entries.into_iter().map(|entry| entry.seq).collect::<Vec<_>>();
    assert_eq!(seqs(audit.list(filter.clone()).await.expect("listed")), [1100, 1099, 1098]);
    let odd = AuditFilter { action: Some("odd".into()), before: Some(1098), ..filter.clone() };
    assert_eq!(seqs(audit.list(odd).await.expect("listed")), [1097, 1095, 1093]);
    for (who, found) in [("alice", 3), ("bob", 0), ("SDP", 0), ("' OR 1=1 --", 0)] {
        let filter = AuditFilter { who: Some(who.into()), ..filter.clone() };
        assert_eq!(audit.list(filter).await.expect("listed").len(), found, "{who}");
    }
    let via = AuditFilter { via: Some(AuditVia::Chat), ..filter };
    assert_eq!(audit.list(via).await.expect("listed"), []);
    let mut all = Vec::new();
    loop {
        let page = audit.after(all.last().copied().unwrap_or(0)).await.expect("read");
        if page.is_empty() {
            break;
        }
        all.extend(seqs(page));
    }
    assert_eq!(all, (1..=1100).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_somebody_says_of_themselves_stays_one_line_and_no_token_is_kept() {
    let (audit, folder) = audit().await;
    let access = Access::open(folder.path()).await.expect("opened");
    let token =
        access.create_token("ci".parse().expect("valid"), TokenKind::Admin).await.expect("made").token;
    let name = format!("alice\nroot did it\u{1b}[2J{}", "x".repeat(1000));
    let claimed = AuditWho::Claimed { name };
    audit.record(NewEntry { who: claimed, ..entry("log_in", "x") }).await.expect("written");
    for target in [token.expose().to_owned(), format!("tokens/{}?x", token.expose())] {
        audit.record(entry("delete_token", &target)).await.expect("written");
    }
    let list = audit.list(AuditFilter { limit: 10, ..AuditFilter::default() }).await.expect("listed");
    assert_eq!(list[0].target.as_deref(), Some("[a token]"));
    assert_eq!(list[1].target.as_deref(), Some("[a token]"));
    let AuditWho::Claimed { name } = &list[2].who else { panic!("{:?}", list[2]) };
    assert!(name.starts_with("alice root did it [2J") && name.len() == LONGEST, "{name}");
    assert_eq!(
        audit.verify().await.expect("read"),
        Chain::Whole { entries: 3 },
        "as it is shown, so it is hashed"
    );
}

#[tokio::test]
async fn several_that_write_at_once_make_one_chain() {
    let (audit, folder) = audit().await;
    let beside = Audit::open(folder.path()).await.expect("opened");
    let write = |audit: Audit| async move {
        for n in 0..50 {
            audit.record(entry("x", &n.to_string())).await.expect("written");
        }
    };
    tokio::join!(write(audit.clone()), write(beside.clone()), write(audit.clone()));
    assert_eq!(beside.verify().await.expect("read"), Chain::Whole { entries: 150 });
}

#[test]
fn what_is_ended_by_itself_is_noted_and_what_a_build_did_is_not() {
    let event = |by: Principal, kind: EventKind| Event {
        seq: EventSeq(1),
        at: Timestamp::UNIX_EPOCH,
        by,
        about: About { service: Some("payments".parse().expect("valid")), ..About::default() },
        kind,
    };
    let failed = |reason| EventKind::DeploymentEnded {
        outcome: Outcome::Failed { failure: Failure::new(None, reason, "x") },
        url: None,
    };
    let noted = automatic(&event(Principal::System, failed(FailureReason::AgentLost))).expect("noted");
    assert_eq!((noted.action.as_str(), noted.result.as_str()), ("end_deployment", "agent_lost"));
    assert_eq!(noted.target.as_deref(), Some("payments"));
    assert!(automatic(&event(Principal::System, EventKind::InstanceLost {})).is_some());
    assert_eq!(automatic(&event(Principal::System, failed(FailureReason::BuildFailed))), None);
    let alice = Principal::person("alice".parse().expect("valid"));
    assert_eq!(
        automatic(&event(alice, failed(FailureReason::AgentLost))),
        None,
        "the request for it is noted"
    );
}

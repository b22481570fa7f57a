//! A backup that is older than what its agents have done since: all of them come to terms.

use sdp_core::backup;
use sdp_core::deployment::Outcome;
use sdp_core::id::EventSeq;
use sdp_core::sandbox::InstanceState;
use serde_json::json;

use crate::harness::{greeter, run_test};

#[test]
fn after_a_restore_agents_drop_what_the_server_does_not_know_and_deploys_go_on() {
    run_test(async |sdp| {
        sdp.hello().await;
        let url = sdp.deployed("hello", "main").await;
        let before = sdp.admin.deployment("1".parse().expect("a number")).await.expect("known");
        let log = sdp.log(&before).await;
        let data_dir = sdp.server_folder().to_owned();
        let (from, to) = (data_dir.clone(), data_dir.with_file_name("backup"));
        let place = to.clone();
        let made = tokio::task::spawn_blocking(move || backup::backup(&from, &to)).await.expect("ran");
        let made = made.expect("made");
        assert_eq!((made.deployments, made.logs.len()), (1, 1));

        // What the backup does not know: an instance that took the place of the one it knows, and one of another
        // service, a deployment in the middle of its build, and one that waits for its turn.
        sdp.deployed("hello", "feature/greeting").await;
        sdp.push("ledger", "main", &[("greeting.txt", "ledger")]);
        sdp.service("ledger", json!({})).await;
        let unknown = sdp.deployed("ledger", "main").await;
        sdp.push("slow", "main", &[("greeting.txt", "slow")]);
        let builder = json!({ "type": "command", "build": [["sleep", "600"]], "run": [greeter()] });
        sdp.service("slow", json!({ "builder": builder })).await;
        sdp.request("slow", "main").await;
        sdp.request("slow", "main").await;
        sdp.until("it is built", async |sdp| sdp.processes().iter().any(|line| line.contains("sleep 600")))
            .await;

        sdp.stop_server().await;
        std::fs::rename(&data_dir, data_dir.with_file_name("lost")).expect("moved");
        let into = data_dir.clone();
        let restored =
            tokio::task::spawn_blocking(move || backup::restore(&place, &into)).await.expect("ran");
        assert_eq!(restored.expect("restored"), made);
        sdp.start_server().await;

        sdp.until("the agent has dropped all of it", async |sdp| sdp.processes().is_empty()).await;
        assert_eq!(sdp.log(&before).await, log);
        let gone = sdp.admin.instances(&Default::default()).await.expect("a list");
        assert!(gone.is_empty(), "what does not run is not shown as running: {gone:?}");
        let status = sdp.get(&unknown).await.0;
        assert!(status >= 400, "no route leads to what the server does not know: {status}");

        let again = sdp.deploy("hello", "main").await;
        assert_eq!(again.deployment.outcome(), Some(&Outcome::Succeeded {}), "{}", sdp.log(&again).await);
        assert_eq!(again.deployment.number.0, 1001, "no number means two deployments");
        assert!(
            again.deployment.version > EventSeq(made.newest_event + 1000),
            "{:?}",
            again.deployment.version
        );
        assert_eq!(sdp.get(&url).await.2, "hello from main");
        let live = sdp.admin.instances(&Default::default()).await.expect("a list");
        assert_eq!((live.len(), &live[0].state), (1, &InstanceState::Live {}));
    });
}

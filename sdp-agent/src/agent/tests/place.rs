//! What an instance is told of its place.
//!
//! `SDP_EXEC` is left out: by it the agent finds the processes that it has started.

use super::*;

/// Says all that it was told, and goes on.
const TELL: &str = "#!/bin/sh\nenv | grep ^SDP_ | grep -v ^SDP_EXEC= | sort\ncat \"$SDP_CONTEXT\"\n";

#[tokio::test]
async fn an_instance_and_its_release_command_are_told_their_place_in_variables_and_a_file() {
    let mut world = World::start().await;
    let serve = format!("{TELL}echo end\nexec sleep 1000\n");
    let commit = world.commit(&[("!tell", TELL), ("!serve", &serve)]);
    let mut spec = world.spec(&[], &["./serve"]);
    spec.place = Some(world.place(None));
    spec.release = Some(vec!["./tell".to_owned()]);
    let deployment = DeploymentId::new();
    world.server.say(deploy(deployment, &spec)).await;
    let job = world.server.until_done(deployment).await;
    assert_eq!(job.result(), Some(&JobResult::Ready {}), "{}", job.text());
    let folder = world.folder.path().join("data/instances").join(spec.instance.to_string());
    let data = world.folder.path().canonicalize().unwrap();
    let shown = |lines: Vec<String>| {
        lines
            .join("\n")
            .replace(data.to_str().unwrap(), "$DIR")
            .replace(&spec.instance.to_string(), "$INSTANCE")
            .replace(commit.as_str(), "$COMMIT")
    };
    insta::assert_snapshot!(shown(job.printed()), @r#"
    SDP_COMMIT=$COMMIT
    SDP_CONTEXT=$DIR/data/instances/$INSTANCE-release/context.json
    SDP_DEPLOYMENT=412
    SDP_ENVIRONMENT=staging
    SDP_REF=main
    SDP_ROUTE_HELLO=http://127.0.0.1:8081/~alice/~hello/
    SDP_ROUTE_ORDER_ITEMS=http://127.0.0.1:8081/~alice/~order-items/
    SDP_ROUTING_KEY=rk_hyboqd4ahyboqd4ahyboqd4aha
    SDP_SANDBOX=alice
    SDP_SERVICE=hello
    {
      "sandbox": "alice",
      "environment": "staging",
      "routing_key": "rk_hyboqd4ahyboqd4ahyboqd4aha",
      "commit": "$COMMIT",
      "service": "hello",
      "routes": {
        "hello": "http://127.0.0.1:8081/~alice/~hello/",
        "order-items": "http://127.0.0.1:8081/~alice/~order-items/"
      }
    }
    "#);
    let printed = world.printed(spec.instance, 0).await;
    let first = shown(printed.clone());
    insta::assert_snapshot!(first.lines().find(|line| line.starts_with("SDP_CONTEXT")).unwrap(), @r"SDP_CONTEXT=$DIR/data/instances/$INSTANCE/context.json");

    // Also when the agent was killed: it is started again, and told the same.
    std::fs::remove_file(folder.join("context.json")).unwrap();
    let mut world = world.kill_and_welcome().await;
    let again = world.printed(spec.instance, printed.len()).await;
    assert_eq!(shown(again[printed.len()..].to_vec()), first);
    assert!(folder.join("context.json").is_file());

    let command = CommandId::new();
    world.server.until(|server| server.instances.contains_key(&spec.instance)).await;
    world.server.say(ToAgent::StopInstance { command, instance: spec.instance }).await;
    world.server.until(|server| !server.instances.contains_key(&spec.instance)).await;
    world.stop().await;
    assert!(!folder.exists(), "it goes with the instance");
}

#[tokio::test]
async fn without_a_place_there_is_no_file() {
    let mut world = World::start().await;
    world.commit(&[(
        "!serve",
        "#!/bin/sh\nenv | grep ^SDP_ | grep -v ^SDP_EXEC= | cut -d= -f1 | sort\necho end\nexec sleep 1000\n",
    )]);
    let spec = world.spec(&[], &["./serve"]);
    let deployment = DeploymentId::new();
    world.server.say(deploy(deployment, &spec)).await;
    world.server.until_done(deployment).await;
    let printed = world.printed(spec.instance, 0).await;
    assert_eq!(printed, ["SDP_COMMIT", "SDP_DEPLOYMENT", "SDP_REF", "SDP_SANDBOX", "SDP_SERVICE", "end"]);
    world.stop().await;
}

//! The form and the home.

use insta::assert_snapshot;
use serde_json::json;

use super::bot::Bot;
use super::fake::Slack;
use super::story;
use crate::harness::run_test;

#[test]
fn the_form_finds_a_branch_and_deploys_it_where_it_was_opened() {
    run_test(async |sdp| {
        sdp.hello().await;
        sdp.push("other", "main", &[("greeting.txt", "x")]);
        sdp.push("other", "feature/other", &[("greeting.txt", "x")]);
        sdp.service("other", json!({})).await;
        // What is searched is what the server has in memory.
        sdp.admin.branches(&"hello".parse().expect("a name"), None).await.expect("listed");
        let slack = Slack::start().await;
        let _bot = Bot::started(sdp, &slack).await;
        let alice = slack.person("alice");
        alice.slash("#dev", "deploy").await.well();
        let form = slack
            .until("it is filled", |model| model.view("alice").filter(|v| v.says("Service")).cloned())
            .await;
        assert_snapshot!(slack.view(&form.id), @r"
        ┌ Deploy · form of alice
        │ Service*: [(Which service?) ▾]
        │ Branch, tag or commit: [(Choose a service first) ▾]
        │ Sandbox: [(ualice (your own))]
        │ Variables: [(LOG_LEVEL=debug)]
        └ [Cancel] [Deploy]
        ");
        alice.choose(&form, "sdp:service", "hello").await.expect("it is told").well();
        let form = slack.until("it knows the service", |model| {
            model
                .view("alice")
                .filter(|view| view.entered("sdp:service").as_deref() == Some("hello"))
                .cloned()
        });
        let form = form.await;
        let found = alice.options(&form, "sdp:branch", "greet").await;
        assert_eq!(found[0], ("feature/greeting".to_owned(), "feature/greeting".to_owned()));
        // A commit can be typed, too: what is typed is offered as it is.
        assert_eq!(found.len(), 2, "{found:?}");
        // A sandbox that cannot be one is said in the form.
        alice.fill(&form, "sdp:sandbox", "No Sandbox!").await;
        alice.choose(&form, "sdp:branch", "feature/greeting").await;
        let refused = alice.submit(&form).await.well();
        assert_eq!(refused.body["response_action"], "errors", "{}", refused.body);
        assert_snapshot!(slack.view(&form.id), @r"
        ┌ Deploy · form of alice
        │ Service*: [hello ▾]
        │ Branch, tag or commit: [feature/greeting ▾]
        │ Sandbox: [No Sandbox!]
        │   ! “No Sandbox!” cannot be its name – expected: lower-case letters, digits and hyphens, beginning with a letter, at most 40
        │ Variables: [(LOG_LEVEL=debug)]
        └ [Cancel] [Deploy]
        ");
        alice.fill(&form, "sdp:sandbox", "qa-42").await;
        let sent = alice.submit(&form).await.well();
        assert!(sent.body.is_null(), "{}", sent.body);
        let root = slack.until("it runs", |model| model.says("#dev", ": running").cloned()).await;
        assert!(root.says("qa-42"), "{}", root.words());
        slack
            .until("all is told", |model| model.replies(&root).find(|r| r.says("running after")).cloned())
            .await;
        assert_eq!(sdp.get(sdp.on_router("/~qa-42/hello/")).await.2, "greetings from the branch");
        slack.transcript("#dev");
        slack.view(&form.id);
        slack.finish();
    });
}

#[test]
fn home_shows_what_is_mine_and_its_buttons_work() {
    run_test(async |sdp| {
        sdp.hello().await;
        let slack = Slack::start().await;
        let _bot = Bot::started(sdp, &slack).await;
        let alice = slack.person("alice");
        alice.dm("deploy hello main").await.well();
        let root = slack.until("it runs", |model| model.says("@alice", ": running").cloned()).await;
        slack
            .until("all is told", |model| model.replies(&root).find(|r| r.says("running after")).cloned())
            .await;
        alice.open_home().await.well();
        let home = slack
            .until("it is shown", |model| model.home("alice").filter(|home| home.says("hello")).cloned())
            .await;
        assert_snapshot!(slack.home("alice"), @r"
        home of alice
        You are UALICE.
        your sandbox ualice
        you may look and act (developer)
        [Deploy…]
        ---
        # Your sandboxes
        ualice · ends in 7 days · made less than a minute ago
        [Extend] [Delete sandbox]
        :white_check_mark: hello `main` `COMMIT` running for less than a minute
        http://127.0.0.1:PORT/~ualice/hello/↗
        [Open] [Logs] [Redeploy] [Roll back] [Stop]
        ---
        # Your deployments
        :white_check_mark: #1 hello `main` → ualice: succeeded less than a minute ago
        [Log]
        ");
        alice.click_near(&home, "hello", "Stop").await.ack.well();
        slack.until("it stops", |model| model.says("@alice", "baseline").cloned()).await;
        slack
            .until("home says so", |model| {
                model.home("alice").filter(|home| !home.buttons().contains(&"Stop".to_owned())).cloned()
            })
            .await;
        slack.until("its message says so", |model| model.says("@alice", "stopped by").cloned()).await;
        assert_snapshot!(story(&slack.transcript("@alice")), @r"
        @alice
        alice: deploy hello main
        sdp: :heavy_minus_sign: #1 hello `main` → ualice: stopped by UALICE   (edited)
             `COMMIT` Change main · Sam Sample
             [Log] [Redeploy]
          ↳ sdp: :white_check_mark: resolve `main` is `COMMIT` N s
          ↳ sdp: :white_check_mark: fetch Change main · Sam Sample N s
          ↳ sdp: :white_check_mark: build N s
          ↳ sdp: :white_check_mark: start on vm-1 N s
          ↳ sdp: :white_check_mark: check it is healthy N s
          ↳ sdp: :white_check_mark: switch ualice's requests for hello go to it N s
          ↳ sdp: :white_check_mark: running after N s http://127.0.0.1:PORT/~ualice/hello/↗
        sdp: :white_check_mark: hello in ualice is being stopped; ualice's requests for it go to the baseline.
             [Redeploy]
        ");
        slack.home("alice");
        slack.finish();
    });
}

#[test]
fn in_a_thread_a_verb_alone_is_about_its_deployment() {
    run_test(async |sdp| {
        sdp.hello().await;
        let slack = Slack::start().await;
        let _bot = Bot::started(sdp, &slack).await;
        let alice = slack.person("alice");
        alice.mention("#dev", None, "deploy hello main").await.well();
        let root = slack.until("it runs", |model| model.says("#dev", ": running").cloned()).await;
        slack
            .until("all is told", |model| model.replies(&root).find(|r| r.says("running after")).cloned())
            .await;
        alice.mention("#dev", Some(&root), "stop").await.well();
        slack
            .until("it is said in the thread", |model| {
                model.replies(&root).find(|r| r.says("being stopped")).cloned()
            })
            .await;
        alice.mention("#dev", Some(&root), "redeploy").await.well();
        slack
            .until("the thread says where", |model| {
                model.replies(&root).find(|r| r.says("its message is in the channel")).cloned()
            })
            .await;
        let second = slack.until("it runs again", |model| {
            model.find("#dev", |m| m.says("#2 hello") && m.says(": running")).cloned()
        });
        let second = second.await;
        slack
            .until("all is told", |model| model.replies(&second).find(|r| r.says("running after")).cloned())
            .await;
        slack.transcript("#dev");
        slack.finish();
    });
}

#[test]
fn whoever_types_something_else_hears_alone_what_was_meant() {
    run_test(async |sdp| {
        sdp.hello().await;
        let slack = Slack::start().await;
        let _bot = Bot::started(sdp, &slack).await;
        let alice = slack.person("alice");
        for text in
            ["", "dploy hello", "deploy helo", "status", "services", "deploy hello DB_PASSWORD=hunter2"]
        {
            let heard = slack.look(|model| model.whispers("alice").count());
            alice.slash("#dev", text).await.well();
            slack
                .until("it is answered", |model| (model.whispers("alice").count() > heard).then_some(()))
                .await;
        }
        assert_snapshot!(story(&slack.whispers("alice")), @r"
        #dev, only alice sees: sdp: what you can say
                                    `deploy <service> [branch|tag|commit] [to <sandbox>] [KEY=value …]`  build a branch and run it in your sandbox
                                    `status [sandbox|412]`  what runs, and where a deployment stands
                                    `open <service> [in <sandbox>]`  its address in a sandbox
                                    `logs <service|412> [in <sandbox>] [n]`  what a running service prints, or the end of a build
                                    `rollback <service|412> [in <sandbox>]`  deploy what ran before
                                    everything else: `help all`
        #dev, only alice sees: sdp: :x: I do not know “dploy”. Did you mean deploy?
                                    next help
        #dev, only alice sees: sdp: :x: There is no service named helo. Did you mean `hello`?
                                    next services lists those there are
                                    [Deploy]
        #dev, only alice sees: sdp: Your sandbox ualice is made when you first deploy to it.
                                    [Services]
        #dev, only alice sees: sdp: 1 service
                                    hello `main` · /tmp/RUN/repositories/hello.git
        #dev, only alice sees: sdp: :x: That looks like a secret, and everybody here can read it. Nothing was done with it.
                                    next ask an administrator to set it as a secret of the service (PUT /api/v1/services/SERVICE/secrets/NAME), never here; if it is real, replace it now, because it has been in a chat
        ");
        assert_eq!(slack.transcript("#dev"), "#dev\n");
        slack.finish();
    });
}

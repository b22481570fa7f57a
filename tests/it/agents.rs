//! An agent enrols, works, is drained, resumed and removed, with the real program's own way to its token.

use std::path::Path;
use std::time::Duration;

use sdp_agent::Connector;
use sdp_agent::config::ConfigFile;
use sdp_agent::router::RouterConfig;
use sdp_core::client::InstanceFilter;
use sdp_core::deployment::Outcome;
use sdp_core::event::EventKind;
use sdp_core::id::EventSeq;
use sdp_core::sandbox::InstanceState;
use sdp_core::secret::Secret;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::harness::{Sdp, name, run_test, wanted};

struct Second {
    file: ConfigFile,
    shutdown: CancellationToken,
    task: JoinSet<Result<(), sdp_agent::AgentError>>,
}

impl Second {
    fn configured(folder: &Path, server: &str) -> ConfigFile {
        let text = format!(
            "server = \"{server}\"\ntoken_file = \"{0}/agent.token\"\ndata_dir = \"{0}/data\"\ncapacity = 2\n",
            folder.display()
        );
        let path = folder.join("agent.toml");
        std::fs::write(&path, text).expect("written");
        ConfigFile::load(Some(&path), &|_| None).expect("a configuration")
    }

    fn start(&mut self, sdp: &Sdp, router: std::net::SocketAddr, folder: &Path) {
        let mut config = crate::samples::agent(folder, &sdp.repositories());
        config.capacity = 2;
        config.router = Some(RouterConfig::new(router));
        config.runtime.stop_grace = Duration::from_secs(2);
        let connector: Connector = self.file.connector().expect("a token");
        self.task.spawn(sdp_agent::run(config, connector, self.shutdown.clone()));
    }
}

#[test]
fn an_agent_enrols_works_is_drained_resumed_and_removed() {
    run_test(async |sdp| {
        sdp.hello().await;
        let folder = sdp.folder.path().canonicalize().expect("it is there").join("vm-2");
        std::fs::create_dir(&folder).expect("made");
        let file = Second::configured(&folder, sdp.url.as_str());
        assert!(file.connector().is_err(), "it has no token yet");
        let made = sdp.admin.create_enrolment(&name("vm-2")).await.expect("made");
        let enrolment = file.enrolment().expect("a way to the server");
        let agent = enrolment.enrol(&made.token, false).await.expect("enrolled");
        assert_eq!(agent, name("vm-2"));
        std::fs::remove_file(enrolment.token_file()).expect("it was there");
        let error = enrolment.enrol(&made.token, false).await.expect_err("once");
        assert_eq!(error.code(), "enrolment_refused");
        let again = sdp.admin.create_enrolment(&name("vm-2")).await.expect("made");
        enrolment.enrol(&again.token, false).await.expect("enrolled anew");

        let router = TcpListener::bind("127.0.0.1:0").await.expect("binds").local_addr().expect("bound");
        let mut second = Second { file, shutdown: CancellationToken::new(), task: JoinSet::new() };
        second.start(sdp, router, &folder);
        let connected = async |sdp: &Sdp, wanted: bool| {
            let agents = sdp.admin.agents().await.expect("a list");
            agents.iter().any(|agent| agent.name == name("vm-2") && agent.connected) == wanted
        };
        sdp.until("the second agent connects", async |sdp| connected(sdp, true).await).await;

        // The first is drained: what is deployed goes to the second.
        assert!(sdp.admin.drain_agent(&name("vm-1")).await.expect("drained").draining);
        sdp.deployed("hello", "main").await;
        let instance = sdp.admin.instances(&InstanceFilter::default()).await.expect("a list").remove(0);
        assert_eq!(instance.agent, name("vm-2"));
        // Both: it waits, and says for what.
        sdp.admin.drain_agent(&name("vm-2")).await.expect("drained");
        let mut other = wanted("hello", "feature/greeting");
        other.sandbox = Some(name("bob"));
        let waiting = sdp.admin.deploy(&other, None).await.expect("taken");
        let view = sdp.admin.deployment(waiting.id.into()).await.expect("known");
        assert_eq!(view.waiting_for.as_deref(), Some("its agents vm-1, vm-2 are being drained"));
        // Routes still change on agents that are drained.
        assert!(!sdp.admin.resume_agent(&name("vm-2")).await.expect("resumed").draining);
        let ended = sdp.wait(waiting.id.into()).await;
        assert_eq!(ended.deployment.outcome(), Some(&Outcome::Succeeded {}));
        let (status, served_by, text) = sdp.get(ended.deployment.url.expect("a URL")).await;
        assert_eq!((status, text.as_str()), (200, "greetings from the branch"), "{served_by}");

        // Removed: not while it serves; by force it is out at once, and what it ran is lost.
        let error = sdp.admin.forget_agent(&name("vm-2"), false).await.expect_err("it serves");
        assert_eq!(error.code(), "agent_in_use");
        let mut feed = sdp.admin.events(EventSeq(0), Default::default());
        sdp.admin.forget_agent(&name("vm-2"), true).await.expect("removed");
        let removed = async {
            while feed.next().await.expect("not over").expect("a feed").kind != (EventKind::AgentForgotten {})
            {
            }
        };
        tokio::time::timeout(Duration::from_secs(20), removed).await.expect("it is told");
        assert!(sdp.admin.agents().await.expect("a list").iter().all(|agent| agent.name == name("vm-1")));
        let instance = sdp.admin.instance(instance.id).await.expect("known");
        assert_eq!(instance.state, InstanceState::Lost {});
        let token = std::fs::read_to_string(enrolment.token_file()).expect("its token");
        let client =
            sdp_core::client::Client::new(sdp.url.clone(), Secret::new(token.trim())).expect("a client");
        assert_eq!(client.agents().await.expect_err("worthless").code(), "unauthorised");
        second.shutdown.cancel();
        for ended in second.task.join_all().await {
            ended.expect("it ran");
        }
        // The first takes the work again.
        sdp.admin.resume_agent(&name("vm-1")).await.expect("resumed");
        let url = sdp.deployed("hello", "main").await;
        assert_eq!(sdp.get(&url).await.2, "hello from main");
    });
}

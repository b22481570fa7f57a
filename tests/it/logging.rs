//! What server and agent log: each deployment is found by its id, the fields have the names that `sdp_core` promises, and
//! nothing secret is in it.

use std::collections::BTreeSet;

use sdp_core::api::CreateDeployment;
use sdp_core::client::InstanceFilter;
use sdp_core::secret::{GitCredential, Secret};
use serde_json::Value;

use crate::harness::{name, run_test_logged_with, wanted};

const PASSWORD: &str = "canary-password-5f1c";
const VARIABLE: &str = "canary-variable-77ab";

/// A line of a log with what its spans add.
struct Line {
    target: String,
    message: String,
    fields: Vec<(String, Value)>,
    text: String,
}

impl Line {
    fn read(text: &str) -> Self {
        let line: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
        let own = line["fields"].as_object().cloned().unwrap_or_default();
        let spans = line["spans"].as_array().cloned().unwrap_or_default();
        let of_spans =
            spans.iter().filter_map(Value::as_object).flatten().map(|(k, v)| (k.clone(), v.clone()));
        Self {
            target: line["target"].as_str().unwrap_or_default().to_owned(),
            message: line["fields"]["message"].as_str().unwrap_or_default().to_owned(),
            fields: own.into_iter().chain(of_spans).collect(),
            text: text.to_owned(),
        }
    }

    fn has(&self, field: &str, value: &str) -> bool {
        self.fields.iter().any(|(name, found)| name == field && found.as_str() == Some(value))
    }
}

#[test]
fn each_deployment_is_found_by_its_id_in_the_logs_and_no_secret_is() {
    let (mut deployments, mut instances, mut secrets) = (Vec::new(), Vec::new(), Vec::new());
    let log = run_test_logged_with(
        "trace",
        |_, _| (),
        async |sdp| {
            secrets.extend([&sdp.admin_token, &sdp.agent_token].map(|token| token.expose().to_owned()));
            sdp.hello().await;
            for branch in ["main", "feature/greeting", "no/such-branch"] {
                let wanted = CreateDeployment {
                    env: [(name("API_KEY"), VARIABLE.to_owned())].into(),
                    git_credential: Some(GitCredential {
                        username: "alice".into(),
                        password: Secret::new(PASSWORD),
                    }),
                    ..wanted("hello", branch)
                };
                let created = sdp.admin.deploy(&wanted, None).await.expect("taken");
                let view = sdp.wait(created.id.into()).await;
                deployments.push(view.deployment);
            }
            let filter = InstanceFilter { all: true, ..InstanceFilter::default() };
            let all = sdp.admin.instances(&filter).await.expect("listed");
            instances.extend(all.iter().map(|instance| instance.id.to_string()));
            // A link that signs in opens a door; its code is in the address that is asked for.
            let link = sdp.admin.sign_in_link(None).await.expect("made");
            let code = link.url.path().rsplit('/').next().expect("a code").to_owned();
            sdp.http.post(link.url).send().await.expect("answered");
            secrets.push(code);
        },
    );
    let lines: Vec<Line> = log.lines().map(Line::read).collect();
    for secret in secrets.iter().map(String::as_str).chain([PASSWORD, VARIABLE]) {
        let found = lines.iter().find(|line| line.text.contains(secret));
        assert!(found.is_none(), "{}", found.expect("some").text);
    }

    let ours = |line: &&Line| line.target.starts_with("sdp");
    for deployment in &deployments {
        let (id, number) = (deployment.id.to_string(), deployment.number.0);
        let of = |part: &str| {
            let lines =
                lines.iter().filter(|line| line.target.starts_with(part) && line.has("deployment.id", &id));
            lines.map(|line| line.message.as_str()).collect::<Vec<_>>()
        };
        let (server, agent) = (of("sdp_server"), of("sdp_agent"));
        for told in
            ["a deployment was requested", "a deployment was sent to an agent", "a deployment has ended"]
        {
            assert!(server.contains(&told), "#{number} {told}: {server:?}");
        }
        for told in ["a job began", "a job has ended"] {
            assert!(agent.contains(&told), "#{number} {told}: {agent:?}");
        }
        // Who reads the number in chat finds the same lines.
        for told in lines
            .iter()
            .filter(|line| line.has("deployment.id", &id) && line.message.starts_with("a deployment"))
        {
            assert!(told.fields.contains(&("deployment.number".into(), number.into())), "{}", told.text);
        }
        // Whatever names it does so in the field.
        for line in lines.iter().filter(ours).filter(|line| line.text.contains(&id)) {
            let is_path = line
                .fields
                .iter()
                .any(|(_, value)| value.as_str().is_some_and(|v| v.contains(&id) && v != id));
            assert!(is_path || line.has("deployment.id", &id), "{}", line.text);
        }
    }
    assert_eq!(instances.len(), 2);
    for id in &instances {
        for part in ["sdp_server", "sdp_agent"] {
            let found = lines.iter().any(|line| line.target.starts_with(part) && line.has("instance.id", id));
            assert!(found, "instance {id} in the log of {part}");
        }
    }
    let names: BTreeSet<&str> = lines
        .iter()
        .filter(ours)
        .flat_map(|line| line.fields.iter().map(|(name, _)| name.as_str()))
        .collect();
    for other in
        ["agent", "deployment", "instance", "sandbox", "service", "request", "epoch", "attempt", "number"]
    {
        assert!(!names.contains(other), "a field `{other}`: {names:?}");
    }
    assert!(lines.iter().any(|line| line.has("agent.name", "vm-1") && line.message == "agent connected"));
    let request = |line: &&Line| line.message == "answered" && line.has("route", "/api/v1/deployments");
    let request = lines.iter().find(request).expect("a request");
    assert!(request.fields.iter().any(|(name, value)| name == "request.id" && value.is_string()));
}

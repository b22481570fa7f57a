//! The wire as text: a change here is a change of the protocol, and a decision.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;

use super::link::{AgentFrame, RawFrame};
use super::*;
use crate::catalog::{Builder, HealthCheck, Limits, MatchRule, WhenDown};
use crate::deployment::Step;
use crate::failure::FailureReason;
use crate::id::DeploymentNumber;
use crate::name::RoutingKey;
use crate::routing::{EnvironmentRoutes, RouteTarget, SandboxRoute, SandboxRoutes, ServiceRoute};
use crate::secret::Secret;

fn name<T: std::str::FromStr>(text: &str) -> T
where
    T::Err: std::fmt::Debug,
{
    text.parse().expect("valid")
}

fn id<T: From<uuid::Uuid>>(n: u128) -> T {
    uuid::Uuid::from_u128(n).into()
}

fn commit() -> CommitId {
    CommitId::parse("0123456789abcdef0123456789abcdef01234567").expect("valid")
}

fn key() -> RoutingKey {
    RoutingKey::from_random([7; 16])
}

fn info() -> CommitInfo {
    CommitInfo { author: "Åsa".into(), subject: "Greet".into() }
}

/// All kinds of rules and targets.
fn table(instance: InstanceId) -> RouteTable {
    let route = |service, target| SandboxRoute { service: name(service), target };
    let service = |service, rule| ServiceRoute {
        service: name(service),
        rule,
        baseline: Some(name("https://apps.example.com/")),
    };
    let address = "127.0.0.1:20001".parse().expect("valid");
    RouteTable {
        version: RouteVersion(9),
        environments: vec![EnvironmentRoutes {
            name: name("default"),
            domain: Some(name("sandboxes.example.com")),
            when_down: WhenDown::Fail,
            services: vec![
                service("hello", MatchRule::Path { prefix: name("/hello"), strip: true }),
                service("shop", MatchRule::Host { host: name("shop.example.com") }),
            ],
            sandboxes: vec![
                SandboxRoutes {
                    name: name("alice"),
                    key: key(),
                    expires_at: Some(name("2026-11-28T21:00:00Z")),
                    routes: vec![
                        route(
                            "hello",
                            RouteTarget::Instance { instance, address, commit: commit(), of: None },
                        ),
                        route("shop", RouteTarget::External { address }),
                    ],
                },
                SandboxRoutes {
                    name: name("bob"),
                    key: key(),
                    expires_at: None,
                    routes: vec![
                        route("hello", RouteTarget::Down { reason: "it crashed".into() }),
                        route("shop", RouteTarget::Baseline { reason: Some("it crashed".into()) }),
                    ],
                },
            ],
        }],
    }
}

fn from_agent() -> Vec<FromAgent> {
    let address = "127.0.0.1:20001".parse().expect("valid");
    let (deployment, instance) = (id(1), id(2));
    let running = InstanceReport {
        instance,
        deployment,
        status: InstanceStatus::Running {
            address,
            restarts: 0,
            last_restart: None,
            health: Health::Healthy {},
        },
    };
    let restarted = |cause, health| {
        let status = InstanceStatus::Running { address, restarts: 3, last_restart: Some(cause), health };
        FromAgent::Instance { report: InstanceReport { instance, deployment, status } }
    };
    let progress = |number, what| FromAgent::Progress { deployment, attempt: 1, number, after_line: 7, what };
    let failure = Failure {
        exit_code: Some(2),
        line: Some(7),
        ..Failure::new(Step::Build, FailureReason::BuildFailed, "`make` ended with exit code 2")
    };
    vec![
        FromAgent::Hello {
            protocol: PROTOCOL,
            boot_id: id(3),
            version: "0.1.0".into(),
            labels: [name("linux")].into(),
            capacity: 2,
            runtimes: vec!["process".into()],
            preflight: vec![Preflight { check: "disk".into(), ok: true, detail: "80 GiB free".into() }],
            jobs: vec![JobReport {
                deployment,
                attempt: 1,
                done: false,
                interrupted: true,
                lines: 7,
                progress: 3,
            }],
            instances: vec![running.clone()],
            degraded: None,
            router: Some(RouterReport {
                kind: "builtin".into(),
                base_url: name("http://127.0.0.1:8081"),
                applied: RouteVersion(9),
            }),
        },
        FromAgent::Accepted { command: id(4) },
        FromAgent::Rejected { command: id(4), reason: RejectReason::Busy, message: "2 jobs already".into() },
        progress(1, Progress::StepStarted { step: Step::Resolve }),
        progress(2, Progress::Resolved { commit: commit() }),
        progress(3, Progress::Fetched { info: info(), changes: None }),
        progress(
            3,
            Progress::Fetched {
                info: info(),
                changes: Some(Changes {
                    since: commit(),
                    added: 2,
                    removed: 1,
                    more: false,
                    subjects: vec!["Greet".into(), "Listen".into()],
                }),
            },
        ),
        progress(4, Progress::BuildReused { reused: true }),
        progress(5, Progress::Noted { text: "submodules are left out".into() }),
        progress(6, Progress::Started { address }),
        progress(7, Progress::Ended { result: JobResult::Ready {} }),
        progress(7, Progress::Ended { result: JobResult::Failed { failure: failure.clone() } }),
        progress(7, Progress::Ended { result: JobResult::Cancelled {} }),
        FromAgent::Done {
            deployment,
            attempt: 1,
            progress: 7,
            lines: 7,
            bytes: 70,
            dropped: 0,
            checksum: 0xdead_beef,
        },
        FromAgent::Instance { report: running },
        FromAgent::Instance {
            report: InstanceReport {
                instance,
                deployment,
                status: InstanceStatus::Exited {
                    exit: Exit { signal: Some(9), last_lines: vec!["bye".into()], ..Exit::default() },
                },
            },
        },
        FromAgent::Instance {
            report: InstanceReport { instance, deployment, status: InstanceStatus::Stopped {} },
        },
        FromAgent::Instance {
            report: InstanceReport {
                instance,
                deployment,
                status: InstanceStatus::Running {
                    address,
                    restarts: 2,
                    last_restart: Some(RestartCause::Exited {
                        exit: Exit {
                            exit_code: Some(137),
                            out_of_memory: true,
                            last_lines: vec!["so much".into()],
                            ..Exit::default()
                        },
                    }),
                    health: Health::Checking {},
                },
            },
        },
        restarted(RestartCause::AgentRestarted {}, Health::Unhealthy { detail: "GET / answered 500".into() }),
        restarted(RestartCause::EngineRestarted {}, Health::Healthy {}),
        restarted(RestartCause::SandboxRenewed {}, Health::Checking {}),
        FromAgent::Instance {
            report: InstanceReport {
                instance,
                deployment,
                status: InstanceStatus::Exited {
                    exit: Exit { not_started: Some("its build is gone".into()), ..Exit::default() },
                },
            },
        },
        FromAgent::Preflight {
            checks: vec![Preflight {
                check: "engine".into(),
                ok: false,
                detail: "Docker does not answer".into(),
            }],
        },
        FromAgent::Load {
            load: Load {
                running: 1,
                spool_jobs: 2,
                spool_bytes: 4096,
                disk_free: Some(80 << 30),
                disk_total: Some(100 << 30),
            },
        },
        FromAgent::Output {
            command: id(4),
            left_out: 3,
            lines: vec![OutputLine {
                at: name("2026-11-21T21:00:00Z"),
                stream: Stream::Stdout,
                text: "listening".into(),
            }],
        },
        FromAgent::OutputEnded { command: id(4), failure: None },
        FromAgent::RoutesApplied { version: RouteVersion(9) },
        FromAgent::Drained { instance },
        FromAgent::Answer {
            command: id(4),
            answer: Answer::Refs {
                head: Some("main".into()),
                branches: vec![RefInfo { name: name("main"), commit: commit() }],
                tags: Vec::new(),
            },
        },
        FromAgent::Answer { command: id(4), answer: Answer::Output { lines: vec!["listening".into()] } },
        FromAgent::Answer { command: id(4), answer: Answer::Account { user: "alice".into() } },
        FromAgent::Answer {
            command: id(4),
            answer: Answer::Repos {
                repos: vec![RepoInfo {
                    name: "shop/login".into(),
                    url: name("https://git.example.com/shop/login.git"),
                    default_branch: Some(name("main")),
                }],
                complete: true,
            },
        },
        FromAgent::Answer {
            command: id(4),
            answer: Answer::Probed {
                status: 200,
                served_by: Some("shop@01234567 in alice".into()),
                hops: vec![
                    ProbeHop {
                        service: Some(name("shop")),
                        sandbox: Some(name("alice")),
                        named_by: Some("the header sdp-routing-key".into()),
                        served_by: "shop@01234567 in alice".into(),
                        status: 200,
                    },
                    ProbeHop {
                        service: None,
                        sandbox: None,
                        named_by: None,
                        served_by: "baseline".into(),
                        status: 404,
                    },
                ],
            },
        },
        FromAgent::Answer { command: id(4), answer: Answer::Failed { failure } },
        FromAgent::Bye { reason: ByeReason::Restart },
    ]
}

fn to_agent() -> Vec<ToAgent> {
    let (command, deployment, instance) = (id(4), id(1), id(2));
    let credential =
        Some(GitCredential { username: "alice".into(), password: Secret::new("not printed anywhere else") });
    let decide = |action| JobDecision { deployment, attempt: 1, action };
    let spec = JobSpec {
        number: DeploymentNumber(412),
        service: name("hello"),
        sandbox: name("alice"),
        instance,
        repo: name("https://bitbucket.org/team/hello.git"),
        git_ref: name("feature/greeting"),
        commit: None,
        since: Some(commit()),
        reuse_build: false,
        subdir: name("."),
        builder: Builder::Go { main_package: name("cmd/hello"), args: Vec::new() },
        health: HealthCheck::Http { path: "/healthz".into() },
        env: BTreeMap::from([(name("GREETING"), "hi".to_owned())]),
        port: NonZeroU16::new(9000),
        image: Some(name("alpine:3.20")),
        limits: Limits { memory_mib: Some(256), cpu_millis: None, pids: Some(100) },
        writable: BTreeSet::from([name("storage")]),
        release: Some(vec!["./migrate".into(), "up".into()]),
        labels: BTreeSet::from([name("go-1.23")]),
        step_limits: StepLimits::default(),
        place: Some(JobPlace {
            environment: name("default"),
            key: key(),
            routes: BTreeMap::from([(name("hello"), name("http://127.0.0.1:8081/~alice/~hello/"))]),
            expires_at: Some(name("2026-11-28T21:00:00Z")),
        }),
    };
    let table = table(instance);
    vec![
        ToAgent::Welcome {
            epoch: Epoch(3),
            jobs: vec![
                decide(JobAction::Send { lines: 7, progress: 3, ahead: None }),
                decide(JobAction::Cancel {
                    lines: 7,
                    progress: 3,
                    ahead: Some(Totals { bytes: 70, checksum: 5 }),
                }),
                decide(JobAction::Forget {}),
            ],
            instances: vec![
                InstanceDecision {
                    instance,
                    action: InstanceAction::Keep,
                    expires_at: Some(name("2026-11-28T21:00:00Z")),
                },
                InstanceDecision { instance: id(5), action: InstanceAction::Remove, expires_at: None },
            ],
        },
        ToAgent::Deploy {
            command,
            deployment,
            attempt: 1,
            spec: Box::new(spec),
            credential: credential.clone(),
            secrets: vec![
                SecretVariable {
                    name: name("DB_PASSWORD"),
                    source: SecretSource::Value { value: Secret::new("s3cret") },
                    build: false,
                    run: true,
                },
                SecretVariable {
                    name: name("NPM_TOKEN"),
                    source: SecretSource::File { file: name("npm.token") },
                    build: true,
                    run: false,
                },
            ],
        },
        ToAgent::Cancel { command, deployment },
        ToAgent::StopInstance { command, instance },
        ToAgent::Lifetimes {
            instances: BTreeMap::from([(instance, Some(name("2026-11-29T21:00:00Z"))), (id(5), None)]),
        },
        ToAgent::Routes { table },
        ToAgent::ListRefs { command, repo: name("/srv/git/hello.git"), credential },
        ToAgent::CheckCredential {
            command,
            repo: name("https://git.example.com/shop/login.git"),
            credential: GitCredential { username: "alice".into(), password: Secret::new("hunter2") },
            within_ms: 10_000,
        },
        ToAgent::ListRepos {
            command,
            repo: name("https://git.example.com/shop/login.git"),
            credential: None,
        },
        ToAgent::Probe {
            command,
            probe: ProbeRequest {
                key: key(),
                path: "/shop/orders/7?full=1".into(),
                host: Some(name("shop.example.com")),
                within_ms: 10_000,
            },
        },
        ToAgent::ReadOutput { command, instance, lines: 200 },
        ToAgent::FollowOutput { command, instance, tail: 200 },
        ToAgent::StopFollowing { command },
        ToAgent::Ack { deployment, attempt: 1, lines: 7, progress: 3 },
        ToAgent::Rewind { deployment, attempt: 1, lines: 7, progress: 3 },
        ToAgent::DoneOk { deployment, attempt: 1 },
        ToAgent::Bye { reason: ByeReason::Superseded, retry_after_ms: Some(500) },
    ]
}

fn text(frame: RawFrame) -> String {
    match frame {
        RawFrame::Text(text) => text.replace("00000000-0000-0000-0000-00000000000", "…"),
        RawFrame::Binary(_) => panic!("control is text"),
    }
}

#[test]
fn what_an_agent_says() {
    let frames = from_agent().into_iter().map(AgentFrame::from);
    let texts: Vec<_> = frames.map(|frame| text(frame.encode().expect("encodes"))).collect();
    insta::assert_snapshot!(texts.join("\n"), @r#"
    {"type":"hello","protocol":5,"boot_id":"…3","version":"0.1.0","labels":["linux"],"capacity":2,"runtimes":["process"],"preflight":[{"check":"disk","ok":true,"detail":"80 GiB free"}],"jobs":[{"deployment":"…1","attempt":1,"done":false,"interrupted":true,"lines":7,"progress":3}],"instances":[{"instance":"…2","deployment":"…1","status":{"type":"running","address":"127.0.0.1:20001","restarts":0,"last_restart":null,"health":{"type":"healthy"}}}],"degraded":null,"router":{"kind":"builtin","base_url":"http://127.0.0.1:8081/","applied":9}}
    {"type":"accepted","command":"…4"}
    {"type":"rejected","command":"…4","reason":"busy","message":"2 jobs already"}
    {"type":"progress","deployment":"…1","attempt":1,"number":1,"after_line":7,"what":{"type":"step_started","step":"resolve"}}
    {"type":"progress","deployment":"…1","attempt":1,"number":2,"after_line":7,"what":{"type":"resolved","commit":"0123456789abcdef0123456789abcdef01234567"}}
    {"type":"progress","deployment":"…1","attempt":1,"number":3,"after_line":7,"what":{"type":"fetched","info":{"author":"Åsa","subject":"Greet"}}}
    {"type":"progress","deployment":"…1","attempt":1,"number":3,"after_line":7,"what":{"type":"fetched","info":{"author":"Åsa","subject":"Greet"},"changes":{"since":"0123456789abcdef0123456789abcdef01234567","added":2,"removed":1,"more":false,"subjects":["Greet","Listen"]}}}
    {"type":"progress","deployment":"…1","attempt":1,"number":4,"after_line":7,"what":{"type":"build_reused","reused":true}}
    {"type":"progress","deployment":"…1","attempt":1,"number":5,"after_line":7,"what":{"type":"noted","text":"submodules are left out"}}
    {"type":"progress","deployment":"…1","attempt":1,"number":6,"after_line":7,"what":{"type":"started","address":"127.0.0.1:20001"}}
    {"type":"progress","deployment":"…1","attempt":1,"number":7,"after_line":7,"what":{"type":"ended","result":{"type":"ready"}}}
    {"type":"progress","deployment":"…1","attempt":1,"number":7,"after_line":7,"what":{"type":"ended","result":{"type":"failed","failure":{"step":"build","reason":"build_failed","detail":"`make` ended with exit code 2","exit_code":2,"line":7}}}}
    {"type":"progress","deployment":"…1","attempt":1,"number":7,"after_line":7,"what":{"type":"ended","result":{"type":"cancelled"}}}
    {"type":"done","deployment":"…1","attempt":1,"progress":7,"lines":7,"bytes":70,"dropped":0,"checksum":3735928559}
    {"type":"instance","report":{"instance":"…2","deployment":"…1","status":{"type":"running","address":"127.0.0.1:20001","restarts":0,"last_restart":null,"health":{"type":"healthy"}}}}
    {"type":"instance","report":{"instance":"…2","deployment":"…1","status":{"type":"exited","exit":{"exit_code":null,"signal":9,"out_of_memory":false,"last_lines":["bye"],"not_started":null}}}}
    {"type":"instance","report":{"instance":"…2","deployment":"…1","status":{"type":"stopped"}}}
    {"type":"instance","report":{"instance":"…2","deployment":"…1","status":{"type":"running","address":"127.0.0.1:20001","restarts":2,"last_restart":{"type":"exited","exit":{"exit_code":137,"signal":null,"out_of_memory":true,"last_lines":["so much"],"not_started":null}},"health":{"type":"checking"}}}}
    {"type":"instance","report":{"instance":"…2","deployment":"…1","status":{"type":"running","address":"127.0.0.1:20001","restarts":3,"last_restart":{"type":"agent_restarted"},"health":{"type":"unhealthy","detail":"GET / answered 500"}}}}
    {"type":"instance","report":{"instance":"…2","deployment":"…1","status":{"type":"running","address":"127.0.0.1:20001","restarts":3,"last_restart":{"type":"engine_restarted"},"health":{"type":"healthy"}}}}
    {"type":"instance","report":{"instance":"…2","deployment":"…1","status":{"type":"running","address":"127.0.0.1:20001","restarts":3,"last_restart":{"type":"sandbox_renewed"},"health":{"type":"checking"}}}}
    {"type":"instance","report":{"instance":"…2","deployment":"…1","status":{"type":"exited","exit":{"exit_code":null,"signal":null,"out_of_memory":false,"last_lines":[],"not_started":"its build is gone"}}}}
    {"type":"preflight","checks":[{"check":"engine","ok":false,"detail":"Docker does not answer"}]}
    {"type":"load","load":{"running":1,"spool_jobs":2,"spool_bytes":4096,"disk_free":85899345920,"disk_total":107374182400}}
    {"type":"output","command":"…4","left_out":3,"lines":[{"at":"2026-11-21T21:00:00Z","stream":"stdout","text":"listening"}]}
    {"type":"output_ended","command":"…4","failure":null}
    {"type":"routes_applied","version":9}
    {"type":"drained","instance":"…2"}
    {"type":"answer","command":"…4","answer":{"type":"refs","head":"main","branches":[{"name":"main","commit":"0123456789abcdef0123456789abcdef01234567"}],"tags":[]}}
    {"type":"answer","command":"…4","answer":{"type":"output","lines":["listening"]}}
    {"type":"answer","command":"…4","answer":{"type":"account","user":"alice"}}
    {"type":"answer","command":"…4","answer":{"type":"repos","repos":[{"name":"shop/login","url":"https://git.example.com/shop/login.git","default_branch":"main"}],"complete":true}}
    {"type":"answer","command":"…4","answer":{"type":"probed","status":200,"served_by":"shop@01234567 in alice","hops":[{"service":"shop","sandbox":"alice","named_by":"the header sdp-routing-key","served_by":"shop@01234567 in alice","status":200},{"service":null,"sandbox":null,"named_by":null,"served_by":"baseline","status":404}]}}
    {"type":"answer","command":"…4","answer":{"type":"failed","failure":{"step":"build","reason":"build_failed","detail":"`make` ended with exit code 2","exit_code":2,"line":7}}}
    {"type":"bye","reason":"restart"}
    "#);
}

#[test]
fn what_the_server_says() {
    let texts: Vec<_> = to_agent().iter().map(|message| text(message.encode().expect("encodes"))).collect();
    insta::assert_snapshot!(texts.join("\n"), @r#"
    {"type":"welcome","epoch":3,"jobs":[{"deployment":"…1","attempt":1,"action":{"type":"send","lines":7,"progress":3}},{"deployment":"…1","attempt":1,"action":{"type":"cancel","lines":7,"progress":3,"ahead":{"bytes":70,"checksum":5}}},{"deployment":"…1","attempt":1,"action":{"type":"forget"}}],"instances":[{"instance":"…2","action":"keep","expires_at":"2026-11-28T21:00:00Z"},{"instance":"…5","action":"remove"}]}
    {"type":"deploy","command":"…4","deployment":"…1","attempt":1,"spec":{"number":412,"service":"hello","sandbox":"alice","instance":"…2","repo":"https://bitbucket.org/team/hello.git","git_ref":"feature/greeting","commit":null,"since":"0123456789abcdef0123456789abcdef01234567","reuse_build":false,"subdir":".","builder":{"type":"go","main_package":"cmd/hello","args":[]},"health":{"type":"http","path":"/healthz"},"env":{"GREETING":"hi"},"place":{"environment":"default","key":"rk_hyboqd4ahyboqd4ahyboqd4aha","routes":{"hello":"http://127.0.0.1:8081/~alice/~hello/"},"expires_at":"2026-11-28T21:00:00Z"},"port":9000,"image":"alpine:3.20","limits":{"memory_mib":256,"cpu_millis":null,"pids":100},"writable":["storage"],"release":["./migrate","up"],"labels":["go-1.23"],"step_limits":{"fetch":600,"build":1800,"start":120,"check":120}},"credential":{"username":"alice","password":"not printed anywhere else"},"secrets":[{"name":"DB_PASSWORD","source":{"type":"value","value":"s3cret"},"build":false,"run":true},{"name":"NPM_TOKEN","source":{"type":"file","file":"npm.token"},"build":true,"run":false}]}
    {"type":"cancel","command":"…4","deployment":"…1"}
    {"type":"stop_instance","command":"…4","instance":"…2"}
    {"type":"lifetimes","instances":{"…2":"2026-11-29T21:00:00Z","…5":null}}
    {"type":"routes","table":{"version":9,"environments":[{"name":"default","domain":"sandboxes.example.com","when_down":"fail","services":[{"service":"hello","rule":{"type":"path","prefix":"/hello","strip":true},"baseline":"https://apps.example.com/"},{"service":"shop","rule":{"type":"host","host":"shop.example.com"},"baseline":"https://apps.example.com/"}],"sandboxes":[{"name":"alice","key":"rk_hyboqd4ahyboqd4ahyboqd4aha","expires_at":"2026-11-28T21:00:00Z","routes":[{"service":"hello","target":{"type":"instance","instance":"…2","address":"127.0.0.1:20001","commit":"0123456789abcdef0123456789abcdef01234567"}},{"service":"shop","target":{"type":"external","address":"127.0.0.1:20001"}}]},{"name":"bob","key":"rk_hyboqd4ahyboqd4ahyboqd4aha","routes":[{"service":"hello","target":{"type":"down","reason":"it crashed"}},{"service":"shop","target":{"type":"baseline","reason":"it crashed"}}]}]}]}}
    {"type":"list_refs","command":"…4","repo":"/srv/git/hello.git","credential":{"username":"alice","password":"not printed anywhere else"}}
    {"type":"check_credential","command":"…4","repo":"https://git.example.com/shop/login.git","credential":{"username":"alice","password":"hunter2"},"within_ms":10000}
    {"type":"list_repos","command":"…4","repo":"https://git.example.com/shop/login.git","credential":null}
    {"type":"probe","command":"…4","probe":{"key":"rk_hyboqd4ahyboqd4ahyboqd4aha","path":"/shop/orders/7?full=1","host":"shop.example.com","within_ms":10000}}
    {"type":"read_output","command":"…4","instance":"…2","lines":200}
    {"type":"follow_output","command":"…4","instance":"…2","tail":200}
    {"type":"stop_following","command":"…4"}
    {"type":"ack","deployment":"…1","attempt":1,"lines":7,"progress":3}
    {"type":"rewind","deployment":"…1","attempt":1,"lines":7,"progress":3}
    {"type":"done_ok","deployment":"…1","attempt":1}
    {"type":"bye","reason":"superseded","retry_after_ms":500}
    "#);
}

#[test]
fn every_message_survives_the_wire() {
    for message in from_agent() {
        let frame = AgentFrame::from(message);
        assert_eq!(AgentFrame::decode(&frame.encode().expect("encodes")).expect("decodes"), frame);
    }
    for message in to_agent() {
        assert_eq!(ToAgent::decode(&message.encode().expect("encodes")).expect("decodes"), message);
    }
}

#[test]
fn what_an_older_agent_or_server_says_is_understood() {
    let id = "00000000-0000-0000-0000-000000000001";
    let fetched = format!(
        r#"{{"type":"progress","deployment":"{id}","attempt":1,"number":3,"after_line":7,"what":{{"type":"fetched","info":{{"author":"Åsa","subject":"Greet"}}}}}}"#
    );
    let message = AgentFrame::decode(&RawFrame::Text(fetched)).expect("decodes");
    let what = Progress::Fetched { info: info(), changes: None };
    let deployment = self::id(1);
    let wanted = FromAgent::Progress { deployment, attempt: 1, number: 3, after_line: 7, what };
    assert_eq!(message, AgentFrame::from(wanted));

    let deploys = to_agent().into_iter().filter(|message| matches!(message, ToAgent::Deploy { .. }));
    for deploy in deploys {
        let RawFrame::Text(now) = deploy.encode().expect("encodes") else { panic!("control is text") };
        let then = now.replace(&format!(r#""since":"{}","#, commit()), "");
        assert_ne!(now, then);
        let ToAgent::Deploy { spec, .. } = ToAgent::decode(&RawFrame::Text(then)).expect("decodes") else {
            panic!("another message");
        };
        assert_eq!(spec.since, None);
    }
}

#[test]
fn a_bad_frame_is_refused_without_repeating_what_it_holds() {
    let secret = r#"{"type":"deploy","credential":{"username":"a","password":"hunter2"}"#;
    let error = ToAgent::decode(&RawFrame::Text(secret.into())).expect_err("truncated").to_string();
    assert!(!error.contains("hunter2"), "{error}");
    let unknown = RawFrame::Text(r#"{"type":"dance"}"#.into());
    assert!(AgentFrame::decode(&unknown).is_err());
    let large = RawFrame::Binary(vec![1; MAX_FRAME + 1].into());
    assert!(AgentFrame::decode(&large).is_err());
    let deep = RawFrame::Text("[".repeat(100_000));
    assert!(AgentFrame::decode(&deep).is_err());
}

#[test]
fn a_credential_is_never_shown() {
    for message in to_agent() {
        assert!(!format!("{message:?}").contains("not printed"), "{message:?}");
    }
}

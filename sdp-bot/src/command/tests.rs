//! What people really type.

use insta::assert_snapshot;
use proptest::prelude::*;

use super::*;

fn canonical(text: &str) -> String {
    match parse(text) {
        Ok(command) => command.to_string(),
        Err(mistake) => {
            format!("{}: {} [{}]", mistake.code, mistake.problem, mistake.hint.unwrap_or_default())
        }
    }
}

#[test]
fn people_type_the_same_thing_in_many_ways() {
    for (typed, meant) in [
        ("/sdp deploy hello main", "deploy hello main"),
        ("deploy hello", "deploy hello"),
        ("  Deploy   Hello\tmain ", "deploy hello main"),
        ("@sdp: deploy hello main", "deploy hello main"),
        ("/sdp /sdp deploy hello", "deploy hello"),
        ("deploy payments@feature/a", "deploy payments feature/a"),
        ("deploy payments@feature/a qa-42", "deploy payments feature/a to qa-42"),
        ("deploy payments feature/a to qa-42", "deploy payments feature/a to qa-42"),
        ("deploy payments feature/a in qa-42", "deploy payments feature/a to qa-42"),
        ("deploy payments feature/a ON qa-42", "deploy payments feature/a to qa-42"),
        ("deploy payments feature/a qa-42", "deploy payments feature/a to qa-42"),
        ("deploy payments to qa-42", "deploy payments to qa-42"),
        ("deploy to main", "deploy to main"),
        ("deploy `payments` `feature/a`", "deploy payments feature/a"),
        ("`/sdp deploy payments feature/a`", "deploy payments feature/a"),
        (
            "deploy payments DEBUG=1 feature/a LEVEL=\"very high\"",
            "deploy payments feature/a DEBUG=1 LEVEL=\"very high\"",
        ),
        ("deploy payments main GREETING=“hi there”", "deploy payments main GREETING=\"hi there\""),
        ("deploy payments feature/x=y", "deploy payments feature/x=y"),
        ("deploy payments refs/heads/to", "deploy payments refs/heads/to"),
        ("deploy payments \"to\"", "deploy payments to"),
        ("deploy payments feature/ünï-ØÅ", "deploy payments feature/ünï-ØÅ"),
        (
            "deploy payments <https://bitbucket.org/team/payments/branch/feature/a|feature/a>",
            "deploy payments feature/a",
        ),
        (
            "deploy <https://bitbucket.org/team/payments/src/feature%2Fa/|x> qa",
            "deploy https://bitbucket.org/team/payments feature/a to qa",
        ),
        (
            "deploy https://github.com/Team/payments/tree/feature/a",
            "deploy https://github.com/team/payments feature/a",
        ),
        ("deploy https://github.com/team/payments.git main", "deploy https://github.com/team/payments main"),
        (
            "deploy https://gitlab.example.com/a/b/c/-/tree/main",
            "deploy https://gitlab.example.com/a/b/c main",
        ),
        (
            "deploy https://git.example.com:7990/projects/P/repos/pay/browse?at=refs%2Fheads%2Ffeature%2Fa",
            "deploy https://git.example.com:7990/p/pay feature/a",
        ),
        ("status", "status"),
        ("status #412", "status 412"),
        ("status 412", "status 412"),
        ("status of qa-42", "status qa-42"),
        ("list", "list mine"),
        ("ls all", "list all"),
        ("who payments", "who payments"),
        ("where payments", "where payments"),
        ("open payments qa-42", "open payments in qa-42"),
        ("logs 412", "logs 412"),
        ("log #412 50", "logs 412 50"),
        ("logs payments in qa 50", "logs payments in qa 50"),
        ("cancel 412", "cancel 412"),
        ("abort payments", "cancel payments"),
        ("stop payments in qa-42", "stop payments in qa-42"),
        ("rollback payments", "rollback payments"),
        ("sandbox qa-42", "sandbox show qa-42"),
        ("sandbox show", "sandbox show"),
        ("sandbox", "list all"),
        ("sandboxes", "list all"),
        ("sandboxes mine", "list mine"),
        ("sandbox create qa-42", "sandbox create qa-42"),
        ("sandbox new QA-42 from template shop", "sandbox create qa-42 from template shop"),
        ("sandbox create qa-42 for 3d from bob", "sandbox create qa-42 from bob for 3d"),
        (
            "sandbox create qa-42 —ttl 48h —from bob —env staging",
            "sandbox create qa-42 from bob in staging for 2d",
        ),
        ("sandbox extend", "sandbox extend"),
        ("sandbox extend 2d", "sandbox extend for 2d"),
        ("sandbox extend qa-42", "sandbox extend qa-42"),
        ("sandbox extend qa-42 by 7d", "sandbox extend qa-42 by 1w"),
        ("sandbox extend qa-42 for 36h", "sandbox extend qa-42 for 36h"),
        ("sandbox pin qa-42", "sandbox pin qa-42"),
        ("sandbox unpin", "sandbox unpin"),
        ("sandbox share qa-42", "sandbox share qa-42"),
        ("share qa-42", "sandbox share qa-42"),
        ("routes", "routes"),
        ("routes qa-42", "routes qa-42"),
        ("routes of qa-42", "routes qa-42"),
        ("route payments in qa-42 to baseline", "route payments in qa-42 to baseline"),
        ("route payments of qa-42 to Bob", "route payments in qa-42 to bob"),
        ("route payments to 10.20.3.4:8080", "route payments to 10.20.3.4:8080"),
        ("route payments to <http://10.20.3.4:8080/|10.20.3.4:8080>", "route payments to 10.20.3.4:8080"),
        ("route payments [::1]:80", "route payments to [::1]:80"),
        ("route payments reset", "route payments to reset"),
        ("routes explain /payments/x?y in qa-42", "routes explain /payments/x?y in qa-42"),
        ("routes explain <https://api.shop.test/x|api>", "routes explain https://api.shop.test/x"),
        ("vars payments", "vars payments"),
        ("vars payments in qa-42", "vars payments in qa-42"),
        ("templates", "templates"),
        ("env", "environments"),
        ("lock payments in qa-42 because I test", "lock payments in qa-42 because \"I test\""),
        ("lock staging for 2h because release", "lock staging for 2h because release"),
        ("lock qa-42 for the release", "lock qa-42 because \"for the release\""),
        ("freeze staging — end of quarter", "freeze staging because \"end of quarter\""),
        ("steal payments in qa-42", "steal payments in qa-42"),
        ("steal qa-42 because fire", "steal qa-42 because fire"),
        ("unlock payments in qa-42", "unlock payments in qa-42"),
        ("unfreeze staging", "unlock staging"),
        ("locks", "locks"),
        ("deploy payments=feature/a", "deploy payments feature/a"),
        ("deploy payments=feature/a qa-42", "deploy payments feature/a to qa-42"),
        (
            "deploy Payments=feature/a ledger=feature/b to qa-42",
            "deploy payments=feature/a ledger=feature/b to qa-42",
        ),
        ("deploy a@x b@y qa", "deploy a=x b=y to qa"),
        ("deploy a=x b=y DEBUG=1", "deploy a=x b=y DEBUG=1"),
        ("deploy a=<https://bitbucket.org/team/a/branch/feature/x|x> b=y", "deploy a=feature/x b=y"),
        ("deploy template shop", "deploy template shop"),
        ("deploy template shop to qa-42", "deploy template shop to qa-42"),
        ("deploy template shop ledger=feature/b qa-42", "deploy template shop ledger=feature/b to qa-42"),
        ("deploy \"template\" main", "deploy \"template\" main"),
        ("cancel 412 #413", "cancel 412 413"),
        ("sandbox delete qa-42", "sandbox delete qa-42"),
        ("branches payments", "branches payments"),
        ("branches payments ref", "branches payments ref"),
        ("agents", "agents"),
        ("agents drain VM-1", "agents drain vm-1"),
        ("agent resume vm-1", "agents resume vm-1"),
        ("whoami", "whoami"),
        ("/sdp login", "login"),
        ("Log-in", "login"),
        ("logout", "logout"),
        ("", "help"),
        ("/sdp", "help"),
        ("help", "help"),
        ("help all", "help all"),
        ("help deploy", "help deploy"),
        ("? log", "help logs"),
    ] {
        // “deploy to main”: a service named `to` is unlikely, but it is what was typed.
        assert_eq!(canonical(typed), meant, "{typed:?}");
    }
}

#[test]
fn what_is_not_understood_says_what_was_probably_meant() {
    let typed = [
        "deplyo hello",
        "frobnicate",
        "deploy",
        "deploy Not_A_Service",
        "deploy hello -h",
        "deploy hello a..b",
        "deploy hello main to",
        "deploy hello main to qa-1 qa-2",
        "deploy hello main qa extra",
        "deploy hello main —ttl 2d",
        "deploy hello main --plan",
        "deploy hello main --frob=1",
        "deploy a=feature/x b=feature/y to qa",
        "deploy hello main PATH=/x",
        "deploy hello main A=1 A=2",
        "deploy https://bitbucket.org/team/payments/pull-requests/42",
        "deploy https://example.com",
        "deploy hello \"main",
        "logs hello 5000",
        "logs",
        "stop 412 in qa",
        "status a b",
        "services now",
        "deploy a=x b",
        "deploy a=x b c=y",
        "deploy a=x a=y",
        "deploy template shop DEBUG=1",
        "deploy template",
        "sandbox create",
        "sandbox create qa for ever",
        "sandbox create qa quickly",
        "sandbox extend qa for 20000h",
        "sandbox delete",
        "sandbox crate qa-42",
        "route payments",
        "route payments to localhost:80",
        "routes explain",
        "vars 412",
        "lock",
        "lock payments in qa-42",
        "lock payments in qa-42 for 2h",
        "freeze",
        "unlock",
        "unlock qa-42 please",
        "agents drain",
        "agents drain vm_1",
        "help deplyo",
        "deploy hello \u{1b}[31mevil\u{202e}",
    ];
    let said: Vec<String> = typed.iter().map(|text| format!("{text:?}\n    {}", canonical(text))).collect();
    assert_snapshot!(said.join("\n"), @r#"
    "deplyo hello"
        unknown_command: I do not know “deplyo”. Did you mean deploy? [help]
    "frobnicate"
        unknown_command: I do not know “frobnicate”. [help]
    "deploy"
        incomplete_command: Which service? [help deploy]
    "deploy Not_A_Service"
        invalid_name: “Not_A_Service” cannot be the name of a service. [expected: lower-case letters, digits and hyphens, beginning with a letter, at most 40]
    "deploy hello -h"
        invalid_branch: “-h” is no valid branch, tag or commit. [expected: letters, digits and / . _ - + # @, at most 250 bytes, as `git branch` allows]
    "deploy hello a..b"
        invalid_branch: “a..b” is no valid branch, tag or commit. [expected: letters, digits and / . _ - + # @, at most 250 bytes, as `git branch` allows]
    "deploy hello main to"
        incomplete_command: Which sandbox? After “to” comes its name. [help deploy]
    "deploy hello main to qa-1 qa-2"
        incomplete_command: To qa-1 or to “qa-2”? One sandbox at a time. [help deploy]
    "deploy hello main qa extra"
        incomplete_command: I do not know what “extra” is for. [help deploy]
    "deploy hello main —ttl 2d"
        incomplete_command: A deploy renews its sandbox for as long as that lives. [leave --ttl away; sandbox create qa-42 for 2d, sandbox extend qa-42 for 2d]
    "deploy hello main --plan"
        not_yet: A plan cannot be shown yet. [leave --plan away]
    "deploy hello main --frob=1"
        incomplete_command: I do not know “--frob”. [help deploy]
    "deploy a=feature/x b=feature/y to qa"
        deploy a=feature/x b=feature/y to qa
    "deploy hello main PATH=/x"
        invalid_variable: “PATH” cannot be set. [expected: upper-case letters, digits and _, beginning with a letter; not PATH, PORT, HOME, LD_*, DYLD_*, GIT_*, DOCKER_*, SDP_*]
    "deploy hello main A=1 A=2"
        incomplete_command: A is there twice. [help deploy]
    "deploy https://bitbucket.org/team/payments/pull-requests/42"
        pull_request_address: I cannot see which branch a pull request is of. [type its branch: deploy payments feature/refund]
    "deploy https://example.com"
        unknown_address: That address does not name a branch in a way I know. [type the service and the branch: deploy payments feature/refund]
    "deploy hello \"main"
        unfinished_quote: A quotation mark is never closed. [put a " at the end of the text, or leave both away]
    "logs hello 5000"
        incomplete_command: I show 1 to 200 lines. [help logs]
    "logs"
        incomplete_command: Which service, or which number? [help logs]
    "stop 412 in qa"
        incomplete_command: A number names one deployment; it needs no sandbox. [help stop]
    "status a b"
        incomplete_command: Say one sandbox or one number. [help status]
    "services now"
        incomplete_command: services takes no “now”. [help services]
    "deploy a=x b"
        deploy a x to b
    "deploy a=x b c=y"
        incomplete_command: Which branch of “b”? [deploy payments=feature/a ledger=feature/b to qa-42]
    "deploy a=x a=y"
        incomplete_command: a is there twice. [help deploy]
    "deploy template shop DEBUG=1"
        incomplete_command: Variables of a template stand in the template. [leave them away, or name the services: deploy payments=feature/a KEY=value]
    "deploy template"
        incomplete_command: Which template? [templates lists those there are]
    "sandbox create"
        incomplete_command: What shall it be called? [sandbox create qa-42 for 3d]
    "sandbox create qa for ever"
        invalid_lifetime: “ever” is no lifetime. [say 3h, 2d or 1w; at most a year]
    "sandbox create qa quickly"
        incomplete_command: I do not know what “quickly” is for. [sandbox create qa-42 [from template shop | from bob] [in staging] [for 3d]]
    "sandbox extend qa for 20000h"
        invalid_lifetime: “20000h” is no lifetime. [say 3h, 2d or 1w; at most a year]
    "sandbox delete"
        incomplete_command: Delete which sandbox? One at a time. [help sandbox]
    "sandbox crate qa-42"
        incomplete_command: I do not know sandbox “crate”. Did you mean sandbox create? [help sandbox]
    "route payments"
        incomplete_command: Where shall they go? [route payments [in qa-42] to baseline | <sandbox> | <host:port> | reset]
    "route payments to localhost:80"
        invalid_target: “localhost:80” is no address with a port. [say it in numbers, with its port: 10.20.3.4:8080]
    "routes explain"
        incomplete_command: Explain which address or path? [routes explain /payments/refunds in qa-42]
    "vars 412"
        incomplete_command: Say which service, not which deployment. [help vars]
    "lock"
        incomplete_command: Lock what? [lock payments in qa-42 for 2h because <reason>]
    "lock payments in qa-42"
        incomplete_command: Why? Others are told. [lock payments in qa-42 for 2h because <reason>]
    "lock payments in qa-42 for 2h"
        incomplete_command: Why? Others are told. [lock payments in qa-42 for 2h because <reason>]
    "freeze"
        incomplete_command: Freeze what? [freeze payments in qa-42 for 2h because <reason>]
    "unlock"
        incomplete_command: Unlock what? [unlock payments in qa-42, unlock qa-42]
    "unlock qa-42 please"
        incomplete_command: I do not know what “please” is for. [unlock payments in qa-42, unlock qa-42]
    "agents drain"
        incomplete_command: I know agents, agents drain <name> and agents resume <name>. [help agents]
    "agents drain vm_1"
        invalid_name: “vm_1” cannot be the name of a VM. [expected: lower-case letters, digits and hyphens, beginning with a letter, at most 40]
    "help deplyo"
        unknown_command: I do not know “deplyo”. Did you mean deploy? [help]
    "deploy hello \u{1b}[31mevil\u{202e}"
        invalid_branch: “evil” is no valid branch, tag or commit. [expected: letters, digits and / . _ - + # @, at most 250 bytes, as `git branch` allows]
    "#);
}

#[test]
fn a_secret_is_refused_and_never_repeated() {
    for typed in [
        "deploy hello main API_TOKEN=hunter2hunter2",
        "deploy hello main DB_PASSWORD=hunter2hunter2",
        "deploy hello main STRIPE_KEY=hunter2hunter2",
        "deploy hello main KEY=\"hunter2 hunter2\"",
        "deploy hello ghp_hunter2hunter2hunter2hunter2",
        "deploy https://alice:hunter2hunter2@bitbucket.org/team/x main",
        "deploy hello main URL=postgres://u:hunter2hunter2@db/x",
        "xoxb-hunter2hunter2hunter2",
        "deploy hello main LEVEL=sdp_hunter2hunter2hunter2",
        "login hunter2",
        "/sdp log-in alice hunter2",
    ] {
        let mistake = parse(typed).unwrap_err();
        assert_eq!(mistake.code, "secret_in_chat", "{typed}");
        assert!(!format!("{mistake:?}").contains("hunter2"), "{typed}");
    }
    for fine in
        ["deploy hello sdp_rework", "deploy hello feature/token-refresh", "deploy hello main KEYBOARD=qwerty"]
    {
        assert!(parse(fine).is_ok(), "{fine}: {:?}", parse(fine));
    }
}

#[test]
fn a_command_that_is_too_long_is_refused() {
    assert_eq!(parse(&"x ".repeat(MAX_TEXT)).unwrap_err().code, "too_long");
}

#[test]
fn a_repository_is_the_same_by_its_page_and_by_its_clone_address() {
    for (clone, page) in [
        ("https://bitbucket.org/team/payments.git", "https://bitbucket.org/team/payments/branch/x"),
        ("https://github.com/Team/Payments", "https://github.com/team/payments/tree/x"),
        ("https://git.example.com/scm/p/pay.git", "https://git.example.com/projects/P/repos/pay/browse?at=x"),
    ] {
        let repo = RepoAddress::of(&clone.parse().unwrap());
        let Ok(Command::Deploy(Deploy { service: Wanted::Repo(address), .. })) =
            parse(&format!("deploy {page}"))
        else {
            panic!("{page}")
        };
        assert_eq!(repo, address, "{page}");
    }
}

fn name() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9-]{0,8}[a-z0-9]".prop_filter("a word of the grammar", |name| {
        ![
            "to", "in", "on", "of", "for", "into", "from", "all", "mine", "show", "sdp", "at", "as", "by",
            "template",
        ]
        .contains(&name.as_str())
            && !looks_like_a_secret(name)
    })
}

fn target() -> impl Strategy<Value = Target> {
    prop_oneof![
        (0..100_000_u64)
            .prop_map(|n| Target::Deployment(DeploymentRef::Number(sdp_core::id::DeploymentNumber(n)))),
        (name(), proptest::option::of(name())).prop_map(|(service, sandbox)| Target::Service {
            service: service.parse().unwrap(),
            sandbox: sandbox.map(|name| name.parse().unwrap()),
        }),
    ]
}

fn lifetime() -> impl Strategy<Value = Option<Lifetime>> {
    proptest::option::of((1..=MAX_HOURS).prop_map(|hours| Lifetime::hours(hours).unwrap()))
}

fn any_command() -> impl Strategy<Value = Command> {
    let deploy = (
        name(),
        proptest::option::of(
            "[a-zA-Z0-9ü/._+#@=,!()$&';%-]{1,20}".prop_filter_map("a ref", |text| GitRef::parse(text).ok()),
        ),
        proptest::option::of(name()),
        proptest::collection::btree_map("[A-Z][A-Z0-9_]{0,6}", "[^\\p{C}]{0,20}", 0..3),
    );
    let deploy = deploy.prop_filter_map("variables that may be set", |(service, git_ref, sandbox, env)| {
        // A branch that is a word of the grammar, or looks like a variable, has to be spelt out.
        let plain = git_ref.as_ref().is_none_or(|git_ref: &GitRef| {
            let text = git_ref.as_str();
            !["to", "in", "on", "into"].contains(&text.to_lowercase().as_str())
                && !text
                    .split_once('=')
                    .is_some_and(|(name, _)| name.starts_with(|c: char| c.is_ascii_uppercase()))
        });
        let env: Option<BTreeMap<EnvName, String>> = env
            .into_iter()
            .map(|(name, value)| {
                let fine = !secrets::is_secret_name(&name) && !looks_like_a_secret(&value);
                EnvName::parse(name).ok().filter(|_| fine).map(|name| (name, value))
            })
            .collect();
        let service = Wanted::Service(service.parse().ok()?);
        let sandbox = sandbox.map(|name| name.parse().unwrap());
        plain.then_some(())?;
        Some(Command::Deploy(Deploy { service, git_ref, sandbox, env: env? }))
    });
    prop_oneof![
        deploy,
        target().prop_map(|on| Command::Act { verb: Verb::Rollback, on }),
        (name(), lifetime(), proptest::option::of("[^\\p{C}\\s]([^\\p{C}]{0,12}[^\\p{C}\\s])?"))
            .prop_filter_map("no secret", |(place, lifetime, reason)| {
                let of = LockOf { service: None, place: place.parse().unwrap() };
                reason.as_ref().is_none_or(|reason| !looks_like_a_secret(reason)).then_some(())?;
                Some(Command::Lock(Lock { verb: LockVerb::Steal, of, lifetime, reason }))
            }),
        (name(), name(), lifetime()).prop_map(|(name, other, lifetime)| Command::SandboxCreate(
            CreateSandbox {
                name: name.parse().unwrap(),
                from: Some(MadeFrom::Sandbox(other.parse().unwrap())),
                environment: Some(other.parse().unwrap()),
                lifetime,
            }
        )),
        (proptest::option::of(name()), lifetime()).prop_map(|(name, lifetime)| Command::SandboxExtend {
            name: name.map(|name| name.parse().unwrap()),
            longer: lifetime.map_or(Longer::Renewed, Longer::By),
        }),
        (proptest::option::of(name()), proptest::collection::btree_map(name(), name(), 1..4), name())
            .prop_map(|(template, services, sandbox)| {
                let template: Option<sdp_core::name::TemplateName> =
                    template.map(|name| name.parse().unwrap());
                let mut services: Vec<(ServiceName, GitRef)> = services
                    .into_iter()
                    .map(|(name, git_ref)| (name.parse().unwrap(), GitRef::parse(git_ref).unwrap()))
                    .collect();
                let sandbox = Some(sandbox.parse().unwrap());
                let env = BTreeMap::new();
                if template.is_none() && services.len() == 1 {
                    let (service, git_ref) = services.remove(0);
                    let service = Wanted::Service(service);
                    return Command::Deploy(Deploy { service, git_ref: Some(git_ref), sandbox, env });
                }
                Command::DeployTogether(Together { template, services, sandbox, env })
            }),
        (target(), proptest::option::of(1..=200_u32)).prop_map(|(of, lines)| Command::Logs { of, lines }),
        name().prop_map(|name| Command::Status(Some(StatusOf::Sandbox(name.parse().unwrap())))),
        (name(), proptest::option::of("[^\\p{C}]{1,12}"))
            .prop_filter("no secret", |(_, text)| text.as_ref().is_none_or(|text| !looks_like_a_secret(text)))
            .prop_map(|(service, text)| Command::Branches { service: service.parse().unwrap(), text }),
    ]
}

proptest! {
    #[test]
    fn nothing_that_is_typed_makes_it_panic(text in any::<String>()) {
        let _either = parse(&text);
    }

    #[test]
    fn no_words_of_the_grammar_make_it_panic(words in proptest::collection::vec(
        prop_oneof![
            proptest::sample::select(VERBS.to_vec()).prop_map(str::to_owned),
            proptest::sample::select(vec!["to", "in", "all", "show", "--", "—", "#", "@", "=", "<", ">", "|", "\"", "`", "412", "A=", "https://", "https://x/", "-"]).prop_map(str::to_owned),
            "[a-zé@=#/%<>|\"` -]{0,6}",
        ], 0..8)) {
        let _either = parse(&words.join(" "));
    }

    #[test]
    fn a_command_is_read_as_it_is_written(command in any_command()) {
        prop_assert_eq!(parse(&command.to_string()), Ok(command.clone()), "{}", command);
    }
}

use std::error::Error;
use std::fmt::Write as _;

use super::*;

fn no_env(_: &str) -> Option<OsString> {
    None
}

/// Loads a file of that text, checks all of it, and says what `--check-config` would say.
fn verdict(text: &str, env: Environment<'_>) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.toml");
    std::fs::write(&path, text.replace("$DIR", folder.path().to_str().unwrap())).unwrap();
    for (name, mode) in [("token", 0o600), ("open-token", 0o644), ("empty-token", 0o600)] {
        let token = folder.path().join(name);
        std::fs::write(&token, if name == "empty-token" { "\n" } else { "sdpa_hunter2\n" }).unwrap();
        std::fs::set_permissions(&token, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let result = ConfigFile::load(Some(&path), env).and_then(|file| Ok((file.config()?, file.connector()?)));
    let said = match result {
        Ok((config, connector)) => {
            assert!(!format!("{connector:?}").contains("hunter2"));
            format!("ok: {config:?}")
        }
        Err(error) => {
            let mut said = error.to_string();
            let mut source = error.source();
            while let Some(error) = source {
                write!(said, ": {error}").unwrap();
                source = error.source();
            }
            said
        }
    };
    said.replace(folder.path().to_str().unwrap(), "$DIR")
}

const GOOD: &str = r#"
server = "https://sdp.example.com"
token_file = "$DIR/token"
data_dir = "/var/lib/sdp-agent"
"#;

#[test]
fn the_shortest_configuration_is_enough() {
    let said = verdict(GOOD, &no_env);
    assert!(said.starts_with("ok: Config { data_dir: \"/var/lib/sdp-agent\""), "{said}");
}

#[test]
fn every_section_is_understood() {
    let text = GOOD.to_owned()
        + r#"
labels = ["go", "vm-3"]
capacity = 3
min_free_mib = 100
[runtime]
kind = "process"
ports = "20000-20099"
advertise = "10.0.0.7"
stop_grace_seconds = 3
expiry_grace_seconds = 900
[build]
keep = 5
path = "/usr/bin:/bin"
env = { GOPROXY = "off" }
[git]
origins = ["https://git.example.com"]
[spool]
per_deployment_mib = 64
total_mib = 1024
[router]
kind = "builtin"
listen = "127.0.0.1:8081"
base_url = "http://127.0.0.1:8081"
"#;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.toml");
    std::fs::write(&path, text).unwrap();
    let config = ConfigFile::load(Some(&path), &no_env).unwrap().config().unwrap();
    assert_eq!(config.labels.iter().map(Label::as_str).collect::<Vec<_>>(), ["go", "vm-3"]);
    assert_eq!((config.capacity, config.min_free, config.build.keep), (3, 100 << 20, 5));
    assert_eq!((config.runtime.ports, config.runtime.stop_grace.as_secs()), (20_000..=20_099, 3));
    assert_eq!(config.runtime.expiry_grace.as_secs(), 900);
    assert_eq!(config.runtime.advertise, IpAddr::from([10, 0, 0, 7]));
    assert_eq!(config.git.origins[0].as_str(), "https://git.example.com/");
    assert_eq!(config.build.env["GOPROXY"], "off");
    assert_eq!(config.spool, SpoolLimits { per_deployment: 64 << 20, total: 1 << 30 });
    assert_eq!(config.router.unwrap().listen.port(), 8081);
}

#[test]
fn builds_are_told_of_toolchains_mirrors_and_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let composer = folder.path().join("composer.json");
    std::fs::write(&composer, r#"{"config": {"bearer": {"mirror.example": "hunter2-hunter2"}}}"#).unwrap();
    let text = GOOD.to_owned()
        + &r#"
labels = ["vm-3"]
[build]
path = "/usr/bin"
env = { GOPROXY = "https://me:hunter3-hunter3@mirror.example/go", http_proxy = "http://other:1" }
composer_config = "$COMPOSER"
[[toolchain]]
label = "go-1.23"
path = "/opt/go1.23/bin"
env = { GOAMD64 = "v2" }
[[toolchain]]
label = "go-1.22"
path = "/opt/go1.22/bin"
env = { GOAMD64 = "v1", GOEXPERIMENT = "x" }
[network]
proxy = "http://proxy:3128"
no_proxy = ".corp.example, 10.0.0.0/8"
"#
        .replace("$COMPOSER", composer.to_str().unwrap());
    let path = folder.path().join("agent.toml");
    std::fs::write(&path, text).unwrap();
    let config = ConfigFile::load(Some(&path), &no_env).unwrap().config().unwrap();
    assert_eq!(config.labels.iter().map(Label::as_str).collect::<Vec<_>>(), ["go-1.22", "go-1.23", "vm-3"]);
    assert_eq!(config.git.proxy.as_ref().unwrap().as_str(), "http://proxy:3128/");
    assert_eq!(config.git.no_proxy, [".corp.example,10.0.0.0/8"]);
    let shown = format!("{config:?}");
    assert!(!shown.contains("hunter"), "{shown}");
    let secrets: Vec<_> = config.build.secrets().iter().map(|secret| secret.expose().to_owned()).collect();
    assert_eq!(secrets, ["hunter3-hunter3", "hunter2-hunter2"]);
    let labels: BTreeSet<Label> =
        ["go-1.22", "go-1.23", "x"].map(|label| Label::parse(label).unwrap()).into();
    let variables = config.build.variables(&labels, Some(Path::new("/w/ca.pem")));
    let variables: Vec<_> = variables.iter().map(|(name, value)| format!("{name}={value}")).collect();
    insta::assert_snapshot!(variables.join("\n"), @r"
    COMPOSER_CAFILE=/w/ca.pem
    CURL_CA_BUNDLE=/w/ca.pem
    GIT_SSL_CAINFO=/w/ca.pem
    GOAMD64=v2
    GOEXPERIMENT=x
    GOPROXY=https://me:hunter3-hunter3@mirror.example/go
    HTTPS_PROXY=http://proxy:3128
    HTTP_PROXY=http://proxy:3128
    NODE_EXTRA_CA_CERTS=/w/ca.pem
    NO_PROXY=.corp.example,10.0.0.0/8
    PATH=/opt/go1.23/bin:/opt/go1.22/bin:/usr/bin
    REQUESTS_CA_BUNDLE=/w/ca.pem
    SSL_CERT_FILE=/w/ca.pem
    http_proxy=http://other:1
    https_proxy=http://proxy:3128
    no_proxy=.corp.example,10.0.0.0/8
    ");
    let plain = config.build.variables(&BTreeSet::new(), None);
    assert_eq!((plain["PATH"].as_str(), plain.contains_key("GOAMD64")), ("/usr/bin", false));
}

#[test]
fn the_environment_overrides_the_file() {
    let env = |name: &str| {
        let value = match name {
            "SDP_AGENT_SERVER" => "http://127.0.0.1:8080",
            "SDP_AGENT_TOKEN" => "sdpa_other",
            "SDP_AGENT_DATA_DIR" => "/srv/agent",
            "SDP_AGENT_LABELS" => "a, b",
            "SDP_AGENT_CAPACITY" => "7",
            _ => return None,
        };
        Some(OsString::from(value))
    };
    let file = ConfigFile::load(None, &env).unwrap();
    let config = file.config().unwrap();
    assert_eq!((config.data_dir.to_str(), config.capacity, config.labels.len()), (Some("/srv/agent"), 7, 2));
    assert!(file.connector().is_ok());
}

#[test]
fn each_problem_is_named() {
    let changed = |from: &str, to: &str| verdict(&GOOD.replace(from, to), &no_env);
    let with = |more: &str| verdict(&format!("{GOOD}{more}"), &no_env);
    let said = [
        changed("server =", "sever ="),
        changed("token_file = \"$DIR/token\"", "token = \"hunter2\""),
        changed("https://sdp.example.com", "http://sdp.example.com"),
        changed("https://sdp.example.com", "https://me:pw@sdp.example.com"),
        changed("$DIR/token", "$DIR/open-token"),
        changed("$DIR/token", "$DIR/empty-token"),
        changed("$DIR/token", "$DIR/nowhere"),
        changed("token_file", "ca_file"),
        changed("/var/lib/sdp-agent", "data"),
        with("capacity = 0"),
        with("labels = [\"a b\"]"),
        with("[docker]\npids = 100"),
        with("[runtime]\nports = \"80-90\""),
        with("[runtime]\nadvertise = \"0.0.0.0\""),
        with("[build]\npath = \"bin\""),
        with("[build]\nenv = { PATH = \"/bin\" }"),
        with("[build]\ncomposer_config = \"$DIR/token\""),
        with("[[toolchain]]\nlabel = \"go\"\npath = \"go/bin\""),
        with("[[toolchain]]\nlabel = \"go\"\npath = \"/go\"\n[[toolchain]]\nlabel = \"go\"\npath = \"/go\""),
        with("[network]\nproxy = \"socks5://me:hunter2@proxy\""),
        with("[network]\nca_file = \"$DIR/token\""),
        with("[spool]\ntotal_mib = 1"),
        with("[git]\norigins = [\"https://git.example.com/team\"]"),
        with("[router]\nkind = \"builtin\"\nlisten = \"0.0.0.0:80\""),
    ];
    insta::assert_snapshot!(said.join("\n--\n"), @r#"
$DIR/agent.toml: line 2: unknown field `sever`, expected one of `server`, `token_file`, `ca_file`, `insecure_http`, `data_dir`, `labels`, `capacity`, `min_free_mib`, `disk`, `git`, `runtime`, `docker`, `build`, `toolchain`, `network`, `spool`, `secrets`, `router`
--
$DIR/agent.toml: line 3: unknown field `token`, expected one of `server`, `token_file`, `ca_file`, `insecure_http`, `data_dir`, `labels`, `capacity`, `min_free_mib`, `disk`, `git`, `runtime`, `docker`, `build`, `toolchain`, `network`, `spool`, `secrets`, `router`
--
server: http would send the token in the clear; use https, or set insecure_http = true
--
the link to the server cannot be used: the server's address must be like https://sdp.example.com, without user, password, ? or #
--
token_file: $DIR/open-token can be read by others (mode 0644): chmod 600 it
--
token_file: $DIR/empty-token is empty
--
failed to read $DIR/nowhere: No such file or directory (os error 2)
--
token_file is missing: a file with the agent's token, readable by its owner alone (or SDP_AGENT_TOKEN)
--
data_dir: data is not an absolute path
--
capacity: 1 to 256
--
$DIR/agent.toml: line 5: invalid label: letters, digits and . _ - =, at most 63
--
docker: only with kind = "docker" in [runtime]
--
$DIR/agent.toml: line 6: expected a range of ports above 1023 such as "20000-29999"
--
runtime.advertise: an address at which routers reach this machine
--
build.path: absolute folders with : between them
--
build.env: PATH is set with build.path
--
build.composer_config: $DIR/token is not JSON (line 1, column 1)
--
toolchain.path: absolute folders with : between them
--
toolchain.label: go is there twice
--
network.proxy: only http://host:port and https://host:port are understood
--
network.ca_file: $DIR/token: it holds no certificate
--
spool.total_mib: less than spool.per_deployment_mib
--
git.origins: https://git.example.com is not of the form https://host or https://host:port
--
router.base_url: needed when the router listens on all addresses
"#);
}

#[test]
fn the_password_of_a_git_host_is_read_and_is_nobody_elses_to_read() {
    let host = |file: &str| {
        format!(
            "{GOOD}[git]\norigins = [\"https://git.example.com\"]\n[[git.host]]\norigin = \"https://git.example.com\"\n\
             kind = \"bitbucket_dc\"\nusername = \"sdp\"\npassword_file = \"$DIR/{file}\"\n"
        )
    };
    let good = verdict(&host("token"), &no_env);
    assert!(good.starts_with("ok") && good.contains("kind: BitbucketDc"), "{good}");
    assert!(good.contains("password: Some(Secret(…))") && !good.contains("hunter2"), "{good}");
    assert!(good.contains("secret_files: [\"$DIR/token\", \"$DIR/token\"]"), "{good}");
    let bad = ["open-token", "empty-token", "absent"].map(|file| verdict(&host(file), &no_env));
    insta::assert_snapshot!(bad.join("\n"), @r"
    git.host.password_file: $DIR/open-token can be read by others (mode 0644): chmod 600 it
    git.host.password_file: $DIR/empty-token is empty
    failed to read $DIR/absent: No such file or directory (os error 2)
    ");
}

#[test]
fn systemd_may_give_the_token_to_a_list_of_users() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.token");
    std::fs::write(&path, "sdpa_hunter2\n").unwrap();
    let said = |mode, credentials: Option<&Path>| {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        read_secret("token_file", &path, credentials)
            .map(|token| token.expose().to_owned())
            .map_err(|error| error.to_string())
    };
    assert_eq!(said(0o440, Some(folder.path())).as_deref(), Ok("sdpa_hunter2"));
    assert!(said(0o440, None).unwrap_err().contains("mode 0440"));
    assert!(said(0o440, Some(Path::new("/run/credentials"))).unwrap_err().contains("mode 0440"));
    assert!(said(0o444, Some(folder.path())).unwrap_err().contains("mode 0444"));
    assert!(said(0o460, Some(folder.path())).unwrap_err().contains("mode 0460"));
}

#[test]
fn the_example_for_a_machine_with_docker_is_understood() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(at("composer.json"), "{}").unwrap();
    let authority = rcgen::generate_simple_self_signed(["corp.example".to_owned()]).unwrap();
    std::fs::write(at("company.pem"), authority.cert.pem()).unwrap();
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/config/agent-docker.toml");
    let example = std::fs::read_to_string(example).unwrap();
    let read = |text: &str, env: Environment<'_>| {
        let text = text
            .replace("/etc/sdp/composer.json", &at("composer.json"))
            .replace("/etc/ssl/company.pem", &at("company.pem"));
        std::fs::write(at("agent.toml"), text).unwrap();
        ConfigFile::load(Some(at("agent.toml").as_ref()), env)?.config()
    };
    // The name is one of the machine that it is for.
    let numbered = example.replace("user = \"sdp-build\"", "user = \"64100:64101\"");
    assert_ne!(numbered, example);
    let user = Some(User { uid: 64100, gid: 64101 });
    let as_it_is = read(&numbered, &no_env).unwrap();
    assert_eq!((as_it_is.docker, as_it_is.build.user), (Some(DockerConfig::default()), user));
    // In compose.yaml the number comes from outside.
    let env = |name: &str| (name == "SDP_AGENT_BUILD_USER").then(|| "64100:64101".into());
    assert_eq!(read(&example, &env).unwrap().build.user, user);
    // What it only shows is right, too: a line with # and no space is a setting.
    let uncommented: Vec<_> = numbered
        .lines()
        .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line))
        .collect();
    let all = read(&uncommented.join("\n"), &no_env).unwrap();
    assert_eq!(all.docker, Some(DockerConfig::default()));
    assert_eq!((all.build.toolchains.len(), all.build.user), (2, user));
    assert!(all.build.network.proxy.is_some() && all.router.is_some());
    assert_eq!(all.secret_files, ["/etc/sdp/agent.token".into(), PathBuf::from(at("composer.json"))]);
}

#[test]
fn an_agent_that_uses_docker_never_runs_services_as_root() {
    let with = |more: &str| verdict(&format!("{GOOD}[runtime]\nkind = \"docker\"\n{more}"), &no_env);
    let own = User::own();
    let said = with(&format!("[build]\nuser = \"{}:{}\"", own.uid, own.gid));
    if own.is_root() {
        assert_eq!(said, with(""));
        assert!(said.starts_with("build.user: needed when an agent that runs as root uses Docker"), "{said}");
        assert!(with("[build]\nuser = \"64100:64101\"\n[docker]\npids = 100").contains("pids: 100"));
    } else {
        assert!(said.starts_with("ok"), "{said}");
        assert!(with("[build]\nuser = \"64100:64101\"").starts_with("ok"), "it may have the capabilities");
    }
}

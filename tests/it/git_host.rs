//! A git host as teams have one: nginx with TLS and basic auth before `git http-backend`, with private repositories of two
//! people. Real programs, in a folder of their own; they end with the value.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use sdp_core::name::RepoUrl;

use crate::harness::name;

/// What `alice` logs in with.
pub(crate) const ALICE: &str = "alice's long password, 1%";
/// What `bob` logs in with.
pub(crate) const BOB: &str = "bob+Passw0rd/=&?";

pub(crate) struct GitHost {
    folder: tempfile::TempDir,
    address: SocketAddr,
    programs: Vec<Child>,
}

impl Drop for GitHost {
    fn drop(&mut self) {
        for program in &mut self.programs {
            // nginx and fcgiwrap end their workers when they are asked to end.
            let id = rustix::process::Pid::from_child(program);
            rustix::process::kill_process(id, rustix::process::Signal::TERM).ok();
            program.wait().ok();
        }
    }
}

impl GitHost {
    /// Starts it, with the repositories `shop/login.git` and `shop/payments.git` of both people and `private/alice.git` of alice.
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().canonicalize().expect("it is there");
        // Whoever asks again finds it free: nothing else on this machine listens there in the meantime.
        let port = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
        let address = port.local_addr().expect("bound");
        drop(port);
        make_certificates(&root);
        let accounts = [("alice", hash(ALICE)), ("bob", hash(BOB))];
        let line = |(user, hash): &(&str, String)| format!("{user}:{hash}\n");
        fs::write(root.join("both"), accounts.iter().map(line).collect::<String>()).expect("written");
        fs::write(root.join("alice"), line(&accounts[0])).expect("written");
        for (repository, file) in [("shop/login", "a"), ("shop/payments", "a"), ("private/alice", "a")] {
            crate::samples::bare(&root.join("repositories").join(format!("{repository}.git"))).expect(file);
        }
        fs::write(root.join("nginx.conf"), config(&root, address)).expect("written");
        let socket = format!("unix:{}", root.join("fcgi").display());
        let mut fcgi = Command::new("fcgiwrap");
        fcgi.args(["-c", "4", "-s", &socket]);
        let mut nginx = Command::new("nginx");
        nginx.arg("-p").arg(&root).arg("-c").arg(root.join("nginx.conf")).args(["-g", "daemon off;"]);
        let programs = [fcgi, nginx].map(|mut program| {
            program.current_dir("/").env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
            let log =
                fs::File::create(root.join(format!("{:?}.out", program.get_program()).replace('"', "")));
            program.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.expect("made"));
            program.spawn().expect("scripts/setup-test installs nginx and fcgiwrap")
        });
        let host = Self { folder, address, programs: programs.into() };
        host.wait_until_it_answers();
        host
    }

    fn wait_until_it_answers(&self) {
        let until = std::time::Instant::now() + Duration::from_secs(20);
        let socket = self.folder.path().join("fcgi");
        while std::net::TcpStream::connect_timeout(&self.address, Duration::from_secs(1)).is_err()
            || !socket.exists()
        {
            assert!(std::time::Instant::now() < until, "nginx does not answer: {}", self.read("error.log"));
            std::thread::yield_now();
        }
    }

    /// What agents may ask.
    pub(crate) fn origin(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    pub(crate) fn url(&self, repository: &str) -> RepoUrl {
        name(&format!("{}/{repository}.git", self.origin()))
    }

    /// The authority that agents trust.
    pub(crate) fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Commits files to a branch.
    pub(crate) fn push(&self, repository: &str, branch: &str, files: &[(&str, &str)]) -> String {
        let path = self.folder.path().join("repositories").join(format!("{repository}.git"));
        let opened = git2::Repository::open_bare(&path).expect("opens");
        let parent = opened.refname_to_id(&format!("refs/heads/{branch}")).ok();
        let files: crate::samples::Files<'_> = files.iter().copied().collect();
        let commit = crate::samples::commit(&opened, branch, &files, &format!("Change {branch}"), parent);
        commit.expect("committed").to_string()
    }

    /// What it was asked so far: user, request, status.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.read("access.log").lines().map(str::to_owned).collect()
    }

    /// The host's own files hold the passwords' hashes; its log holds what agents sent in addresses.
    pub(crate) fn access_log(&self) -> PathBuf {
        self.folder.path().join("access.log")
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.folder.path().join(file)).unwrap_or_default()
    }
}

/// As `htpasswd` writes it.
fn hash(password: &str) -> String {
    let mut openssl = Command::new("openssl");
    openssl.args(["passwd", "-apr1", "-stdin"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut openssl = openssl.spawn().expect("openssl runs");
    writeln!(openssl.stdin.take().expect("piped"), "{password}").expect("written");
    let output = openssl.wait_with_output().expect("it ends");
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

fn make_certificates(root: &Path) {
    let mut authority = CertificateParams::new(Vec::new()).expect("parameters");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority =
        CertifiedIssuer::self_signed(authority, KeyPair::generate().expect("a key")).expect("signed");
    let key = KeyPair::generate().expect("a key");
    let leaf = CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
    let leaf = leaf.signed_by(&key, &authority).expect("signed");
    fs::write(root.join("ca.pem"), authority.pem()).expect("written");
    fs::write(root.join("cert.pem"), leaf.pem()).expect("written");
    fs::write(root.join("key.pem"), key.serialize_pem()).expect("written");
}

fn config(root: &Path, address: SocketAddr) -> String {
    let root = root.display();
    // As root its workers would be somebody who cannot read this folder.
    let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
    format!(
        r#"{user}
worker_processes 1;
pid {root}/nginx.pid;
error_log {root}/error.log;
events {{ worker_connections 256; }}
http {{
    log_format asked '$remote_user "$request" $status';
    access_log {root}/access.log asked;
    client_body_temp_path {root}/body;
    proxy_temp_path {root}/proxy;
    fastcgi_temp_path {root}/fastcgi;
    uwsgi_temp_path {root}/uwsgi;
    scgi_temp_path {root}/scgi;
    client_max_body_size 0;
    server {{
        listen {address} ssl;
        server_name localhost;
        ssl_certificate {root}/cert.pem;
        ssl_certificate_key {root}/key.pem;
        auth_basic "git";
        fastcgi_param SCRIPT_FILENAME /usr/lib/git-core/git-http-backend;
        fastcgi_param GIT_PROJECT_ROOT {root}/repositories;
        fastcgi_param GIT_HTTP_EXPORT_ALL "";
        fastcgi_param GIT_CONFIG_COUNT 1;
        fastcgi_param GIT_CONFIG_KEY_0 safe.directory;
        fastcgi_param GIT_CONFIG_VALUE_0 *;
        fastcgi_param PATH_INFO $uri;
        fastcgi_param QUERY_STRING $query_string;
        fastcgi_param REQUEST_METHOD $request_method;
        fastcgi_param CONTENT_TYPE $content_type;
        fastcgi_param CONTENT_LENGTH $content_length;
        fastcgi_param HTTP_CONTENT_ENCODING $http_content_encoding;
        fastcgi_param REMOTE_USER $remote_user;
        location /shop/ {{ auth_basic_user_file {root}/both; fastcgi_pass unix:{root}/fcgi; }}
        location /private/ {{ auth_basic_user_file {root}/alice; fastcgi_pass unix:{root}/fcgi; }}
        location /open/ {{ auth_basic off; fastcgi_pass unix:{root}/fcgi; }}
    }}
}}
"#
    )
}

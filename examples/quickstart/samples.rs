//! Two sample services in git repositories of their own: `hello` with `main` and `feature/greeting`, `ledger` with `main`.
//!
//! Used by the quickstart, by `embed` and by the integration tests. The services need nothing but Rust to build.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use git2::{Index, IndexEntry, IndexTime, Oid, Repository, RepositoryInitOptions, Signature};
use sdp_core::catalog::Service;
use serde_json::json;

const HELLO: &str = include_str!("../services/hello/main.rs");
const HELLO_GREETING: &str = include_str!("../services/hello/greeting.txt");
const LEDGER: &str = include_str!("../services/ledger/main.rs");

/// Where the repositories are.
#[derive(Clone, Debug)]
pub(crate) struct Samples {
    /// The folder that holds them.
    pub(crate) folder: PathBuf,
}

impl Samples {
    /// Makes the repositories in this folder.
    pub(crate) fn make(folder: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let folder = folder.canonicalize()?;
        if folder.join("ledger.git").exists() {
            return Ok(Self { folder });
        }
        let hello = Files::from([("main.rs", HELLO), ("greeting.txt", HELLO_GREETING)]);
        let mut greeting = hello.clone();
        greeting.insert("greeting.txt", "Greetings from feature/greeting");
        let repository = bare(&folder.join("hello.git"))?;
        let main = commit(&repository, "main", &hello, "Say hello", None)?;
        commit(&repository, "feature/greeting", &greeting, "Greet more warmly", Some(main))?;
        let repository = bare(&folder.join("ledger.git"))?;
        commit(&repository, "main", &Files::from([("main.rs", LEDGER)]), "Keep accounts", None)?;
        Ok(Self { folder })
    }

    /// A repository's address.
    pub(crate) fn repository(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.git"))
    }

    /// Catalog entry of a sample: built with `rustc`, which is there where SDP was built.
    pub(crate) fn service(&self, name: &str, baseline: Option<&url::Url>) -> anyhow::Result<Service> {
        let entry = json!({
            "name": name,
            "repo": self.repository(name),
            "builder": {
                "type": "command",
                "build": [["rustc", "--edition", "2021", "-C", "opt-level=1", "-o", name, "main.rs"]],
                "run": [format!("./{name}")],
            },
            "health": { "type": "http", "path": "/healthz" },
            "baseline": baseline,
        });
        Ok(serde_json::from_value(entry)?)
    }
}

/// Files of a commit by name.
pub(crate) type Files<'a> = BTreeMap<&'a str, &'a str>;

/// A new, empty repository to push to and fetch from.
pub(crate) fn bare(path: &Path) -> anyhow::Result<Repository> {
    let mut options = RepositoryInitOptions::new();
    Ok(Repository::init_opts(path, options.bare(true).initial_head("main"))?)
}

fn entry(path: &str, id: Oid) -> IndexEntry {
    let never = IndexTime::new(0, 0);
    IndexEntry {
        ctime: never,
        mtime: never,
        dev: 0,
        ino: 0,
        mode: 0o100_644,
        uid: 0,
        gid: 0,
        file_size: 0,
        id,
        flags: 0,
        flags_extended: 0,
        path: path.as_bytes().to_vec(),
    }
}

/// Commits these files, and nothing else, to a branch. A name with `/` in it lies in a folder.
pub(crate) fn commit(
    repository: &Repository,
    branch: &str,
    files: &Files<'_>,
    subject: &str,
    parent: Option<Oid>,
) -> anyhow::Result<Oid> {
    let mut index = Index::new()?;
    for (path, text) in files {
        index.add(&entry(path, repository.blob(text.as_bytes())?))?;
    }
    let tree = repository.find_tree(index.write_tree_to(repository)?)?;
    let parent = parent.map(|parent| repository.find_commit(parent)).transpose()?;
    let author = Signature::now("Sam Sample", "sam@example.com")?;
    let id = repository.commit(None, &author, &author, subject, &tree, parent.as_ref().as_slice())?;
    repository.reference(&format!("refs/heads/{branch}"), id, true, subject)?;
    Ok(id)
}

/// How an agent on a developer's machine is set up for the samples: it may fetch from that folder, and its builds find
/// the Rust that built SDP.
pub(crate) fn agent(data: &Path, samples: &Path) -> sdp_agent::Config {
    let mut config = sdp_agent::Config::new(data.join("agent"));
    config.git.local_paths = vec![samples.to_owned()];
    if let Ok(path) = std::env::var("PATH") {
        config.build.path = path;
    }
    let home = std::env::var("HOME").unwrap_or_default();
    for (name, folder) in [("RUSTUP_HOME", ".rustup"), ("CARGO_HOME", ".cargo")] {
        let value = std::env::var(name).unwrap_or_else(|_| format!("{home}/{folder}"));
        if Path::new(&value).is_dir() {
            config.build.env.insert(name.to_owned(), value);
        }
    }
    if let Ok(toolchain) = std::env::var("RUSTUP_TOOLCHAIN") {
        config.build.env.insert("RUSTUP_TOOLCHAIN".to_owned(), toolchain);
    }
    config
}

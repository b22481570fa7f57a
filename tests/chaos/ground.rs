//! The ground of a round: a folder of its own with configuration files, tokens and git repositories, and the ports that its
//! programs keep over all their lives. Called once by [`crate::round`], before anything is started.
//!
//! Ports lie below those that the system gives to outgoing connections: a server that is away for a second must find its
//! port free again.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use sdp_core::catalog::Service;
use sdp_core::client::Client;
use sdp_core::secret::Secret;
use serde_json::json;
use url::Url;

use crate::rng::Rng;
use crate::samples::{Files, bare, commit};

/// The agents; the first one routes, too.
pub(crate) const AGENTS: [&str; 2] = ["vm-1", "vm-2"];
/// Services of each agent.
pub(crate) const SERVICES: usize = 2;
/// Ports of each agent's instances.
const RANGE: u16 = 200;
/// Who builds and runs containers: never root.
const USER: &str = "64100:64100";
pub(crate) const IMAGE: &str = "alpine:3.20";

/// The programs under test and what they deploy.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    pub(crate) server: PathBuf,
    pub(crate) agent: PathBuf,
    pub(crate) bot: PathBuf,
    /// See `program.rs`.
    pub(crate) deployed: PathBuf,
}

impl Programs {
    /// Those that were built beside this one; the deployed one is compiled here if it is not there yet.
    pub(crate) fn find(folder: &Path) -> anyhow::Result<Self> {
        let find = |name: &str| {
            let path = folder.join(name);
            ensure!(path.is_file(), "{} is missing; scripts/chaos builds it", path.display());
            Ok(path)
        };
        Ok(Self {
            server: find("sdp-server")?,
            agent: find("sdp-agent")?,
            bot: find("sdp-bot")?,
            deployed: Self::compile(folder)?,
        })
    }

    fn compile(folder: &Path) -> anyhow::Result<PathBuf> {
        const SOURCE: &str = include_str!("program.rs");
        let digest = SOURCE.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let program = folder.join(format!("chaos-deployed-{digest:016x}"));
        if !program.exists() {
            // Another one may do the same at this moment: the last rename wins.
            let mine = tempfile::tempdir_in(folder)?;
            let (source, made) = (mine.path().join("program.rs"), mine.path().join("program"));
            std::fs::write(&source, SOURCE)?;
            let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
            let flags =
                ["--edition", "2021", "-O", "-C", "target-feature=+crt-static", "-C", "strip=symbols"];
            let status = Command::new(rustc).args(flags).arg("-o").arg(&made).arg(&source).status();
            ensure!(status.context("rustc")?.success(), "rustc cannot compile the program that is deployed");
            std::fs::rename(&made, &program)?;
        }
        Ok(program)
    }
}

/// An agent's place.
#[derive(Clone, Debug)]
pub(crate) struct AgentGround {
    pub(crate) name: &'static str,
    pub(crate) config: PathBuf,
    pub(crate) data: PathBuf,
    /// Whether it runs containers.
    pub(crate) docker: bool,
    /// Where the proxy between it and the server listens.
    pub(crate) proxy: SocketAddr,
    pub(crate) ports: std::ops::Range<u16>,
}

#[derive(Debug)]
pub(crate) struct Ground {
    pub(crate) folder: PathBuf,
    pub(crate) programs: Programs,
    pub(crate) server: SocketAddr,
    pub(crate) server_config: PathBuf,
    pub(crate) server_data: PathBuf,
    pub(crate) router: SocketAddr,
    pub(crate) bot_config: PathBuf,
    pub(crate) agents: Vec<AgentGround>,
    pub(crate) admin_token: Secret,
    /// Where builds write what they print.
    pub(crate) side: PathBuf,
}

impl Ground {
    /// Makes all of it.
    pub(crate) fn make(
        folder: PathBuf,
        programs: &Programs,
        docker: bool,
        rng: &mut Rng,
    ) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&folder)?;
        // The build user goes through it to its work.
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o711))?;
        let folder = folder.canonicalize()?;
        let side = folder.join("printed");
        for name in ["printed", "repositories", "output", "copies"] {
            std::fs::create_dir(folder.join(name))?;
        }
        std::fs::set_permissions(&side, std::fs::Permissions::from_mode(0o1777))?;
        let deployed = folder.join("deployed");
        std::fs::copy(&programs.deployed, &deployed)?;
        std::fs::set_permissions(&deployed, std::fs::Permissions::from_mode(0o755))?;

        let mut taken = listening()?;
        let mut ports = |count: u16| free_ports(rng, &mut taken, count);
        let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let (server, router) = (at(ports(1)?), at(ports(1)?));
        let mut agents = Vec::new();
        for (index, name) in AGENTS.into_iter().enumerate() {
            let (proxy, first) = (at(ports(1)?), ports(RANGE)?);
            agents.push(AgentGround {
                name,
                config: folder.join(format!("{name}.toml")),
                data: folder.join(name),
                docker: docker && index == 1,
                proxy,
                ports: first..first + RANGE,
            });
        }
        let mut ground = Self {
            server,
            server_config: folder.join("server.toml"),
            server_data: folder.join("server"),
            router,
            bot_config: folder.join("bot.toml"),
            agents,
            admin_token: Secret::new("-"),
            side,
            programs: Programs { deployed, ..programs.clone() },
            folder,
        };
        ground.write_configs()?;
        ground.admin_token = Secret::new(ground.make_token("admin", "ops")?);
        ground.make_token("bot", "chat")?;
        for name in AGENTS {
            ground.make_token("agent", name)?;
        }
        Ok(ground)
    }

    fn write_configs(&self) -> anyhow::Result<()> {
        let Self { folder, server, router, .. } = self;
        let folder = folder.display();
        let text = format!(
            "listen = \"{server}\"\npublic_url = \"http://{server}\"\ndata_dir = \"{folder}/server\"\n\
             [limits]\ndrain = \"1s\"\ndisk_floor_mib = 16\n\
             requests_per_minute = 10000000\nwrites_per_minute = 10000000\nsockets_per_principal = 10000\n[login]\ntrust_bot = true\n"
        );
        std::fs::write(&self.server_config, text)?;
        let text = format!(
            "server = \"http://{server}\"\ntoken_file = \"{folder}/chat.token\"\nperson = \"alice\"\n\
             data_dir = \"{folder}/bot\"\n"
        );
        std::fs::write(&self.bot_config, text)?;
        for agent in &self.agents {
            let AgentGround { name, data, docker, proxy, ports, .. } = agent;
            let mut text = format!(
                "server = \"http://{proxy}\"\ntoken_file = \"{folder}/{name}.token\"\ndata_dir = \"{}\"\n\
                 labels = [\"on-{name}\"]\ncapacity = 16\nmin_free_mib = 16\n\
                 [git]\nlocal_paths = [\"{folder}/repositories\"]\n\
                 [runtime]\nkind = \"{}\"\nports = \"{}-{}\"\nstop_grace_seconds = 1\n",
                data.display(),
                if *docker { "docker" } else { "process" },
                ports.start,
                ports.end - 1,
            );
            if *docker {
                text += &format!("[docker]\nimages = [\"{IMAGE}\"]\n[build]\nuser = \"{USER}\"\n");
            }
            if *name == AGENTS[0] {
                text += &format!("[router]\nkind = \"builtin\"\nlisten = \"{router}\"\n");
            }
            std::fs::write(&agent.config, text)?;
        }
        Ok(())
    }

    /// As an administrator makes one before the first start.
    fn make_token(&self, kind: &str, name: &str) -> anyhow::Result<String> {
        let out = Command::new(&self.programs.server)
            .args(["token", "create", kind, name, "--config"])
            .arg(&self.server_config)
            .output()?;
        let said = String::from_utf8_lossy(&out.stderr);
        ensure!(out.status.success(), "sdp-server token create {kind} {name}: {said}");
        let token = String::from_utf8(out.stdout)?.trim().to_owned();
        let path = self.folder.join(format!("{name}.token"));
        std::fs::write(&path, &token)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(token)
    }

    pub(crate) fn url(&self) -> anyhow::Result<Url> {
        Ok(format!("http://{}", self.server).parse()?)
    }

    pub(crate) fn client(&self) -> anyhow::Result<Client> {
        Ok(Client::new(self.url()?, self.admin_token.clone())?)
    }

    /// The services of an agent, as the catalog has them.
    pub(crate) fn services(&self) -> anyhow::Result<Vec<Service>> {
        let mut services = Vec::new();
        for (agent, n) in self.agents.iter().flat_map(|agent| (0..SERVICES).map(move |n| (agent, n))) {
            let name = service_name(agent.name, n);
            let mut entry = json!({
                "name": name,
                "repo": self.repository(&name),
                "labels": [format!("on-{}", agent.name)],
                "builder": {
                    "type": "command",
                    "build": [[self.programs.deployed, "build"]],
                    "run": ["./service", "serve"],
                },
                "health": { "type": "http", "path": "/" },
            });
            if agent.docker {
                entry["image"] = json!(IMAGE);
                entry["limits"] = json!({ "memory_mib": 32 });
            }
            services.push(serde_json::from_value(entry)?);
        }
        Ok(services)
    }

    fn repository(&self, service: &str) -> PathBuf {
        self.folder.join("repositories").join(format!("{service}.git"))
    }

    /// A branch with nothing but this plan.
    pub(crate) fn push(&self, service: &str, branch: &str, plan: &str) -> anyhow::Result<String> {
        let path = self.repository(service);
        let repository = if path.exists() { git2::Repository::open_bare(&path)? } else { bare(&path)? };
        let files = Files::from([("plan.txt", plan)]);
        Ok(commit(&repository, branch, &files, &format!("Plan {branch}"), None)?.to_string())
    }

    /// The label that the agent puts on its containers; none before its first start.
    pub(crate) fn docker_id(agent: &AgentGround) -> Option<String> {
        let text = std::fs::read_to_string(agent.data.join("docker-id")).ok()?;
        Some(text.trim().to_owned())
    }
}

pub(crate) fn service_name(agent: &str, n: usize) -> String {
    format!("svc{n}-{agent}")
}

/// The ports of this machine on which somebody listens.
pub(crate) fn listening() -> anyhow::Result<BTreeSet<u16>> {
    let mut ports = BTreeSet::new();
    for file in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        ports.extend(text.lines().filter_map(listener).map(|(port, _)| port));
    }
    Ok(ports)
}

/// Port and inode of a line of `/proc/net/tcp` that is about a listener.
pub(crate) fn listener(line: &str) -> Option<(u16, u64)> {
    let mut words = line.split_ascii_whitespace();
    let (_, port) = words.nth(1)?.rsplit_once(':')?;
    let is_listening = words.nth(1)? == "0A";
    let inode = words.nth(5)?.parse().ok()?;
    is_listening.then_some((u16::from_str_radix(port, 16).ok()?, inode))
}

/// The first of `count` ports side by side that nobody has.
fn free_ports(rng: &mut Rng, taken: &mut BTreeSet<u16>, count: u16) -> anyhow::Result<u16> {
    for _ in 0..1000 {
        let first = u16::try_from(rng.between(10_000, 31_000))?;
        let range = first..first + count;
        let is_free = taken.range(range.clone()).next().is_none();
        // The kernel knows best; it is asked for the ends only where there are many.
        if is_free
            && [range.start, range.end - 1].iter().all(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        {
            taken.extend(range);
            return Ok(first);
        }
    }
    anyhow::bail!("no {count} free ports below 32000")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_told_from_a_connection() {
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4242 1 0 100 0";
        assert_eq!(listener(line), Some((8080, 4242)));
        assert_eq!(listener(&line.replace(" 0A ", " 01 ")), None);
        assert_eq!(listener("  sl  local_address rem_address   st"), None);
        let own = TcpListener::bind("127.0.0.1:0").expect("binds");
        let port = own.local_addr().expect("bound").port();
        assert!(listening().expect("read").contains(&port));
    }
}

//! What the engine is asked for: a container's whole configuration, from what the builder, the service and the operator say.
//! Pure; a test holds it in full, and another what `docker inspect` shows of it.
//!
//! What is the same for all: no root, no capability but the plan's, no new privileges, a read-only root with `/tmp` in memory,
//! the agent's own network on which containers do not reach one another, one published port, bounded memory without swap,
//! bounded processes, processor and log, and no way to ask for more: there is no field for it.
//!
//! `/tmp` and the plan's folders in memory are `noexec`, as is the engine's own habit; what a service writes and then runs
//! belongs into one of its writable folders. An init process is the container's first: it hands signals on (also Apache's
//! SIGWINCH) and takes care of orphans, so that a program which expects neither stops at once when it is asked to.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use bollard::models::{
    ContainerCreateBody, HostConfig, HostConfigLogConfig, Mount, MountBindOptions, MountType, PortBinding,
    ResourcesUlimits, RestartPolicy, RestartPolicyNameEnum,
};
use sdp_core::catalog::Limits;

use super::DockerRuntimeConfig;
use super::files::Bound;
use super::label::{self, AgentId, Kind};
use crate::builder::ContainerPlan;
use crate::runtime::{StartSpec, context};

/// Where a service listens inside its container when it does not say.
const PORT: u16 = 8080;
/// How often an instance that ended with an error is started again.
pub(super) const RESTARTS: i64 = 3;
/// What is kept of what a container prints: so many files of that size.
const LOG_FILES: &str = "3";
const LOG_SIZE: &str = "10m";
/// What each folder in memory holds; it counts as the container's memory.
const TMPFS: &str = "rw,nosuid,nodev,noexec,size=64m,mode=1777";

/// A container to make.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    pub(super) config: &'a DockerRuntimeConfig,
    pub(super) agent: &'a AgentId,
    pub(super) kind: Kind,
    pub(super) spec: &'a StartSpec,
    pub(super) plan: &'a ContainerPlan,
    /// Of the image, so that a name which moves meanwhile changes nothing.
    pub(super) image_id: &'a str,
    pub(super) argv: &'a [String],
    pub(super) bounds: &'a [Bound],
    /// Where routers reach it; none: it is not to be reached.
    pub(super) address: Option<SocketAddr>,
    /// The engine gives no container more cores than it has.
    pub(super) cores: Option<u32>,
}

/// Where a service listens inside its container.
pub(super) fn port(spec: &StartSpec) -> u16 {
    spec.port.map_or(PORT, u16::from)
}

/// Name and configuration.
pub(super) fn body(wanted: &Wanted<'_>) -> (String, ContainerCreateBody) {
    let Wanted { config, agent, kind, spec, plan, .. } = *wanted;
    let place = (spec.service.as_str(), spec.sandbox.as_str());
    let name = label::name(agent, kind, place, spec.instance, spec.attempt);
    let port = port(spec);
    let inside = format!("{port}/tcp");
    let bindings = wanted.address.map(|address| {
        let binding = PortBinding {
            host_ip: Some(address.ip().to_string()),
            host_port: Some(address.port().to_string()),
        };
        HashMap::from([(inside.clone(), Some(vec![binding]))])
    });
    let tmpfs = std::iter::once("/tmp".to_owned())
        .chain(plan.tmpfs.iter().map(|path| path.display().to_string()))
        .map(|path| (path, TMPFS.to_owned()));
    let host_config = HostConfig {
        network_mode: Some(agent.network()),
        port_bindings: bindings,
        mounts: Some(wanted.bounds.iter().map(mount).collect()),
        tmpfs: Some(tmpfs.collect()),
        readonly_rootfs: Some(true),
        privileged: Some(false),
        cap_drop: Some(vec!["ALL".to_owned()]),
        cap_add: Some(plan.capabilities.clone()).filter(|more| !more.is_empty()),
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        ipc_mode: Some("private".to_owned()),
        init: Some(true),
        // A core file would be a copy of the memory, secrets and all.
        ulimits: Some(vec![ResourcesUlimits { name: Some("core".into()), soft: Some(0), hard: Some(0) }]),
        restart_policy: Some(match kind {
            Kind::Instance => RestartPolicy {
                name: Some(RestartPolicyNameEnum::ON_FAILURE),
                maximum_retry_count: Some(RESTARTS),
            },
            Kind::Release => {
                RestartPolicy { name: Some(RestartPolicyNameEnum::NO), maximum_retry_count: None }
            }
        }),
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".to_owned()),
            config: Some(HashMap::from(
                [("max-size", LOG_SIZE), ("max-file", LOG_FILES)].map(|(k, v)| (k.to_owned(), v.to_owned())),
            )),
        }),
        ..limits(config, spec.limits, wanted.cores)
    };
    let body = ContainerCreateBody {
        image: Some(wanted.image_id.to_owned()),
        hostname: Some(name.clone()),
        user: Some(format!("{}:{}", config.user.uid, config.user.gid)),
        cmd: Some(wanted.argv.to_vec()),
        working_dir: Some(spec.run.cwd.display().to_string()),
        env: Some(env(wanted, port)),
        labels: Some(label::labels(agent, kind, spec, plan.image.as_str(), port, wanted.address)),
        exposed_ports: wanted.address.map(|_| vec![inside]),
        stop_timeout: Some(i64::try_from(config.stop_grace.as_secs()).unwrap_or(i64::MAX)),
        host_config: Some(host_config),
        ..ContainerCreateBody::default()
    };
    (name, body)
}

fn limits(config: &DockerRuntimeConfig, limits: Limits, cores: Option<u32>) -> HostConfig {
    let engine = &config.engine;
    let memory = i64::from(limits.memory_mib.unwrap_or(engine.memory_mib)) << 20;
    let millis = limits.cpu_millis.unwrap_or(engine.cpu_millis);
    let most = cores.map_or(u32::MAX, |cores| cores.saturating_mul(1000));
    HostConfig {
        memory: Some(memory),
        // The same: no swap.
        memory_swap: Some(memory),
        nano_cpus: Some(i64::from(millis.min(most)) * 1_000_000),
        pids_limit: Some(limits.pids.unwrap_or(engine.pids).into()),
        ..HostConfig::default()
    }
}

/// What comes later wins: the operator's, the builder's, the service's, and those that the agent sets.
fn env(wanted: &Wanted<'_>, port: u16) -> Vec<String> {
    let text = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let mut env = BTreeMap::from([text("HOME", "/tmp"), text("TMPDIR", "/tmp")]);
    env.extend(wanted.config.env.clone());
    env.extend(wanted.plan.env.clone());
    env.extend(wanted.spec.variables().map(|(name, value)| text(name, value)));
    env.extend([text("PORT", &port.to_string())]);
    if wanted.spec.context.is_some() {
        env.extend([text(context::VARIABLE, &format!("{}/{}", context::INSIDE, context::FILE))]);
    }
    env.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

/// Never as text with colons (`binds`): the engine would make a folder that is missing, as root.
fn mount(bound: &Bound) -> Mount {
    Mount {
        typ: Some(MountType::BIND),
        source: Some(bound.source.display().to_string()),
        target: Some(bound.target.display().to_string()),
        read_only: Some(bound.read_only),
        // What may be mounted beneath it is not to be seen: it would not be read-only.
        bind_options: Some(MountBindOptions { non_recursive: Some(true), ..MountBindOptions::default() }),
        ..Mount::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::docker::tests::{config, plan, spec};

    #[test]
    fn the_whole_container_as_the_engine_is_asked_for_it() {
        let (config, plan, mut spec) = (config("/data".into()), plan(), spec());
        spec.limits.memory_mib = Some(64);
        spec.env.insert("GREETING".into(), "hello".into());
        spec.env.insert("PORT".into(), "1".into());
        spec.env.insert("SDP_CONTEXT".into(), "elsewhere".into());
        spec.context = Some(context::tests::context());
        let bounds = [
            Bound { source: "/data/work/x/source".into(), target: "/src".into(), read_only: true },
            Bound { source: "/data/instances/y/0".into(), target: "/src/storage".into(), read_only: false },
        ];
        let wanted = Wanted {
            config: &config,
            agent: &AgentId::parse("0123abcd").unwrap(),
            kind: Kind::Instance,
            spec: &spec,
            plan: &plan,
            image_id: "sha256:1cc8",
            argv: &spec.run.argv,
            bounds: &bounds,
            address: Some("10.0.0.7:20001".parse().unwrap()),
            cores: Some(2),
        };
        let (name, body) = body(&wanted);
        // As a value: its keys are sorted.
        let json = serde_json::to_string_pretty(&serde_json::to_value(&body).unwrap()).unwrap();
        let json = json
            .replace(&name, "NAME")
            .replace(&spec.instance.to_string(), "INSTANCE")
            .replace(&spec.deployment.to_string(), "DEPLOYMENT")
            .replace(&spec.build.to_string(), "BUILD");
        insta::assert_snapshot!(json, @r#"
        {
          "Cmd": [
            "/out/app"
          ],
          "Env": [
            "BUILDER=go",
            "GREETING=hello",
            "HOME=/tmp",
            "OPERATOR=yes",
            "PORT=8080",
            "SDP_CONTEXT=/run/sdp/context.json",
            "TMPDIR=/tmp"
          ],
          "ExposedPorts": {
            "8080/tcp": {}
          },
          "HostConfig": {
            "CapAdd": [
              "NET_BIND_SERVICE"
            ],
            "CapDrop": [
              "ALL"
            ],
            "Init": true,
            "IpcMode": "private",
            "LogConfig": {
              "Config": {
                "max-file": "3",
                "max-size": "10m"
              },
              "Type": "json-file"
            },
            "Memory": 67108864,
            "MemorySwap": 67108864,
            "Mounts": [
              {
                "BindOptions": {
                  "NonRecursive": true
                },
                "ReadOnly": true,
                "Source": "/data/work/x/source",
                "Target": "/src",
                "Type": "bind"
              },
              {
                "BindOptions": {
                  "NonRecursive": true
                },
                "ReadOnly": false,
                "Source": "/data/instances/y/0",
                "Target": "/src/storage",
                "Type": "bind"
              }
            ],
            "NanoCpus": 1000000000,
            "NetworkMode": "sdp-0123abcd",
            "PidsLimit": 256,
            "PortBindings": {
              "8080/tcp": [
                {
                  "HostIp": "10.0.0.7",
                  "HostPort": "20001"
                }
              ]
            },
            "Privileged": false,
            "ReadonlyRootfs": true,
            "RestartPolicy": {
              "MaximumRetryCount": 3,
              "Name": "on-failure"
            },
            "SecurityOpt": [
              "no-new-privileges"
            ],
            "Tmpfs": {
              "/run/app": "rw,nosuid,nodev,noexec,size=64m,mode=1777",
              "/tmp": "rw,nosuid,nodev,noexec,size=64m,mode=1777"
            },
            "Ulimits": [
              {
                "Hard": 0,
                "Name": "core",
                "Soft": 0
              }
            ]
          },
          "Hostname": "NAME",
          "Image": "sha256:1cc8",
          "Labels": {
            "sdp.address": "10.0.0.7:20001",
            "sdp.agent": "0123abcd",
            "sdp.attempt": "2",
            "sdp.build": "BUILD",
            "sdp.check-limit": "120",
            "sdp.deployment": "DEPLOYMENT",
            "sdp.health": "{\"type\":\"http\",\"path\":\"/\"}",
            "sdp.image": "alpine:3.20",
            "sdp.instance": "INSTANCE",
            "sdp.kind": "instance",
            "sdp.number": "143",
            "sdp.port": "8080",
            "sdp.sandbox": "alice",
            "sdp.service": "payments"
          },
          "StopTimeout": 1,
          "User": "64100:64101",
          "WorkingDir": "/src"
        }
        "#);

        let (_, release) = super::body(&Wanted { kind: Kind::Release, address: None, ..wanted });
        assert_eq!(release.exposed_ports, None);
        let host = release.host_config.unwrap();
        assert_eq!(host.port_bindings, None);
        assert_eq!(host.restart_policy.unwrap().name, Some(RestartPolicyNameEnum::NO));
    }

    #[test]
    fn limits_are_the_services_over_the_operators_and_never_more_cores_than_there_are() {
        let config = config("/data".into());
        let of = |limits, cores| {
            let host = super::limits(&config, limits, cores);
            assert_eq!(host.memory, host.memory_swap);
            (host.memory.unwrap() >> 20, host.nano_cpus.unwrap() / 1_000_000, host.pids_limit.unwrap())
        };
        assert_eq!(of(Limits::default(), Some(2)), (512, 1000, 256));
        let own = Limits { memory_mib: Some(64), cpu_millis: Some(5000), pids: Some(10) };
        assert_eq!(of(own, Some(2)), (64, 2000, 10));
        assert_eq!(of(own, None), (64, 5000, 10));
    }
}

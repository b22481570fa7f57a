//! A job as it is sent to its agent: what the deployment was asked with, the credential that it came with, and the service's
//! secrets as they are now. The only place where those are opened.

use super::Run;
use crate::failure::FailureReason;
use crate::id::DeploymentNumber;
use crate::name::{AgentName, ServiceName};
use crate::platform::decide::{self, Act};
use crate::secret::Secret;
use crate::store::{Kept, SecretRow};
use crate::wire::{JobSpec, SecretSource, SecretVariable, ToAgent};

/// A secret that cannot be opened, as a sentence for people.
struct Unreadable(String);

impl Run {
    /// The message that brings a job to its agent; or what is done instead, if a secret cannot be opened.
    pub(super) fn send_job(
        &self,
        number: DeploymentNumber,
    ) -> Result<Option<(AgentName, ToAgent)>, Vec<Act>> {
        let Some(open) = self.world.open.get(&number) else { return Ok(None) };
        let deployment = &open.deployment;
        let Some(agent) = deployment.agent.clone() else { return Ok(None) };
        let secrets = match self.secrets(&deployment.service) {
            Ok(secrets) => secrets,
            Err(Unreadable(detail)) => {
                return Err(decide::given_up(open, &agent, FailureReason::SecretUnreadable, detail));
            }
        };
        let service = &open.job.service;
        let mut env = service.env.clone();
        env.extend(deployment.env.clone());
        let spec = JobSpec {
            number,
            service: deployment.service.clone(),
            sandbox: deployment.sandbox.clone(),
            instance: open.job.instance,
            repo: service.repo.clone(),
            git_ref: deployment.git_ref.clone(),
            commit: deployment.commit.clone(),
            since: decide::commit_before(&self.world, open),
            reuse_build: deployment.kind.may_reuse_build(),
            subdir: service.subdir.clone(),
            builder: service.builder.clone(),
            health: service.health.clone(),
            env,
            place: self.world.job_place(&deployment.sandbox),
            port: service.port,
            image: service.image.clone(),
            limits: service.limits,
            writable: service.writable.clone(),
            release: service.release.clone(),
            labels: service.labels.clone(),
            step_limits: self.config.steps,
        };
        let message = ToAgent::Deploy {
            command: decide::deploy_command(deployment.id, deployment.attempt),
            deployment: deployment.id,
            attempt: deployment.attempt,
            spec: Box::new(spec),
            credential: open.credential.clone(),
            secrets,
        };
        Ok(Some((agent, message)))
    }

    fn secrets(&self, service: &ServiceName) -> Result<Vec<SecretVariable>, Unreadable> {
        let variable = |secret: &SecretRow| {
            let source = match &secret.kept {
                Kept::File(file) => SecretSource::File { file: file.clone() },
                Kept::Sealed(sealed) => {
                    let place = SecretRow::place(service, &secret.name);
                    let opened = self.vault.open(&place, sealed);
                    let opened = opened.map_err(|error| Unreadable(format!("{}: {error}", secret.name)))?;
                    let text = str::from_utf8(&opened)
                        .map_err(|_| Unreadable(format!("{}: it is no text", secret.name)))?;
                    SecretSource::Value { value: Secret::new(text) }
                }
            };
            let (build, run) = (secret.given_to.build(), secret.given_to.run());
            Ok(SecretVariable { name: secret.name.clone(), source, build, run })
        };
        self.world.secrets_of(service).map(variable).collect()
    }
}

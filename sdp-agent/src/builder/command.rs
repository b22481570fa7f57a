//! Any program: the words of the catalog as they are, no shell.
//!
//! In a container it runs in the image that the service names: what was built on this machine may need more than a small
//! usual image has, so there is none.

use sdp_core::failure::{Failure, FailureReason};

use super::{BuildContext, BuildPlan, RunPlan, SRC, Target, build_env, container, fail};
use crate::exec::Program;

pub(super) fn plan(build: &[Vec<String>], run: &[String], cx: &BuildContext) -> Result<BuildPlan, Failure> {
    let run = match (cx.target, &cx.image) {
        (Target::Process, _) => RunPlan { argv: run.to_vec(), cwd: cx.source.clone(), container: None },
        (Target::Container, Some(image)) => RunPlan {
            argv: run.to_vec(),
            cwd: cx.inside(SRC, &cx.source),
            container: Some(container(image.clone(), SRC, cx)),
        },
        (Target::Container, None) => {
            let detail = "this agent runs services in containers, and a service with the builder command has no usual \
                          image: set `image` in the catalog, e.g. image = \"debian:12-slim\"";
            return Err(fail(FailureReason::ImageMissing, detail));
        }
    };
    let env = build_env(cx);
    let build = build
        .iter()
        .map(|argv| Program {
            argv: argv.iter().map(Into::into).collect(),
            cwd: cx.source.clone(),
            env: env.clone(),
        })
        .collect();
    Ok(BuildPlan { notes: Vec::new(), before: Vec::new(), build, makes: None, after: Vec::new(), run })
}

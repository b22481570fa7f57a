//! Any program: the words of the catalog as they are, no shell.

use super::{BuildContext, BuildPlan, RunPlan, build_env};
use crate::exec::Program;

pub(super) fn plan(build: &[Vec<String>], run: &[String], cx: &BuildContext) -> BuildPlan {
    let env = build_env(cx);
    let build = build
        .iter()
        .map(|argv| Program {
            argv: argv.iter().map(Into::into).collect(),
            cwd: cx.source.clone(),
            env: env.clone(),
        })
        .collect();
    BuildPlan { build, run: RunPlan { argv: run.to_vec(), cwd: cx.source.clone(), container: None } }
}

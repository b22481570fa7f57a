//! Go: one static binary from the main package, run in the service's folder (templates and static files are there).
//!
//! The toolchain is the machine's own and downloads no other; caches are shared between deployments; `vendor/` is honoured
//! by Go itself; modules come from where the operator's `GOPROXY`, `GOPRIVATE` … say.

use std::ffi::OsString;

use sdp_core::name::RepoPath;

use super::{BuildContext, BuildPlan, RunPlan, build_env};
use crate::exec::Program;

pub(super) fn plan(main_package: &RepoPath, args: &[String], cx: &BuildContext) -> BuildPlan {
    let binary = cx.output.join("app");
    let package = match main_package.as_str() {
        "." => ".".to_owned(),
        // With ./ it is a folder, never a package of the standard library or the network.
        folder => format!("./{folder}"),
    };
    let mut argv: Vec<OsString> = ["go", "build", "-trimpath", "-o"].map(Into::into).to_vec();
    argv.push(binary.clone().into());
    argv.push(package.into());

    let mut env = build_env(cx);
    let home = cx.caches.join("go");
    // The tree has no .git in it; and a module cache that only root can delete helps nobody.
    let mut flags = env.get::<OsString>(&"GOFLAGS".into()).cloned().unwrap_or_default();
    if !flags.is_empty() {
        flags.push(" ");
    }
    flags.push("-buildvcs=false -modcacherw");
    env.extend([
        ("CGO_ENABLED".into(), "0".into()),
        ("GOTOOLCHAIN".into(), "local".into()),
        ("GOENV".into(), "off".into()),
        ("GOFLAGS".into(), flags),
        ("GOCACHE".into(), home.join("build").into()),
        ("GOMODCACHE".into(), home.join("mod").into()),
        ("GOPATH".into(), home.join("path").into()),
        ("HOME".into(), home.into_os_string()),
    ]);
    let run = std::iter::once(binary.to_string_lossy().into_owned()).chain(args.iter().cloned());
    BuildPlan {
        build: vec![Program { argv, cwd: cx.source.clone(), env }],
        run: RunPlan { argv: run.collect(), cwd: cx.source.clone(), container: None },
    }
}

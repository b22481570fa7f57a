//! Go: one static binary from the main package, run in the service's folder (templates and static files are there).
//!
//! The toolchain is the machine's own and downloads no other; caches are shared between deployments; `vendor/` is honoured
//! by Go itself; modules come from where the operator's `GOPROXY`, `GOPRIVATE`, `GONOSUMDB` … say. Files of the repository
//! (`.env`, a `go.env`) set none of these.
//!
//! In a container the binary is outside of the repository, which stays as it was committed.

use std::ffi::OsString;

use sdp_core::failure::Failure;
use sdp_core::name::RepoPath;

use super::{BuildContext, BuildPlan, Mount, OUT, RunPlan, SRC, Target, build_env, container, image};
use crate::exec::Program;

/// What the binary runs in when the service names nothing else.
const IMAGE: &str = "alpine:3.20";
const BINARY: &str = "app";

pub(super) fn plan(
    main_package: &RepoPath,
    args: &[String],
    cx: &BuildContext,
) -> Result<BuildPlan, Failure> {
    let binary = cx.output.join(BINARY);
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
    let with_args = |program: String| std::iter::once(program).chain(args.iter().cloned()).collect();
    let run = match cx.target {
        Target::Process => RunPlan {
            argv: with_args(binary.to_string_lossy().into_owned()),
            cwd: cx.source.clone(),
            container: None,
        },
        Target::Container => {
            let mut container = container(image(cx, IMAGE)?, SRC, cx);
            container.mounts.push(Mount::new(&cx.output, OUT));
            RunPlan {
                argv: with_args(format!("{OUT}/{BINARY}")),
                cwd: cx.inside(SRC, &cx.source),
                container: Some(container),
            }
        }
    };
    Ok(BuildPlan {
        notes: Vec::new(),
        before: Vec::new(),
        build: vec![Program { argv, cwd: cx.source.clone(), env }],
        makes: Some(binary),
        after: Vec::new(),
        run,
    })
}

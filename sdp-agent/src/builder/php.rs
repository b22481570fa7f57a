//! PHP: `composer install` where there is something to install, then Apache with PHP, in a container alone.
//!
//! Composer runs nothing of the repository (no scripts, no plugins) and keeps its downloads in a cache that deployments
//! share. Its home is the build's own, with the operator's configuration in it (`composer_config` in `[build]`), so that
//! it knows their mirror and login.
//!
//! The PHP that composer runs on is this machine's, not the one that serves: its extensions say nothing about the image's
//! and are not asked for. Where a `composer.lock` has chosen the versions, PHP's own version is not either.

use std::ffi::OsString;
use std::path::Path;

use sdp_core::failure::{Failure, FailureReason};

use super::facts::Facts;
use super::{
    BuildContext, BuildPlan, Mount, PlannedFile, RunPlan, Target, apache, build_env, container, fail, image,
};
use crate::exec::Program;

/// What it runs in when the service names nothing else.
const IMAGE: &str = "php:8.3-apache";
/// Where the repository's top is.
const APP: &str = apache::APP;
/// Where the agent's own files are.
const SDP: &str = "/sdp";
const CONFIGURATION: &str = "apache.conf";

pub(super) fn plan(cx: &BuildContext) -> Result<BuildPlan, Failure> {
    if cx.target == Target::Process {
        let detail = "a PHP service needs an agent that runs containers, and this one runs plain processes";
        return Err(fail(FailureReason::ToolMissing, detail));
    }
    let root = cx.facts.document_root.as_deref().unwrap_or(&cx.source);
    let inside = cx.inside(APP, root);
    let Some(document_root) = inside.to_str() else {
        return Err(fail(FailureReason::UnsafeTree, "the document root's name is not UTF-8"));
    };
    let settings = apache::Settings {
        workers: apache::workers(cx.limits.memory_mib, cx.limits.pids),
        vendor_is_served: cx.facts.composer_json && root == cx.source,
    };
    let mut container = container(image(cx, IMAGE)?, APP, cx);
    container.mounts.push(Mount::new(&cx.output, SDP));
    container.env = apache::env(document_root);

    let mut plan = BuildPlan {
        notes: Vec::new(),
        before: Vec::new(),
        build: Vec::new(),
        makes: None,
        after: vec![PlannedFile {
            path: cx.output.join(CONFIGURATION),
            text: apache::render(&settings),
            secret: false,
        }],
        run: RunPlan {
            argv: ["apache2-foreground", "-f"]
                .map(str::to_owned)
                .into_iter()
                .chain([format!("{SDP}/{CONFIGURATION}")])
                .collect(),
            cwd: cx.inside(APP, &cx.source),
            container: Some(container),
        },
    };
    match to_install(&cx.facts) {
        Ok(locked) => composer(locked, cx, &mut plan),
        Err(why) => plan.notes.extend(why),
    }
    plan.notes.push(format!("Apache serves {}", shown(root, cx)));
    Ok(plan)
}

/// Whether composer is to run, and if so, whether versions are chosen already; else what to say, if anything.
fn to_install(facts: &Facts) -> Result<bool, Option<String>> {
    if !facts.composer_json {
        return Err(None);
    }
    if facts.vendored && !facts.composer_lock {
        let text = "vendor/ is in the commit and there is no composer.lock: composer is not run";
        return Err(Some(text.to_owned()));
    }
    match facts.missing_tool {
        Some(tool) => {
            Err(Some(format!("there is a composer.json, but no {tool} on this agent: nothing is installed")))
        }
        None => Ok(facts.composer_lock),
    }
}

fn composer(locked: bool, cx: &BuildContext, plan: &mut BuildPlan) {
    let platform: &[&str] = if locked {
        &["--ignore-platform-reqs"]
    } else {
        &["--ignore-platform-req=ext-*", "--ignore-platform-req=lib-*"]
    };
    let argv = [
        "composer",
        "install",
        "--no-dev",
        "--no-scripts",
        "--no-plugins",
        "--no-interaction",
        "--no-progress",
        "--prefer-dist",
        "--optimize-autoloader",
    ];
    let home = cx.beside("home").join("composer");
    let mut env = build_env(cx);
    env.extend([
        ("COMPOSER_HOME".into(), home.clone().into()),
        ("COMPOSER_CACHE_DIR".into(), cx.caches.join("composer").into()),
        // An agent in a container of its own is root; nothing of the repository is run.
        ("COMPOSER_ALLOW_SUPERUSER".into(), "1".into()),
        ("COMPOSER_NO_INTERACTION".into(), "1".into()),
        // It would break its messages into pieces of 80 characters.
        ("COLUMNS".into(), "1000".into()),
    ]);
    if let Some(config) = &cx.composer_config {
        plan.before.push(PlannedFile {
            path: home.join("config.json"),
            text: config.expose().to_owned(),
            secret: true,
        });
    }
    let argv: Vec<OsString> = argv.iter().chain(platform).map(Into::into).collect();
    plan.build.push(Program { argv, cwd: cx.source.clone(), env });
}

fn shown(root: &Path, cx: &BuildContext) -> String {
    match root.strip_prefix(&cx.tree) {
        Ok(below) if !below.as_os_str().is_empty() => below.display().to_string(),
        _ => "the top of the repository".to_owned(),
    }
}

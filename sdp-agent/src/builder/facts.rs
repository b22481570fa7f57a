//! What a plan has to know of the tree and the machine. Called by the job on a blocking thread, before the build and again
//! after it: the build ran programs of the repository, which may have put links in place of folders.
//!
//! Invariant: no link is followed out of the tree, and what is said to be a file is one.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use sdp_core::catalog::Builder;
use sdp_core::deployment::Step;
use sdp_core::failure::{Failure, FailureReason};
use sdp_core::name::RepoPath;

use crate::workspace;

/// What was found; only what the builder asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The folder that is served.
    pub document_root: Option<PathBuf>,
    /// Whether the service's folder has a `composer.json`.
    pub composer_json: bool,
    /// Whether it has a `composer.lock`.
    pub composer_lock: bool,
    /// Whether it has packages already: a `vendor/autoload.php`.
    pub vendored: bool,
    /// What composer needs and is not on the machine.
    pub missing_tool: Option<&'static str>,
}

/// A service's place in a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Survey {
    /// Its folder, as a path without links.
    pub(crate) source: PathBuf,
    /// What was found.
    pub(crate) facts: Facts,
}

/// Looks at a tree. Blocking.
///
/// # Errors
/// `unsafe_tree` when the service's folder, or the one that it wants to have served, is missing or leads out of the tree.
pub(crate) fn survey(
    builder: &Builder,
    tree: &Path,
    subdir: &RepoPath,
    path: &OsStr,
) -> Result<Survey, Failure> {
    let source = workspace::folder_beneath(tree, subdir.as_str(), &format!("the folder {subdir}"))?;
    let mut facts = Facts::default();
    if let Builder::Php { document_root } = builder {
        facts.document_root = Some(served(tree, subdir, &source, document_root.as_ref())?);
        facts.composer_json = is_file(&source.join("composer.json"));
        facts.composer_lock = is_file(&source.join("composer.lock"));
        let vendor = source.join("vendor");
        facts.vendored = is_folder(&vendor) && is_file(&vendor.join("autoload.php"));
        facts.missing_tool = ["composer", "php"].into_iter().find(|tool| find_program(path, tool).is_none());
    }
    Ok(Survey { source, facts })
}

fn served(
    tree: &Path,
    subdir: &RepoPath,
    source: &Path,
    named: Option<&RepoPath>,
) -> Result<PathBuf, Failure> {
    let below = |folder: &str| match subdir.as_str() {
        "." => folder.to_owned(),
        subdir => format!("{subdir}/{folder}"),
    };
    match named {
        Some(folder) => {
            workspace::folder_beneath(tree, &below(folder.as_str()), &format!("the document root {folder}"))
        }
        None if fs::symlink_metadata(source.join("public")).is_ok_and(|meta| !meta.is_file()) => {
            workspace::folder_beneath(tree, &below("public"), "the document root public")
        }
        None => Ok(source.to_owned()),
    }
}

/// Checks what a build has left in the folder for artefacts, before it is shown to a container. Blocking.
///
/// # Errors
/// `unsafe_tree` when the folder is another than it was; `build_failed` when the file is missing.
pub(crate) fn check_output(output: &Path, makes: Option<&Path>) -> Result<(), Failure> {
    if !is_folder(output) {
        let detail = "the build has put something else in place of the folder for what it makes";
        return Err(Failure::new(Step::Build, FailureReason::UnsafeTree, detail));
    }
    match makes {
        Some(file) if !is_file(file) => {
            let detail =
                "the build ended well, but there is no program: is the main package a `package main`?";
            Err(Failure::new(Step::Build, FailureReason::BuildFailed, detail))
        }
        _ => Ok(()),
    }
}

/// Where a program is, as `PATH` says.
pub(crate) fn find_program(path: &OsStr, name: &str) -> Option<PathBuf> {
    let folders = path.as_bytes().split(|byte| *byte == b':');
    folders.map(|folder| Path::new(OsStr::from_bytes(folder)).join(name)).find(|file| {
        fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    })
}

fn is_file(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file())
}

fn is_folder(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir())
}

#[cfg(test)]
mod tests;

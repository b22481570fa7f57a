use std::os::unix::fs::symlink;

use super::*;

fn php(document_root: Option<&str>) -> Builder {
    serde_json::from_value(serde_json::json!({ "type": "php", "document_root": document_root })).unwrap()
}

fn tree(files: &[&str]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().canonicalize().unwrap().join("source");
    for name in files {
        let path = tree.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }
    (folder, tree)
}

fn look(tree: &Path, subdir: &str, document_root: Option<&str>) -> Result<Survey, String> {
    let subdir = RepoPath::parse(subdir).unwrap();
    survey(&php(document_root), tree, &subdir, OsStr::new("/nowhere"))
        .map_err(|failure| format!("{}: {}", failure.reason.code(), failure.detail))
}

#[test]
fn public_is_served_if_it_is_there_and_else_the_top_or_what_the_service_names() {
    let (_folder, tree) = tree(&["a/public/index.php", "a/web/index.php", "b/index.php", "c/public"]);
    let root = |subdir, named| look(&tree, subdir, named).unwrap().facts.document_root.unwrap();
    assert_eq!(root("a", None), tree.join("a/public"));
    assert_eq!(root("a", Some("web")), tree.join("a/web"));
    assert_eq!(root("a", Some(".")), tree.join("a"));
    assert_eq!(root("b", None), tree.join("b"));
    assert_eq!(root("c", None), tree.join("c"), "a file of that name is none");
    assert_eq!(root(".", Some("a/web")), tree.join("a/web"));
    symlink("../a/web", tree.join("b/public")).unwrap();
    assert_eq!(root("b", None), tree.join("a/web"), "a link that stays inside is followed");
}

#[test]
fn a_document_root_that_leads_out_of_the_tree_is_refused() {
    let (_folder, tree) = tree(&["index.php", "sub/index.php"]);
    symlink("/etc", tree.join("public")).unwrap();
    symlink("../../..", tree.join("sub/up")).unwrap();
    let refused: Vec<_> = [(".", None), (".", Some("public")), ("sub", Some("up")), ("sub", Some("none"))]
        .iter()
        .map(|(subdir, named)| look(&tree, subdir, *named).unwrap_err())
        .collect();
    insta::assert_snapshot!(refused.join("\n"), @r"
    unsafe_tree: the document root public is a link that leads out of the repository
    unsafe_tree: the document root public is a link that leads out of the repository
    unsafe_tree: the document root up is a link that leads out of the repository
    unsafe_tree: the document root none is not in this commit
    ");
}

#[test]
fn what_composer_needs_is_looked_for_and_links_are_not_believed() {
    let (_folder, tree) = tree(&["a/composer.json", "a/composer.lock", "a/vendor/autoload.php", "b/x"]);
    let facts = look(&tree, "a", None).unwrap().facts;
    assert!(facts.composer_json && facts.composer_lock && facts.vendored);
    assert_eq!(facts.missing_tool, Some("composer"));
    symlink("../a/composer.json", tree.join("b/composer.json")).unwrap();
    symlink("../a/vendor", tree.join("b/vendor")).unwrap();
    let facts = look(&tree, "b", None).unwrap().facts;
    assert!(!facts.composer_json && !facts.vendored);
}

#[test]
fn a_build_that_leaves_no_program_or_swaps_its_folder_is_refused() {
    let (_folder, tree) = tree(&["output/app"]);
    let output = tree.join("output");
    let check = |makes: Option<&Path>| check_output(&output, makes).map_err(|failure| failure.reason);
    check(None).unwrap();
    check(Some(&output.join("app"))).unwrap();
    assert_eq!(check(Some(&output.join("other"))), Err(FailureReason::BuildFailed));
    symlink("/bin/sh", output.join("link")).unwrap();
    assert_eq!(check(Some(&output.join("link"))), Err(FailureReason::BuildFailed));
    fs::remove_dir_all(&output).unwrap();
    symlink("/", &output).unwrap();
    assert_eq!(check(None), Err(FailureReason::UnsafeTree));
}

#[test]
fn programs_are_looked_for_as_a_shell_does() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("tool");
    fs::write(&program, "").unwrap();
    let path = format!("/nowhere:{}", folder.path().display());
    assert_eq!(find_program(OsStr::new(&path), "tool"), None, "it is not executable");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(find_program(OsStr::new(&path), "tool"), Some(program));
}

//! A Go service as teams have them: main package in a subfolder, a package beside it, standard library only.

use serde_json::json;

use crate::harness::{Sdp, run_test};

const MODULE: &str = "module example.com/shop\n\ngo 1.19\n";
const GREET: &str =
    "package greet\n\nfunc Hello(name string) string { return \"hello \" + name + \" from go\" }\n";
const MAIN: &str = r#"package main

import (
	"fmt"
	"log"
	"net/http"
	"os"

	"example.com/shop/greet"
)

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, greet.Hello(r.Header.Get("sdp-sandbox")))
	})
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), nil))
}
"#;

/// Commits a tree with folders.
fn push(sdp: &Sdp, repository: &str, files: &[(&str, &str)]) {
    let repository = crate::harness::bare(&sdp.repository(repository)).expect("made");
    let mut index = git2::Index::new().expect("an index");
    for (path, text) in files {
        let id = repository.blob(text.as_bytes()).expect("a blob");
        let entry = git2::IndexEntry {
            ctime: git2::IndexTime::new(0, 0),
            mtime: git2::IndexTime::new(0, 0),
            dev: 0,
            ino: 0,
            mode: 0o100_644,
            uid: 0,
            gid: 0,
            file_size: 0,
            id,
            flags: 0,
            flags_extended: 0,
            path: path.as_bytes().to_vec(),
        };
        index.add(&entry).expect("added");
    }
    let tree = repository.find_tree(index.write_tree_to(&repository).expect("written")).expect("found");
    let author = git2::Signature::now("Go Pher", "go@example.com").expect("a name");
    repository.commit(Some("refs/heads/main"), &author, &author, "Serve", &tree, &[]).expect("committed");
}

#[test]
#[ignore = "needs Go; scripts/test runs it"]
fn a_go_service_is_built_from_its_subfolder_and_a_compile_error_is_shown() {
    run_test(async |sdp| {
        push(sdp, "shop", &[("go.mod", MODULE), ("greet/greet.go", GREET), ("cmd/shop/main.go", MAIN)]);
        let builder = json!({ "type": "go", "main_package": "cmd/shop" });
        sdp.service("shop", json!({ "builder": builder, "health": { "type": "tcp" } })).await;
        let url = sdp.deployed("shop", "main").await;
        assert_eq!(sdp.get(&url).await.2, "hello alice from go");

        let broken = MAIN.replace("greet.Hello(", "greet.Goodbye(");
        push(sdp, "broken", &[("go.mod", MODULE), ("greet/greet.go", GREET), ("cmd/shop/main.go", &broken)]);
        let builder = json!({ "type": "go", "main_package": "cmd/shop" });
        sdp.service("broken", json!({ "builder": builder })).await;
        let (failure, log) = sdp.failure("broken", "main").await;
        assert_eq!(failure.reason.code(), "build_failed");
        assert!(log.contains("Goodbye"), "{log}");
    });
}

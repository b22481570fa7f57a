//! A Go service as teams have them: main package in a subfolder, a package beside it, standard library only.

use serde_json::json;

use crate::harness::run_test;

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

#[test]
#[ignore = "needs Go; scripts/test runs it"]
fn a_go_service_is_built_from_its_subfolder_and_a_compile_error_is_shown() {
    run_test(async |sdp| {
        sdp.push(
            "shop",
            "main",
            &[("go.mod", MODULE), ("greet/greet.go", GREET), ("cmd/shop/main.go", MAIN)],
        );
        let builder = json!({ "type": "go", "main_package": "cmd/shop" });
        sdp.service("shop", json!({ "builder": builder, "health": { "type": "tcp" } })).await;
        let url = sdp.deployed("shop", "main").await;
        assert_eq!(sdp.get(&url).await.2, "hello alice from go");

        let broken = MAIN.replace("greet.Hello(", "greet.Goodbye(");
        sdp.push(
            "broken",
            "main",
            &[("go.mod", MODULE), ("greet/greet.go", GREET), ("cmd/shop/main.go", &broken)],
        );
        let builder = json!({ "type": "go", "main_package": "cmd/shop" });
        sdp.service("broken", json!({ "builder": builder })).await;
        let (failure, log) = sdp.failure("broken", "main").await;
        assert_eq!(failure.reason.code(), "build_failed");
        assert!(log.contains("Goodbye"), "{log}");
    });
}

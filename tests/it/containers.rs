//! Services in containers: real Docker, Go, PHP and Apache, on the images that an offline VM has. See `scripts/base-images`
//! for what these images are here.

mod cancel;
mod engine;
mod go;
mod golden;
mod php;
mod replace;
mod restart;
mod secrets;

use std::path::Path;

use sdp_agent::config::{DockerConfig, User};
use serde_json::{Value, json};

use crate::harness::{Sdp, run_test_with};
use engine::Engine;

/// Whoever builds and runs in these tests: never root.
const USER: User = User { uid: 64_100, gid: 64_100 };

/// Runs a test against a whole SDP whose agent runs containers; none of them is left afterwards.
fn run_container_test(test: impl AsyncFnOnce(&mut Sdp)) {
    run_container_test_at(&DockerConfig::default().socket, test);
}

/// The same; the engine is reached at this socket.
fn run_container_test_at(socket: &Path, test: impl AsyncFnOnce(&mut Sdp)) {
    run_test_with(
        |_, agent| {
            agent.docker = Some(DockerConfig { socket: socket.to_owned(), ..DockerConfig::default() });
            agent.build.user = Some(USER);
            agent.build.env.insert("GOPROXY".to_owned(), "off".to_owned());
        },
        async |sdp| {
            let _engine = Engine::of(sdp);
            test(sdp).await;
            // What runs outlives its agent: it goes with its sandbox.
            for sandbox in sdp.admin.sandboxes().await.expect("a list") {
                sdp.admin.delete_sandbox(&sandbox.sandbox.name).await.expect("deleted");
            }
            sdp.until("nothing is left of what ran", async |sdp| Engine::containers(sdp).is_empty()).await;
        },
    );
}

/// A program of one file that answers with `text`, its path and a few of its variables.
fn go_program(text: &str) -> String {
    r#"package main

import (
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"context"
)

func main() {
	server := &http.Server{Addr: ":" + os.Getenv("PORT")}
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		page, _ := os.ReadFile("page.txt")
		fmt.Fprintf(w, "TEXT %s%s", r.URL.Path, page)
	})
	stop, _ := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	go func() {
		<-stop.Done()
		server.Shutdown(context.Background())
	}()
	log.Println("listening on", server.Addr)
	if err := server.ListenAndServe(); err != http.ErrServerClosed {
		log.Fatal(err)
	}
}
"#
    .replace("TEXT", text)
}

const MODULE: &str = "module example.com/payments\n\ngo 1.19\n";

/// A Go service in a monorepo.
async fn payments(sdp: &Sdp, more: Value) {
    let mut entry = json!({
        "subdir": "services/payments",
        "builder": { "type": "go", "main_package": "cmd/payments" },
        "health": { "type": "http", "path": "/healthz" },
    });
    entry.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
    sdp.service("payments", entry).await;
}

fn push_payments(sdp: &Sdp, branch: &str, text: &str) {
    let program = go_program(text);
    sdp.push(
        "payments",
        branch,
        &[
            ("README.md", "A monorepo."),
            ("services/payments/go.mod", MODULE),
            ("services/payments/page.txt", " with its files"),
            ("services/payments/cmd/payments/main.go", &program),
        ],
    );
}

const INDEX: &str = r#"<?php
header('Content-Type: text/plain');
echo "TEXT ", strtok($_SERVER['REQUEST_URI'], '?'), " for ", getenv('SDP_SANDBOX'), " by ", ini_get('memory_limit') ? 'php' : '';
"#;
const HTACCESS: &str = "RewriteEngine On\nRewriteCond %{REQUEST_FILENAME} !-f\nRewriteRule ^ index.php [L]\n";

/// The API gateway: a front controller behind a rewrite rule, no composer.
async fn shop(sdp: &Sdp, more: Value) {
    let mut entry = json!({ "builder": { "type": "php" }, "health": { "type": "http", "path": "/healthz" } });
    entry.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
    sdp.service("shop", entry).await;
}

fn push_shop(sdp: &Sdp, branch: &str, text: &str) {
    let index = INDEX.replace("TEXT", text);
    sdp.push(
        "shop",
        branch,
        &[
            (".env", "SECRET=1"),
            ("public/.htaccess", HTACCESS),
            ("public/index.php", &index),
            ("public/style.css", "body { margin: 0 }"),
            ("public/broken.php", "<?php nonsense();"),
        ],
    );
}

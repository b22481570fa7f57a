//! PHP sites: the API gateway with its rewrite rules, through chat.

use sdp_core::api::AgainRequest;
use serde_json::json;

use super::engine::Engine;
use super::{payments, push_payments, push_shop, run_container_test, shop};
use crate::chat::typed;

#[test]
#[ignore = "needs Docker, Go and the base images; scripts/test runs it"]
fn a_php_gateway_and_a_go_service_are_deployed_from_chat_and_answer_through_the_router() {
    run_container_test(async |sdp| {
        push_shop(sdp, "main", "shop");
        shop(sdp, json!({})).await;
        push_payments(sdp, "main", "paid");
        payments(sdp, json!({})).await;
        let (said, well) =
            typed(sdp, "/sdp deploy shop main\n/sdp deploy payments main\n/sdp status\n").await;
        assert!(well, "{said}");
        assert!(said.contains("/~bob/shop/") && said.contains("/~bob/payments/"), "{said}");

        // The rewrite rule of .htaccess sends everything to the front controller, but for files that are there.
        let (status, served_by, body) = sdp.get(sdp.on_router("/~bob/shop/orders/42?x=1")).await;
        assert_eq!((status, body.as_str()), (200, "shop /orders/42 for bob by php"));
        assert!(served_by.starts_with("sandbox/bob/shop@"), "{served_by}");
        assert_eq!(sdp.get(sdp.on_router("/~bob/shop/style.css")).await.2, "body { margin: 0 }");
        assert_eq!(sdp.get(sdp.on_router("/~bob/payments/a")).await.2, "paid /a with its files");
        // Nothing above the document root is served.
        for path in ["../.env", ".htaccess", "%2e%2e/.env", "..%2f.env"] {
            let (status, _, body) = sdp.get(sdp.on_router(&format!("/~bob/shop/{path}"))).await;
            assert!(!body.contains("SECRET") && !body.contains("RewriteEngine"), "{path}: {status} {body}");
        }
        // A fault of the code is an answer 500, and its reason is in what the service prints.
        assert_eq!(sdp.get(sdp.on_router("/~bob/shop/broken.php")).await.0, 500);
        sdp.until("the error is printed", async |sdp| {
            typed(sdp, "/sdp logs shop\n").await.0.contains("nonsense()")
        })
        .await;
    });
}

#[test]
#[ignore = "needs Docker and the base images; scripts/test runs it"]
fn a_site_without_a_public_folder_is_served_from_its_top_and_writes_only_where_it_may() {
    run_container_test(async |sdp| {
        let page = "<?php echo @file_put_contents('storage/x', 'x') ? 'kept ' : 'lost ', @file_put_contents('x', 'x') ? 'open' : 'sealed', ' ', trim(file_get_contents('storage/seed.txt'));";
        sdp.push("shop", "main", &[("index.php", page), ("storage/seed.txt", "seed")]);
        shop(sdp, json!({ "writable": ["storage"], "health": { "type": "tcp" } })).await;
        let url = sdp.deployed("shop", "main").await;
        assert_eq!(sdp.get(&url).await.2, "kept sealed seed");

        // Another instance of the same build has a folder of its own.
        let first = Engine::containers(sdp);
        let again = sdp
            .admin
            .redeploy("1".parse().expect("a number"), &AgainRequest::default(), None)
            .await
            .expect("taken");
        let view = sdp.wait(again.id.into()).await;
        assert_eq!(view.deployment.reused_build, Some(true));
        sdp.until("the old one is gone", async |sdp| Engine::containers(sdp).is_disjoint(&first)).await;
        let container = Engine::containers(sdp).into_iter().next().expect("it runs");
        let (there, said) = Engine::exec(&container, &["ls", "/app/storage"]);
        assert_eq!((there, said.as_str()), (true, "seed.txt\n"));
    });
}

#[test]
#[ignore = "needs Docker and the base images; scripts/test runs it"]
fn composer_installs_what_is_in_the_repository_and_says_what_it_cannot_get() {
    run_container_test(async |sdp| {
        let composer = r#"{
            "repositories": [{ "type": "path", "url": "packages/greet", "options": { "symlink": false } }, { "packagist.org": false }],
            "require": { "shop/greet": "*" }
        }"#;
        let package =
            r#"{ "name": "shop/greet", "version": "1.0.0", "autoload": { "files": ["greet.php"] } }"#;
        let page = "<?php require __DIR__ . '/vendor/autoload.php'; echo greet();";
        let files = [
            ("composer.json", composer),
            ("packages/greet/composer.json", package),
            ("packages/greet/greet.php", "<?php function greet() { return 'composed'; }"),
            ("index.php", page),
        ];
        sdp.push("shop", "main", &files);
        shop(sdp, json!({ "health": { "type": "tcp" } })).await;
        let url = sdp.deployed("shop", "main").await;
        assert_eq!(sdp.get(&url).await.2, "composed");

        let nowhere = composer.replace(r#"{ "shop/greet": "*" }"#, r#"{ "shop/nowhere": "*" }"#);
        let mut files = files;
        files[0].1 = &nowhere;
        sdp.push("shop", "main", &files);
        let (failure, log) = sdp.failure("shop", "main").await;
        assert_eq!(failure.reason.code(), "dependency_unreachable", "{failure:?}\n{log}");
        assert!(failure.detail.contains("shop/nowhere"), "{failure:?}\n{log}");
        assert_eq!(sdp.get(&url).await.2, "composed", "the old one serves");
    });
}

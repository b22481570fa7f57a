//! `scripts/nginx-splice`, with a real nginx in front of a router.

use std::path::Path;
use std::process::{Command, Output};

use super::rig::free_port;
use super::*;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/nginx-splice");

fn splice(folder: &Path, more: &[&str]) -> (bool, String) {
    let conf = folder.join("nginx.conf");
    let Output { status, stdout, stderr } =
        Command::new(SCRIPT).arg("--conf").arg(&conf).args(more).output().unwrap();
    let said = String::from_utf8_lossy(&[stdout, stderr].concat()).replace(folder.to_str().unwrap(), "DIR");
    (status.success(), said)
}

fn nginx(folder: &Path, more: &[&str]) {
    assert!(
        Command::new("/usr/sbin/nginx")
            .arg("-c")
            .arg(folder.join("nginx.conf"))
            .args(more)
            .status()
            .unwrap()
            .success()
    );
}

#[tokio::test]
#[ignore = "needs nginx"]
async fn a_location_is_put_into_one_server_of_the_system_s_nginx_and_taken_out_again() {
    let backend = Backend::named("alice's").await;
    let mut config = RouterConfig::new(([127, 0, 0, 1], 0).into());
    config.trust_forwarded = true;
    config.base_url = Some("https://dev.test/sdp".parse().unwrap());
    let routes = Routes::default().service("hello", None);
    let world = World::with(config, routes.instance("alice", "hello", InstanceId::new(), backend.address));
    let router = world.router.local_addr().to_string();

    let folder = tempfile::tempdir().unwrap();
    let (dir, port) = (folder.path(), free_port());
    let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {}/{kind};", dir.display()))
        .join(" ");
    let main = format!(
        "user root;\npid {0}/pid;\nerror_log {0}/error.log;\nevents {{}}\nhttp {{ access_log off; {temp} include sites/*.conf; }}\n",
        dir.display()
    );
    std::fs::write(dir.join("nginx.conf"), main).unwrap();
    let site = format!(
        "# server_name dev.test; {{\nserver {{ listen 127.0.0.1:{port}; server_name dev.test www.dev.test; \
         location = /own {{ return 200 \"own }} x\"; }} }}\nserver {{\n  listen 127.0.0.1:{port};\n  \
         server_name other.test;\n  location / {{ return 404; }}\n}}\n"
    );
    std::fs::create_dir(dir.join("sites")).unwrap();
    let site_path = dir.join("sites/a.conf");
    std::fs::write(&site_path, &site).unwrap();
    nginx(dir, &[]);
    let wanted = ["--server", "dev.test", "--router", &router, "--location", "/sdp"];
    let (done, said) = splice(dir, &wanted);
    assert!(done, "{said}");
    assert_eq!(std::fs::read_to_string(dir.join("sites/a.conf.before-sdp")).unwrap(), site);

    let get = async |path: &str| {
        let request = Request::get(format!("http://127.0.0.1:{port}{path}")).header("host", "dev.test");
        let response = soon(world.client.request(request.body(body("")).unwrap())).await.unwrap();
        String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().into()).unwrap()
    };
    // The reload takes a moment.
    soon(async { while !get("/sdp/~alice/hello/").await.starts_with("alice's") {} }).await;
    let text = get("/sdp/~alice/hello/x%2Fy?q=%7E").await;
    assert!(text.starts_with("alice's GET /x%2Fy?q=%7E"), "{text}");
    assert!(text.contains("x-forwarded-prefix: /sdp/~alice/hello"), "{text}");
    assert!(text.contains("x-forwarded-for: 127.0.0.1, 127.0.0.1"), "{text}");
    assert_eq!(get("/own").await, "own } x");

    assert_eq!(splice(dir, &wanted), (true, "nothing to do: it is as it should be\n".into()));
    let spliced = std::fs::read(&site_path).unwrap();
    for (more, why) in [
        (["--server", "other.test", "--router", &router], "duplicate location \"/\""),
        (["--server", "nosuch.test", "--router", &router], "no server block has the server_name nosuch.test"),
        (["--server", "dev.test", "--router", "somewhere"], "--router is missing or no address with a port"),
        (["--server", "a;b", "--router", &router], "is no server_name"),
    ] {
        let (done, said) = splice(dir, &more);
        assert!(!done && said.contains(why) && said.contains("next: "), "{said}");
        assert_eq!(std::fs::read(&site_path).unwrap(), spliced, "{more:?}");
    }
    assert!(splice(dir, &["--server", "dev.test", "--undo"]).0);
    assert_eq!(std::fs::read_to_string(&site_path).unwrap(), site, "byte for byte");
    assert_eq!(splice(dir, &["--server", "dev.test", "--undo"]).1, "nothing to do: it is as it should be\n");
    nginx(dir, &["-s", "stop"]);
    world.stop().await;
}

//! What a container may do and see, for each builder: exactly this. A difference is a decision.

use serde_json::json;

use super::engine::Engine;
use super::{payments, push_payments, push_shop, run_container_test, shop};

#[test]
#[ignore = "needs Docker, Go and the base images; scripts/test runs it"]
fn docker_inspect_shows_exactly_this_for_go() {
    run_container_test(async |sdp| {
        push_payments(sdp, "main", "paid");
        payments(sdp, json!({ "writable": ["uploads"], "port": 9000, "env": { "LEVEL": "debug" } })).await;
        sdp.deployed("payments", "main").await;
        let container = Engine::containers(sdp).into_iter().next().expect("it runs");
        insta::assert_snapshot!(Engine::golden(sdp, &container), @r###"
        User "64100:64100"
        WorkingDir "/src/services/payments"
        Entrypoint null
        Cmd ["/out/app"]
        ExposedPorts {"9000/tcp":{}}
        Volumes null
        StopSignal null
        Healthcheck null
        ReadonlyRootfs true
        Privileged false
        CapAdd null
        CapDrop ["ALL"]
        SecurityOpt ["no-new-privileges"]
        Memory 536870912
        MemorySwap 536870912
        NanoCpus 1000000000
        PidsLimit 256
        Tmpfs {"/tmp":"rw,nosuid,nodev,noexec,size=64m,mode=1777"}
        Binds null
        Devices null
        PortBindings {"9000/tcp":[{"HostIp":"127.0.0.1","HostPort":"<port>"}]}
        PublishAllPorts false
        RestartPolicy {"MaximumRetryCount":3,"Name":"on-failure"}
        AutoRemove false
        LogConfig {"Config":{"max-file":"3","max-size":"10m"},"Type":"json-file"}
        NetworkMode "sdp-<id>"
        PidMode ""
        IpcMode "private"
        UTSMode ""
        UsernsMode ""
        GroupAdd null
        ExtraHosts null
        Dns null
        Links null
        VolumesFrom null
        Ulimits [{"Hard":0,"Name":"core","Soft":0}]
        Init true
        OomKillDisable false
        mount "bind" ro "<agent>/work/<deployment>/source" at "/src"
        mount "bind" ro "<agent>/work/<deployment>/output" at "/out"
        mount "bind" rw "<agent>/instances/<instance>/writable/0" at "/src/services/payments/uploads"
        mount "bind" ro "<agent>/instances/<instance>/context" at "/run/sdp"
        network sdp-<id>
        "###);
    });
}

#[test]
#[ignore = "needs Docker and the base images; scripts/test runs it"]
fn docker_inspect_shows_exactly_this_for_php() {
    run_container_test(async |sdp| {
        push_shop(sdp, "main", "shop");
        shop(sdp, json!({})).await;
        sdp.deployed("shop", "main").await;
        let container = Engine::containers(sdp).into_iter().next().expect("it runs");
        insta::assert_snapshot!(Engine::golden(sdp, &container), @r###"
        User "64100:64100"
        WorkingDir "/app"
        Entrypoint ["docker-php-entrypoint"]
        Cmd ["apache2-foreground","-f","/sdp/apache.conf"]
        ExposedPorts {"80/tcp":{},"8080/tcp":{}}
        Volumes null
        StopSignal "SIGWINCH"
        Healthcheck null
        ReadonlyRootfs true
        Privileged false
        CapAdd null
        CapDrop ["ALL"]
        SecurityOpt ["no-new-privileges"]
        Memory 536870912
        MemorySwap 536870912
        NanoCpus 1000000000
        PidsLimit 256
        Tmpfs {"/tmp":"rw,nosuid,nodev,noexec,size=64m,mode=1777"}
        Binds null
        Devices null
        PortBindings {"8080/tcp":[{"HostIp":"127.0.0.1","HostPort":"<port>"}]}
        PublishAllPorts false
        RestartPolicy {"MaximumRetryCount":3,"Name":"on-failure"}
        AutoRemove false
        LogConfig {"Config":{"max-file":"3","max-size":"10m"},"Type":"json-file"}
        NetworkMode "sdp-<id>"
        PidMode ""
        IpcMode "private"
        UTSMode ""
        UsernsMode ""
        GroupAdd null
        ExtraHosts null
        Dns null
        Links null
        VolumesFrom null
        Ulimits [{"Hard":0,"Name":"core","Soft":0}]
        Init true
        OomKillDisable false
        mount "bind" ro "<agent>/work/<deployment>/source" at "/app"
        mount "bind" ro "<agent>/work/<deployment>/output" at "/sdp"
        mount "bind" ro "<agent>/instances/<instance>/context" at "/run/sdp"
        network sdp-<id>
        "###);
    });
}

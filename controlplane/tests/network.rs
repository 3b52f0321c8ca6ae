//! The command line over the network: a server that listens, tokens for its clients, and what is refused.

mod support;

use std::fs;

use support::{TestServer, demo_manifest, run_praas, scratch};

fn serve(directory: &std::path::Path, arguments: &[&str]) -> TestServer {
    let manifest = directory.join("praas.toml");
    fs::write(&manifest, demo_manifest()).unwrap();
    TestServer::start_with_arguments(directory, &manifest, arguments)
}

fn address(server: &TestServer, index: usize) -> String {
    server.announced["addresses"][index].as_str().unwrap().to_owned()
}

#[test]
fn a_client_with_an_address_and_a_token_needs_nothing_else() {
    for driver in ["auto", "epoll"] {
        let scratch = scratch();
        let arguments = ["--listen", "127.0.0.1:0", "--listen", "[::1]:0", "--driver", driver];
        let server = serve(scratch.path(), &arguments);
        server.praas(&["process", "create", "demo/alice"]).succeeded();
        let token = server.praas(&["token", "create", "--process", "demo/alice", "--expires", "1h"]).succeeded();
        let token_file = scratch.path().join("token");
        fs::write(&token_file, token.out()).unwrap();
        let elsewhere = scratch.path().join("elsewhere");
        for index in [0, 1] {
            let to_server = ["--server", &address(&server, index), "--token-file", token_file.to_str().unwrap()];
            for way in [&["--transport", "network"][..], &["--transport", "network", "--dedicated"], &[]] {
                let call = [&to_server[..], &["invoke", "demo/alice", "noop", "over there"], way].concat();
                assert_eq!(run_praas(&elsewhere, &call).succeeded().out(), "over there", "{driver} {way:?}");
            }
            let ping = [&to_server[..], &["ping", "demo/alice", "--count", "1", "--transport", "network"]].concat();
            assert!(run_praas(&elsewhere, &ping).succeeded().out().contains("demo/alice call 1"));
            // The token covers calls and nothing else.
            let list = [&to_server[..], &["--json", "process", "list"]].concat();
            let ended = run_praas(&elsewhere, &list);
            assert_eq!((ended.code(), &ended.failure()["kind"]), (1, &"unauthorized".into()), "{ended:?}");
        }
        assert!(server.end().status.success());
    }
}

#[test]
fn processes_are_managed_over_the_network_as_on_the_host() {
    let scratch = scratch();
    let server = serve(scratch.path(), &["--listen", "127.0.0.1:0"]);
    let token = ["token", "create", "--application", "demo", "--rights", "invoke,manage", "--expires", "1h"];
    let token_file = scratch.path().join("token");
    fs::write(&token_file, server.praas(&token).succeeded().out()).unwrap();
    let elsewhere = scratch.path().join("elsewhere");
    let address = address(&server, 0);
    let praas = |arguments: &[&str]| {
        let to_server = ["--server", &address, "--token-file", token_file.to_str().unwrap()];
        run_praas(&elsewhere, &[&to_server[..], arguments].concat())
    };
    praas(&["process", "create", "demo/bob"]).succeeded();
    assert!(praas(&["process", "list"]).succeeded().out().contains("demo/bob"));
    praas(&["process", "restart", "demo/bob"]).succeeded();
    assert_eq!(praas(&["invoke", "demo/bob", "noop", "x", "--transport", "network"]).succeeded().out(), "x");
    let stats = praas(&["--json", "stats", "demo/bob"]).succeeded().json();
    assert!(stats["processes"][0]["functions"][0]["calls"].as_u64().unwrap() >= 1, "{stats}");
    praas(&["process", "stop", "demo/bob"]).succeeded();
    assert!(!praas(&["process", "list"]).succeeded().out().contains("demo/bob"));
    assert!(server.end().status.success());
}

#[test]
fn an_address_that_others_reach_needs_a_word_and_a_wrong_one_says_why() {
    let scratch = scratch();
    fs::write(scratch.path().join("praas.toml"), demo_manifest()).unwrap();
    let manifest = scratch.path().to_str().unwrap();
    let ended = run_praas(scratch.path(), &["--json", "serve", "--listen", "0.0.0.0:0", manifest]);
    assert_eq!((ended.code(), &ended.failure()["kind"]), (1, &"insecure_network".into()), "{ended:?}");

    let server = serve(scratch.path(), &["--listen", "0.0.0.0:0", "--insecure-network"]);
    let ended = server.end();
    assert!(ended.status.success() && ended.err().contains("not encrypted"), "{ended:?}");

    let token_file = scratch.path().join("token");
    fs::write(&token_file, "praas1.00.00\n").unwrap();
    let nobody = ["--json", "--server", "127.0.0.1:1", "--token-file", token_file.to_str().unwrap(), "process", "list"];
    let ended = run_praas(scratch.path(), &nobody);
    assert_eq!(ended.code(), 3, "{ended:?}");
}

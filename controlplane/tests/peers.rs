//! `praas serve --peer`: servers that know each other, started as the README has it, and what is said when they cannot be. The
//! function binary is this very test binary: its worker is the test called `worker`.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};

use praas_function::{Application, Call, FunctionResult, is_worker};
use serde_json::Value;
use support::{TestServer, eventually, manifest_of, run_praas, scratch};

/// Not a test but a worker, when a server starts it.
#[test]
fn worker() {
    if !is_worker() {
        println!("skipped: this is the worker of the other tests");
        return;
    }
    Application::new()
        .function("greet", |call: &mut Call<'_>| {
            let name = call.context().process().process;
            format!("{name} greets {}", String::from_utf8_lossy(call.input()))
        })
        .function("have-greeted", |call: &mut Call<'_>| -> FunctionResult<Vec<u8>> {
            let input = String::from_utf8(call.input().to_vec())?;
            let (by, whom) = input.split_once(' ').unwrap_or((&input, "nobody"));
            Ok(call.context().invoke(by, "greet", whom.as_bytes())?.to_vec())
        })
        .function("processes", |call: &mut Call<'_>| -> FunctionResult<String> {
            let list = call.context().processes()?;
            Ok(list.iter().map(|process| format!("{} {}\n", process.name, process.state)).collect())
        })
        .run()
}

fn manifest(directory: &Path) -> PathBuf {
    manifest_of(directory, "hello", "")
}

/// A server that listens, with one process.
fn serve(directory: &Path, process: &str, more: &[&str]) -> TestServer {
    let arguments = [&["--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"], more].concat();
    let server = TestServer::start_with_arguments(directory, &manifest(directory), &arguments);
    server.praas(&["process", "create", process]).succeeded();
    server
}

/// What a server is told to call another one, whose token the file gets.
fn as_peer(server: &TestServer, rights: &str, token_file: &Path) -> String {
    let token = ["token", "create", "--application", "hello", "--rights", rights, "--expires", "30d"];
    fs::write(token_file, server.praas(&token).succeeded().stdout).unwrap();
    format!("{}={}", address(server), token_file.display())
}

fn address(server: &TestServer) -> String {
    server.announced["addresses"][0].as_str().unwrap().to_owned()
}

/// The value of a figure, 0 while it is not there.
fn figure(server: &TestServer, name: &str) -> u64 {
    let url = server.announced["metrics"].as_str().unwrap();
    let mut stream =
        TcpStream::connect(url.strip_prefix("http://").unwrap().strip_suffix("/metrics").unwrap()).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let line = answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0, |value| value.parse().unwrap())
}

/// Waits until a process of this server sees that line in its list.
fn await_line(server: &TestServer, process: &str, line: &str) {
    eventually(|| {
        let listed = server.praas(&["invoke", process, "processes"]).succeeded().out();
        if listed.lines().any(|one| one == line) { Ok(()) } else { Err(listed) }
    });
}

const RIGHTS: &str = "invoke,trusted,state,messages";

#[test]
fn a_function_calls_a_process_of_a_server_that_was_named_as_a_peer() {
    let (five, six) = (scratch(), scratch());
    let bobs = serve(six.path(), "hello/bob", &[]);
    let peer = as_peer(&bobs, RIGHTS, &five.path().join("for-five.token"));
    let alices = serve(five.path(), "hello/alice", &["--peer", &peer]);
    assert_eq!(alices.announced["peers"][0], Value::from(address(&bobs)));
    await_line(&alices, "hello/alice", "bob active");
    let greeted = alices.praas(&["invoke", "hello/alice", "have-greeted", "bob alice"]).succeeded();
    assert_eq!(greeted.out(), "bob greets alice");

    let linked = format!("praas_peer_linked{{address=\"{}\"}}", address(&bobs));
    assert_eq!(figure(&alices, &linked), 1);
    assert_eq!(figure(&alices, &linked.replace("linked", "known")), 1);
    assert!(figure(&alices, "praas_gateway_calls_total") >= 1 && figure(&alices, "praas_gateways") >= 1);
    assert_eq!(figure(&alices, "praas_sessions"), 0);
    // Bob's server was told of nobody.
    let ended = bobs.praas(&["--json", "invoke", "hello/bob", "have-greeted", "alice bob"]);
    assert_eq!(ended.failure()["kind"], "function_failed", "{ended:?}");

    assert!(bobs.end().status.success());
    await_line(&alices, "hello/alice", "bob unreachable");
    assert_eq!(figure(&alices, &linked), 0);
    assert!(alices.end().status.success());
}

#[test]
fn a_server_says_why_it_has_no_link_to_a_peer() {
    let (five, six) = (scratch(), scratch());
    let bobs = serve(six.path(), "hello/bob", &[]);
    let file = five.path().join("wrong.token");
    let peer = as_peer(&bobs, "invoke", &file);
    let few = fs::read_to_string(&file).unwrap();
    // Another signature than the server made.
    let (claims, signature) = few.trim().rsplit_once('.').unwrap();
    let forged = format!("{claims}.{}", signature.chars().rev().collect::<String>());
    for (token, why) in [(forged, "it refuses the token"), (few, "it needs the right \"trusted\"")] {
        fs::write(&file, token).unwrap();
        let alices = serve(five.path(), "hello/alice", &["--peer", &peer]);
        let ended = alices.praas(&["--json", "invoke", "hello/alice", "have-greeted", "bob alice"]);
        assert_eq!(ended.failure()["kind"], "function_failed", "{ended:?}");
        // The next server would have her again.
        alices.praas(&["process", "stop", "hello/alice"]).succeeded();
        let ended = alices.end();
        assert!(ended.status.success(), "{ended:?}");
        let said = ended.err();
        let says_why = |line: &str| line.contains(&address(&bobs)) && line.contains(why);
        assert!(said.lines().any(says_why), "{why}: {said}");
    }
    assert!(bobs.end().status.success());
}

#[test]
fn a_peer_without_a_token_or_on_another_host_is_refused_before_anything_starts() {
    let scratch = scratch();
    let manifest = manifest(scratch.path());
    let manifest = manifest.to_str().unwrap();
    let file = scratch.path().join("for-five.token");
    let refused = |peer: &str| {
        let ended = run_praas(scratch.path(), &["--json", "serve", "--peer", peer, manifest]);
        assert_ne!(ended.code(), 0, "{ended:?}");
        ended.failure()
    };
    let failure = refused(&format!("127.0.0.1:7411={}", file.display()));
    assert!(failure["message"].as_str().unwrap().contains("for-five.token"), "{failure}");
    for host in ["10.0.0.6:7411", "six.example:7411"] {
        let failure = refused(&format!("{host}={}", file.display()));
        assert_eq!(failure["kind"], "insecure_network", "{failure}");
        let message = failure["message"].as_str().unwrap();
        assert!(message.contains(host) && message.contains("--insecure-network"), "{message}");
    }
    for wrong in ["127.0.0.1:7411", "127.0.0.1=token", "127.0.0.1:7411="] {
        assert_eq!(refused(wrong)["kind"], "usage", "{wrong}");
    }
}

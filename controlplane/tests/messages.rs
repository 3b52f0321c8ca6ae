//! `praas message`: messages to processes and back through the command line, on the host and over the network. The function binary
//! is this very test binary: its worker is the test called `worker`.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use praas_function::{Application, Call, FunctionResult, Sources, is_worker};
use serde_json::Value;
use support::{Ended, TestServer, manifest_of, praas, run_praas, run_with_input, scratch};

const SOON: Duration = Duration::from_secs(30);

/// Not a test but a worker, when a server starts it.
#[test]
fn worker() {
    if !is_worker() {
        println!("skipped: this is the worker of the other tests");
        return;
    }
    Application::new()
        // Sends what comes under `questions` back to who sent it, in capitals.
        .function("answer", |call: &mut Call<'_>| {
            let context = call.context();
            let message = context.recv(Sources::Any, "questions", SOON)?;
            context.send_within(message.source(), "answers", &message.bytes().to_ascii_uppercase(), SOON)?;
            FunctionResult::Ok(())
        })
        // What lies under a key, one message a line.
        .function("all", |call: &mut Call<'_>| {
            let key = String::from_utf8(call.input().to_vec())?;
            let (context, mut texts) = (call.context(), Vec::new());
            while let Some(message) = context.try_recv(Sources::Any, &key)? {
                texts.push(String::from_utf8_lossy(message.bytes()).into_owned());
            }
            FunctionResult::Ok(texts.join("\n"))
        })
        .run()
}

/// A server with the process `mail/alice`.
fn serve(directory: &Path) -> TestServer {
    let manifest = manifest_of(directory, "mail", "[limits]\nstate_bytes_max = \"1MiB\"");
    let server = TestServer::start_with_arguments(directory, &manifest, &["--listen", "127.0.0.1:0"]);
    server.praas(&["process", "create", "mail/alice"]).succeeded();
    server
}

fn message(server: &TestServer, words: &[&str]) -> Ended {
    server.praas(&[&["message"], words].concat())
}

fn all(server: &TestServer, key: &str) -> String {
    server.praas(&["invoke", "mail/alice", "all", key]).succeeded().out()
}

fn ended_with(ended: &Ended) -> (i32, String) {
    (ended.code(), ended.failure()["kind"].as_str().unwrap().to_owned())
}

#[test]
fn messages_are_sent_from_arguments_files_and_standard_input() {
    let scratch = scratch();
    let server = serve(scratch.path());
    let sent = message(&server, &["send", "mail/alice", "notes", "good day"]).succeeded();
    assert!(sent.out().contains("mail/alice has the message \"notes\" (8 bytes)"), "{sent:?}");
    let file = scratch.path().join("file");
    fs::write(&file, "from a file").unwrap();
    message(&server, &["send", "mail/alice", "notes", "--file", file.to_str().unwrap()]).succeeded();
    run_with_input(praas(&server.data).args(["message", "send", "mail/alice", "notes", "-"]), b"piped").succeeded();
    let sent = message(&server, &["--json", "send", "mail/alice", "notes", "--within", "5s"]).succeeded().json();
    assert_eq!((&sent["process"], &sent["key"], &sent["bytes"]), (&"mail/alice".into(), &"notes".into(), &0.into()));
    assert!(sent["source"].as_str().unwrap().starts_with("client ") && sent["id"].as_str().unwrap().contains('/'));
    assert_eq!(all(&server, "notes"), "good day\nfrom a file\npiped\n");
    assert!(server.end().status.success());
}

#[test]
fn an_answer_is_waited_for_and_a_session_in_a_file_receives_it_later() {
    let scratch = scratch();
    let server = serve(scratch.path());
    std::thread::scope(|scope| {
        let answering = scope.spawn(|| server.praas(&["invoke", "mail/alice", "answer"]).succeeded());
        let asked = message(&server, &["send", "mail/alice", "questions", "how are you", "--answer", "answers"]);
        assert_eq!(asked.succeeded().stdout, b"HOW ARE YOU");
        answering.join().unwrap();
    });

    let file = scratch.path().join("mine");
    let mine = file.to_str().unwrap();
    message(&server, &["send", "mail/alice", "questions", "later", "--session", mine]).succeeded();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    server.praas(&["invoke", "mail/alice", "answer"]).succeeded();
    let recv = |words: &[&str]| message(&server, &[&["recv", "mail", "answers", "--session", mine], words].concat());
    let from_others = recv(&["--from", "mail/bob", "--timeout", "20ms", "--json"]);
    assert_eq!(ended_with(&from_others), (5, "no_message".to_owned()));
    let got = recv(&["--from", "alice", "--json"]).succeeded().json();
    assert_eq!((&got["source"], &got["data"]["text"]), (&"alice".into(), &"LATER".into()));
    assert_eq!(got["is_redelivered"], false);
    assert_eq!(ended_with(&recv(&["--timeout", "20ms", "--json"])), (5, "no_message".to_owned()), "it was accepted");

    let other = message(&server, &["recv", "other", "answers", "--session", mine, "--json"]);
    assert_eq!(ended_with(&other), (2, "usage".to_owned()));
    assert!(server.end().status.success());
}

#[test]
fn what_cannot_be_sent_or_received_says_why() {
    let scratch = scratch();
    let server = serve(scratch.path());
    let send = |words: &[&str]| message(&server, &[&["--json", "send"], words].concat());
    assert_eq!(ended_with(&send(&["mail/nobody", "k", "x"])), (1, "unknown_process".to_owned()));
    assert_eq!(ended_with(&send(&["nothing/alice", "k", "x"])), (1, "unknown_application".to_owned()));
    assert_eq!(ended_with(&send(&["mail/alice", "", "x"])), (2, "usage".to_owned()));
    let large = scratch.path().join("large");
    fs::File::create(&large).unwrap().set_len(900_000).unwrap();
    let mine = scratch.path().join("mine");
    let large = ["mail/alice", "much", "--file", large.to_str().unwrap(), "--session", mine.to_str().unwrap()];
    let full = (0..100).map(|_| send(&large)).find(|ended| ended.code() != 0).expect("it is full some time");
    assert_eq!(ended_with(&full), (1, "mailbox_full".to_owned()));

    let file = scratch.path().join("broken");
    fs::write(&file, "no ticket").unwrap();
    let broken = send(&["mail/alice", "k", "x", "--session", file.to_str().unwrap()]);
    assert_eq!(ended_with(&broken), (2, "usage".to_owned()));
    let foreign = format!("praas-session1:mail:{:032x}:{:032x}\n", 7, 8);
    fs::write(&file, &foreign).unwrap();
    let lapsed = send(&["mail/alice", "k", "x", "--session", file.to_str().unwrap()]);
    assert_eq!(ended_with(&lapsed), (1, "session_lapsed".to_owned()));
    let words = lapsed.failure()["message"].as_str().unwrap().to_owned();
    assert!(words.contains(file.to_str().unwrap()) && words.contains("Remove the file"), "{words}");
    assert_eq!(fs::read_to_string(&file).unwrap(), foreign, "a file is not written over");
    assert!(server.end().status.success());
}

#[test]
fn over_the_network_the_token_needs_the_right_and_the_refusal_says_how_to_get_it() {
    let scratch = scratch();
    let server = serve(scratch.path());
    let address = server.announced["addresses"][0].as_str().unwrap().to_owned();
    let elsewhere = scratch.path().join("elsewhere");
    let token_file = scratch.path().join("token");
    let with_rights = |rights: &str| {
        let token = ["token", "create", "--application", "mail", "--rights", rights, "--expires", "1h"];
        fs::write(&token_file, server.praas(&token).succeeded().out()).unwrap();
    };
    let far = |words: &[&str]| {
        let to_server = ["--server", &address, "--token-file", token_file.to_str().unwrap(), "--json", "message"];
        run_praas(&elsewhere, &[&to_server[..], words].concat())
    };
    for way in ["network", "automatic"] {
        with_rights("messages");
        std::thread::scope(|scope| {
            let answering = scope.spawn(|| server.praas(&["invoke", "mail/alice", "answer"]).succeeded());
            let words = ["send", "mail/alice", "questions", "from afar", "--answer", "answers", "--transport", way];
            let asked = far(&words).succeeded().out();
            let documents: Vec<Value> = asked.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            assert_eq!(documents.len(), 2, "{asked}");
            assert_eq!(documents[1]["data"]["text"], "FROM AFAR", "{way}");
            answering.join().unwrap();
        });
        with_rights("invoke,state");
        let refused = far(&["send", "mail/alice", "questions", "x", "--transport", way]);
        assert_eq!(ended_with(&refused), (1, "unauthorized".to_owned()), "{way}");
        let words = refused.failure()["message"].as_str().unwrap().to_owned();
        assert!(words.contains("--rights messages"), "{words}");
    }
    assert!(server.end().status.success());
}

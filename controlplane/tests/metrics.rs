//! `praas serve --metrics` answers collectors in the OpenMetrics format, on loopback or a Unix socket, and nobody can hold
//! it up.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};

use support::{PATIENCE, TestServer, demo_manifest, scratch};

fn serve(directory: &std::path::Path, address: &str) -> TestServer {
    serve_with(directory, &["--metrics", address])
}

fn serve_with(directory: &std::path::Path, arguments: &[&str]) -> TestServer {
    let manifest = directory.join("praas.toml");
    fs::write(&manifest, demo_manifest()).unwrap();
    TestServer::start_with_arguments(directory, &manifest, arguments)
}

/// The value of the first figure whose line begins so.
fn value(body: &str, name: &str) -> f64 {
    let line = body.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name} is missing:\n{body}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

fn ask(mut stream: impl Read + Write, request: &str) -> String {
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

const GET: &str = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";

#[test]
fn a_collector_reads_what_was_counted() {
    let scratch = scratch();
    let server = serve(scratch.path(), "127.0.0.1:0");
    let url = server.announced["metrics"].as_str().unwrap().to_owned();
    let address = url.strip_prefix("http://").and_then(|rest| rest.strip_suffix("/metrics")).unwrap().to_owned();
    server.praas(&["process", "create", "demo/alice"]).succeeded();
    server.praas(&["invoke", "demo/alice", "noop", "x", "--repeat", "130"]).succeeded();

    let answer = ask(TcpStream::connect(&address).unwrap(), GET);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK") && head.contains("application/openmetrics-text"), "{head}");
    assert!(body.ends_with("# EOF\n"), "{body}");
    let value = |name: &str| value(body, name);
    assert!(value("praas_workers_started_total") >= 1.0);
    assert!(value("praas_transitions_total") >= 2.0, "created, active");
    assert!(value("praas_function_calls_total{process=\"demo/alice\",function=\"noop\"}") >= 130.0);
    assert!(value("praas_function_duration_seconds_count{process=\"demo/alice\",function=\"noop\"}") >= 2.0);
    assert!(value("praas_function_duration_seconds_sum{process=\"demo/alice\",function=\"noop\"}") > 0.0);
    assert!(value("praas_process_workers{process=\"demo/alice\"}") >= 1.0);
    // Buckets are cumulative, and the last holds all.
    let buckets: Vec<f64> = body
        .lines()
        .filter(|line| line.starts_with("praas_function_duration_seconds_bucket"))
        .map(|line| line.rsplit(' ').next().unwrap().parse().unwrap())
        .collect();
    assert!(buckets.windows(2).all(|pair| pair[0] <= pair[1]), "{body}");

    for (request, status) in [
        ("GET /elsewhere HTTP/1.1\r\n\r\n".to_owned(), "404"),
        ("POST /metrics HTTP/1.1\r\n\r\n".to_owned(), "405"),
        ("\r\n\r\n".to_owned(), "405"),
        (format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(9000)), "431"),
    ] {
        let mut stream = TcpStream::connect(&address).unwrap();
        // It may be refused before it was read whole.
        let _ = stream.write_all(request.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() && status == "431" || answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
    }
    assert!(server.end().status.success());
}

#[test]
fn a_unix_socket_is_the_owners_alone_survives_a_stale_one_and_goes_with_the_server() {
    let scratch = scratch();
    let path = scratch.path().join("metrics.sock");
    // Left behind by a server that was killed.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    // Whoever waits for the moment in which others may connect finds none: the mode is right as soon as there is a file.
    let ends = AtomicBool::new(false);
    let server = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut wide = Vec::new();
            while !ends.load(Ordering::Relaxed) {
                let mode = fs::symlink_metadata(&path).ok().map(|found| found.permissions().mode() & 0o077);
                wide.extend(mode.filter(|mode| *mode != 0));
            }
            wide
        });
        let server = serve(scratch.path(), &format!("unix:{}", path.display()));
        ends.store(true, Ordering::Relaxed);
        assert_eq!(watcher.join().unwrap(), [0_u32; 0]);
        server
    });
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    // One that says nothing delays the next for a bounded time only.
    let silent = UnixStream::connect(&path).unwrap();
    let answer = ask(UnixStream::connect(&path).unwrap(), GET);
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    drop(silent);
    assert!(server.end().status.success());
    assert!(!path.exists());
}

#[test]
fn a_collector_reads_what_the_network_did() {
    let scratch = scratch();
    let server = serve_with(scratch.path(), &["--metrics", "127.0.0.1:0", "--listen", "127.0.0.1:0"]);
    let url = server.announced["metrics"].as_str().unwrap().to_owned();
    let metrics = url.strip_prefix("http://").and_then(|rest| rest.strip_suffix("/metrics")).unwrap().to_owned();
    let listening = server.announced["addresses"][0].as_str().unwrap().to_owned();
    server.praas(&["process", "create", "demo/alice"]).succeeded();
    let payload = "x".repeat(5000);
    let remote = ["--server", &listening, "invoke", "demo/alice", "noop", &payload, "--transport", "network"];
    server.praas(&[&remote[..], &["--repeat", "100"]].concat()).succeeded();
    let wrong = scratch.path().join("wrong");
    fs::write(&wrong, "praas1.00.00\n").unwrap();
    let refused = ["--server", &listening, "--token-file", wrong.to_str().unwrap(), "process", "list"];
    assert!(!server.praas(&refused).status.success());

    let mut open = TcpStream::connect(&listening).unwrap();
    let mut body = String::new();
    let end = std::time::Instant::now() + PATIENCE;
    // The connection of the calls ends after its client did, and this one is accepted when the server gets to it.
    while body.is_empty() || value(&body, "praas_network_connections ") != 1.0 {
        assert!(std::time::Instant::now() < end, "{body}");
        let answer = ask(TcpStream::connect(&metrics).unwrap(), GET);
        answer.split_once("\r\n\r\n").unwrap().1.clone_into(&mut body);
    }
    let value = |name: &str| value(&body, name);
    assert!(value("praas_network_connections_accepted_total") >= 3.0, "{body}");
    assert!(value("praas_network_connections_refused_total") >= 1.0);
    assert!(value("praas_network_calls_answered_total") >= 100.0);
    assert!(value("praas_network_received_bytes_total") >= 500_000.0);
    assert!(value("praas_network_sent_bytes_total") >= 500_000.0);
    assert!(value("praas_network_lanes_opened_total") >= 1.0);
    for gauge in ["calls_in_flight", "calls_waiting", "calls_quarantined", "slow_readers_closed_total"] {
        assert!(value(&format!("praas_network_{gauge}")) == 0.0, "{gauge}:\n{body}");
    }
    assert!(value("praas_turn_max_seconds") > 0.0);
    // Every counter ends as the format has it.
    let mut counters = body.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"));
    assert!(counters.all(|name| body.lines().any(|line| line.starts_with(&format!("{name}_total")))), "{body}");
    open.write_all(b"x").unwrap();
    drop(open);
    assert!(server.end().status.success());
}

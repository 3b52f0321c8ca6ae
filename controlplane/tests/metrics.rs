//! `praas serve --metrics` answers collectors in the OpenMetrics format, on loopback or a Unix socket, and nobody can hold
//! it up.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use support::{TestServer, demo_manifest, scratch};

fn serve(directory: &std::path::Path, address: &str) -> TestServer {
    let manifest = directory.join("praas.toml");
    fs::write(&manifest, demo_manifest()).unwrap();
    TestServer::start_with_arguments(directory, &manifest, &["--metrics", address])
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
    let value = |name: &str| -> f64 {
        let line =
            body.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name} is missing:\n{body}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    assert!(value("praas_workers_started_total") >= 1.0);
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
    let server = serve(scratch.path(), &format!("unix:{}", path.display()));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    // One that says nothing delays the next for a bounded time only.
    let silent = UnixStream::connect(&path).unwrap();
    let answer = ask(UnixStream::connect(&path).unwrap(), GET);
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    drop(silent);
    assert!(server.end().status.success());
    assert!(!path.exists());
}

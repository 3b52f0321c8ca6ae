//! Redis servers of our own.

use praas_storage::redis::RedisBackend;

use crate::servers::{Server, free_ports, program};

pub(crate) const PASSWORD: &str = "praas-test-password";

/// A Redis with these settings, and its address.
pub(crate) fn redis(settings: &[&str]) -> Option<(Server, String)> {
    let path = program("redis-server", "redis")?;
    let [port] = free_ports();
    let address = format!("redis://:{PASSWORD}@127.0.0.1:{port}/0");
    let arguments = |directory: &std::path::Path| {
        let ours =
            ["--bind", "127.0.0.1", "--port", &port.to_string(), "--requirepass", PASSWORD, "--save", "", "--dir"];
        let directory = directory.display().to_string();
        ours.into_iter().chain([directory.as_str()]).chain(settings.iter().copied()).map(str::to_owned).collect()
    };
    let (server, _) = Server::start(&path, arguments, || RedisBackend::open_with_limit_ms(&address, 1000));
    Some((server, address))
}

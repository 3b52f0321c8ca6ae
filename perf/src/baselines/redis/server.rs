//! A Redis server of its own, or the one that the environment names.

use std::env;
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use super::super::server::{Launch, ServerProgram, free_port};
use super::super::{BaselineError, install};
use super::{RedisClient, RedisEndpoint};

/// `HOST:PORT` of a Redis to measure in place of one of our own.
pub const URL_VARIABLE: &str = "PRAAS_PERF_REDIS";

const PROGRAM: &str = "redis-server";
const PART: &str = "redis";
const SOCKET: &str = "redis.sock";
/// Ports tried: another program may take the one that was found free.
const PORTS_TRIED: u32 = 5;

/// A running Redis. One of our own ends when dropped.
#[derive(Debug)]
pub struct Redis {
    unix: Option<PathBuf>,
    tcp: String,
    version: String,
    server: Option<ServerProgram>,
}

impl Redis {
    /// Starts a server on this core, if one is given; or finds the one that [`URL_VARIABLE`] names.
    ///
    /// # Errors
    /// [`BaselineError::NotInstalled`] or [`BaselineError::NotUp`].
    pub fn start(cpu: Option<usize>) -> Result<Self, BaselineError> {
        match env::var(URL_VARIABLE) {
            Ok(address) if !address.is_empty() => Self::elsewhere(address),
            _ => Self::start_own(cpu),
        }
    }

    /// Starts a server of our own in any case.
    ///
    /// # Errors
    /// As [`Redis::start`].
    pub fn start_own(cpu: Option<usize>) -> Result<Self, BaselineError> {
        let program = install::program(PROGRAM, PART)?;
        let mut tried = 0;
        loop {
            tried += 1;
            let port = free_port()?;
            let launch = Launch::new(PROGRAM, &program)?.cpu(cpu);
            let unix = launch.directory().join(SOCKET);
            let tcp = format!("{}:{port}", Ipv4Addr::LOCALHOST);
            let launch = launch.args(["--bind", "127.0.0.1", "--port"]).arg(port.to_string());
            // Workers of functions are other users.
            let launch = launch.arg("--unixsocket").arg(&unix).args(["--unixsocketperm", "777"]);
            let launch = launch.args(["--daemonize", "no", "--save", "", "--appendonly", "no"]);
            let endpoint = RedisEndpoint::Tcp(tcp.clone());
            let started = launch.start(|| {
                // Its socket file says that the server that answers on the port is this one.
                fs::metadata(&unix).map_err(BaselineError::system("find the socket of Redis"))?;
                RedisClient::connect(&endpoint)?.version()
            });
            match started {
                Ok((server, version)) => {
                    return Ok(Self { unix: Some(unix), tcp, version, server: Some(server) });
                }
                Err(_) if tried < PORTS_TRIED => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn elsewhere(tcp: String) -> Result<Self, BaselineError> {
        let version = RedisClient::connect(&RedisEndpoint::Tcp(tcp.clone()))?.version()?;
        Ok(Self { unix: None, tcp, version, server: None })
    }

    /// The version that the server says it has.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Where it listens on a Unix socket: none if it runs elsewhere.
    #[must_use]
    pub fn unix(&self) -> Option<RedisEndpoint> {
        self.unix.clone().map(RedisEndpoint::Unix)
    }

    /// Where it listens on TCP.
    #[must_use]
    pub fn tcp(&self) -> RedisEndpoint {
        RedisEndpoint::Tcp(self.tcp.clone())
    }

    /// The quickest way to it: the Unix socket, or TCP if it runs elsewhere.
    #[must_use]
    pub fn quickest(&self) -> RedisEndpoint {
        self.unix().unwrap_or_else(|| self.tcp())
    }

    /// The process of a server of our own.
    #[must_use]
    pub fn process_id(&self) -> Option<u32> {
        self.server.as_ref().map(ServerProgram::process_id)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::super::Requests;
    use super::*;

    const SIZES: [usize; 6] = [0, 1, 1024, 16 << 10, (16 << 10) + 1, 5 << 20];

    fn redis() -> Option<Redis> {
        match Redis::start_own(None) {
            Ok(redis) => Some(redis),
            Err(error @ BaselineError::NotInstalled { .. }) => {
                println!("skipped: {error}");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn bytes(count: usize) -> Vec<u8> {
        (0..count).map(|number| number.to_le_bytes()[0] ^ number.to_le_bytes()[1]).collect()
    }

    #[test]
    fn values_of_all_sizes_come_back_over_both_transports() {
        let Some(redis) = redis() else { return };
        assert!(redis.version().contains('.'), "{}", redis.version());
        for endpoint in [redis.unix().expect("it has a socket"), redis.tcp()] {
            assert_eq!(endpoint.to_string().parse::<RedisEndpoint>().expect("cannot fail"), endpoint);
            let mut client = RedisClient::connect(&endpoint).expect("it listens");
            let mut room = vec![0; 5 << 20];
            for size in SIZES {
                let value = bytes(size);
                client.set("key", &value).expect("it stores");
                assert_eq!(client.get_into("key", &mut room).expect("it answers"), Some(size));
                assert!(room[..size] == value, "{size} bytes over {endpoint}");
                let requests = Requests::gets("key", 3);
                assert_eq!(client.pipelined(&requests, &mut room).expect("it answers"), size);
            }
            client.delete("key").expect("it deletes");
            assert_eq!(client.get_into("key", &mut room).expect("it answers"), None);
        }
    }

    #[test]
    fn messages_pass_between_two_clients_by_lists_and_by_streams() {
        let Some(redis) = redis() else { return };
        let endpoint = redis.quickest();
        let connect = || RedisClient::connect(&endpoint).expect("it listens");
        let (mut ours, mut theirs) = (connect(), connect());
        let other = thread::spawn(move || -> Result<(), BaselineError> {
            let mut room = vec![0; 5 << 20];
            let mut length = theirs.pop_into("there", &mut room)?;
            for _ in 1..SIZES.len() {
                let message = room[..length].to_vec();
                length = theirs.push_and_pop_into("back", &message, "there", &mut room)?;
            }
            theirs.push("back", &room[..length])?;
            for _ in SIZES {
                let length = theirs.stream_read_into("stream there", &mut room)?;
                theirs.stream_add("stream back", &room[..length])?;
            }
            Ok(())
        });
        let mut room = vec![0; 5 << 20];
        for size in SIZES {
            let message = bytes(size);
            let length = ours.push_and_pop_into("there", &message, "back", &mut room).expect("an answer");
            assert!(room[..length] == message, "{size} bytes by a list");
        }
        for size in SIZES {
            let message = bytes(size);
            let length = ours.stream_add_and_read_into("stream there", &message, "stream back", &mut room);
            assert!(room[..length.expect("an answer")] == message, "{size} bytes by a stream");
        }
        other.join().expect("no panic").expect("the other side hears everything");
    }

    #[test]
    fn a_server_ends_when_dropped() {
        let Some(redis) = redis() else { return };
        let endpoint = redis.tcp();
        let process = redis.process_id().expect("it is ours");
        drop(redis);
        assert!(RedisClient::connect(&endpoint).is_err());
        assert!(!std::path::Path::new(&format!("/proc/{process}")).exists());
    }
}

//! S3 servers of our own, and the one that the environment names, behind one name.
//!
//! A server of our own knows one user, made up for this start, and is taken as up when that user has made the bucket, put an
//! object into it and got the same back, and its process still runs. So the server of another program, which may have taken a
//! port between our finding it free and our server's binding it, is never measured in its place.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;

use bytes::Bytes;

use super::super::server::{Launch, ServerProgram, free_ports, version_line};
use super::super::{BaselineError, install};
use super::elsewhere;
use super::{S3Client, S3Endpoint, SYSTEM};

/// How the names of our users begin.
const USER_PREFIX: &str = "praas-perf-";
const REGION: &str = "us-east-1";
const BUCKET: &str = "praas-perf";
/// Times that a server is started: another program may take a port that was found free.
const STARTS_TRIED: u32 = 3;
/// The object that is put and got before a server counts as up.
const PROBE: &str = "praas-perf-probe";

/// An S3 server to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum S3Kind {
    /// SeaweedFS: master, volume, filer and S3 gateway in one program.
    SeaweedFs,
    /// rclone serving a directory.
    Rclone,
    /// The one that the environment names.
    Elsewhere,
}

impl S3Kind {
    /// Those that are measured: our own, and the one that the environment names, if it does.
    #[must_use]
    pub fn measured() -> Vec<Self> {
        let named = elsewhere::from_environment().map(|_| Self::Elsewhere);
        [Self::SeaweedFs, Self::Rclone].into_iter().chain(named).collect()
    }

    /// Its name in plots.
    #[must_use]
    pub fn series(self) -> &'static str {
        match self {
            Self::SeaweedFs => "SeaweedFS S3",
            Self::Rclone => "rclone S3",
            Self::Elsewhere => "S3",
        }
    }

    /// The system of its rows.
    #[must_use]
    pub fn system(self) -> &'static str {
        match self {
            Self::SeaweedFs => "seaweedfs",
            Self::Rclone => "rclone",
            Self::Elsewhere => "s3",
        }
    }

    /// Its program, and what `perf/setup` calls that.
    fn program(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::SeaweedFs => Some(("weed", "seaweedfs")),
            Self::Rclone => Some(("rclone", "rclone")),
            Self::Elsewhere => None,
        }
    }
}

/// A running S3 server with an empty bucket. One of our own ends when dropped.
#[derive(Debug)]
pub struct S3Server {
    kind: S3Kind,
    endpoint: S3Endpoint,
    version: String,
    _server: Option<ServerProgram>,
}

impl S3Server {
    /// Starts a server, on this core if one is given; or finds the one that the environment names.
    ///
    /// # Errors
    /// [`BaselineError::NotInstalled`], [`BaselineError::NotUp`], or what the environment lacks.
    pub fn start(kind: S3Kind, cpu: Option<usize>) -> Result<Self, BaselineError> {
        let Some((program, part)) = kind.program() else { return Self::elsewhere() };
        let path = install::program(program, part)?;
        let mut tried = 0;
        loop {
            tried += 1;
            let started = match kind {
                S3Kind::Rclone => start_rclone(&path, cpu),
                _ => start_seaweedfs(&path, cpu),
            };
            match started {
                Ok((server, endpoint)) => {
                    let version = short_version(&version_line(program, &path, "version")?);
                    return Ok(Self { kind, endpoint, version, _server: Some(server) });
                }
                Err(BaselineError::NotUp { .. }) if tried < STARTS_TRIED => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn elsewhere() -> Result<Self, BaselineError> {
        let missing = || BaselineError::Environment {
            variable: elsewhere::BUCKET_VARIABLE,
            problem: "is not set; name a bucket to measure a real S3".to_owned(),
        };
        let endpoint = elsewhere::from_environment().ok_or_else(missing)??;
        let version = endpoint.url.clone();
        Ok(Self { kind: S3Kind::Elsewhere, endpoint, version, _server: None })
    }

    /// Which one it is.
    #[must_use]
    pub fn kind(&self) -> S3Kind {
        self.kind
    }

    /// Where it is and who we are there.
    #[must_use]
    pub fn endpoint(&self) -> &S3Endpoint {
        &self.endpoint
    }

    /// Its version; of one elsewhere, its address.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// A client of it, for the calling thread.
    ///
    /// # Errors
    /// As [`S3Client::new`].
    pub fn client(&self) -> Result<S3Client, BaselineError> {
        S3Client::new(&self.endpoint)
    }
}

/// A server of our own on this port, and a user that no other server knows.
fn endpoint(port: u16) -> S3Endpoint {
    // Each `RandomState` has keys of its own; nobody guesses on loopback, the names only have to differ.
    let [user, secret] = [(); 2].map(|()| format!("{USER_PREFIX}{:016x}", RandomState::new().hash_one(port)));
    S3Endpoint {
        url: format!("http://127.0.0.1:{port}"),
        region: REGION.to_owned(),
        bucket: BUCKET.to_owned(),
        access_key: user,
        secret_key: secret,
        session_token: None,
    }
}

/// Starts it and waits until all of it works.
fn start(launch: Launch, endpoint: S3Endpoint) -> Result<(ServerProgram, S3Endpoint), BaselineError> {
    let client = S3Client::new(&endpoint)?;
    let (server, ()) = launch.start(|| keeps_what_it_is_given(&client, &endpoint))?;
    Ok((server, endpoint))
}

/// The bucket is there, and what is put into it comes back.
fn keeps_what_it_is_given(client: &S3Client, endpoint: &S3Endpoint) -> Result<(), BaselineError> {
    match client.create_bucket() {
        // Of an attempt before this one: a server that is just starting may make it and say that it could not.
        Err(BaselineError::S3 { reason, .. }) if reason.contains("BucketAlready") => {}
        made => made?,
    }
    let value = Bytes::from(endpoint.access_key.clone());
    client.put(PROBE, value.clone())?;
    let kept = client.get(PROBE)?;
    if kept.as_ref() != Some(&value) {
        let actual = kept.map_or_else(|| "nothing".to_owned(), |kept| format!("{} other bytes", kept.len()));
        let expected = format!("the {} bytes just put", value.len());
        return Err(BaselineError::WrongAnswer { system: SYSTEM, expected, actual });
    }
    client.delete(PROBE)
}

fn start_rclone(program: &Path, cpu: Option<usize>) -> Result<(ServerProgram, S3Endpoint), BaselineError> {
    let [port] = free_ports()?;
    let endpoint = endpoint(port);
    let launch = Launch::new("rclone", program)?.cpu(cpu);
    let files = launch.directory().join("files");
    fs::create_dir(&files).map_err(BaselineError::system("make a directory"))?;
    let launch = launch.args(["serve", "s3", "--addr"]).arg(format!("127.0.0.1:{port}"));
    let launch = launch.arg("--auth-key").arg(format!("{},{}", endpoint.access_key, endpoint.secret_key));
    // Its configuration and caches in its own directory, not in the user's.
    let (config, cache) = (launch.directory().join("rclone.conf"), launch.directory().join("cache"));
    let launch = launch.arg("--config").arg(config).arg("--cache-dir").arg(cache).arg(&files);
    start(launch, endpoint)
}

fn start_seaweedfs(program: &Path, cpu: Option<usize>) -> Result<(ServerProgram, S3Endpoint), BaselineError> {
    let options = [
        "s3.port",
        "s3.port.grpc",
        // These two have fixed ports otherwise; a server that finds one taken ends after its gateway has answered.
        "s3.port.iceberg",
        "s3.port.lance",
        "master.port",
        "master.port.grpc",
        "volume.port",
        "volume.port.grpc",
        "filer.port",
        "filer.port.grpc",
    ];
    let ports: [u16; 10] = free_ports()?;
    let endpoint = endpoint(ports[0]);
    let launch = Launch::new("weed", program)?.cpu(cpu);
    let (data, identities) = (launch.directory().join("data"), launch.directory().join("identities.json"));
    fs::create_dir(&data).map_err(BaselineError::system("make a directory"))?;
    let credentials = serde_json::json!([{ "accessKey": endpoint.access_key, "secretKey": endpoint.secret_key }]);
    let actions = ["Admin", "Read", "Write", "List", "Tagging"];
    let known =
        serde_json::json!({ "identities": [{ "name": "perf", "credentials": credentials, "actions": actions }] });
    fs::write(&identities, known.to_string()).map_err(BaselineError::system("write a file"))?;
    let launch = options
        .iter()
        .zip(ports)
        .fold(launch.arg("server"), |launch, (option, port)| launch.arg(format!("-{option}={port}")));
    let launch = launch.args(["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3", "-master.telemetry=false"]);
    // Sockets in its own directory too; by default they lie in /tmp, where another user's may be.
    let sockets = ["filer", "s3"].map(|part| (part, launch.directory().join(format!("{part}.sock"))));
    let launch = sockets
        .iter()
        .fold(launch, |launch, (part, path)| launch.arg(format!("-{part}.localSocket={}", path.display())));
    let launch = launch.arg(format!("-dir={}", data.display())).arg(format!("-s3.config={}", identities.display()));
    start(launch, endpoint)
}

/// The number in a line such as `rclone v1.75.2` or `version 8000GB 4.48 …`.
fn short_version(line: &str) -> String {
    let is_version = |word: &&str| word.contains('.') && word.chars().all(|sign| sign.is_ascii_digit() || sign == '.');
    let words = line.split_ascii_whitespace().map(|word| word.trim_start_matches('v'));
    words.into_iter().find(|word| is_version(word)).unwrap_or(line).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(kind: S3Kind) -> Option<S3Server> {
        match S3Server::start(kind, None) {
            Ok(server) => Some(server),
            Err(error @ BaselineError::NotInstalled { .. }) => {
                println!("skipped: {error}");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn check(kind: S3Kind) {
        let Some(server) = server(kind) else { return };
        let client = server.client().expect("a client");
        let mut room = vec![0; 10 << 20];
        for size in [1_usize, 1024, 1 << 20, 10 << 20] {
            let value: Vec<u8> = (0..size).map(|number| number.to_le_bytes()[0]).collect();
            client.put("a/key", Bytes::from(value.clone())).expect("it stores");
            assert_eq!(client.get_into("a/key", &mut room).expect("it answers"), Some(size), "{kind:?}");
            assert!(room[..size] == value, "{size} bytes of {kind:?}");
            assert!(client.get("a/key").expect("it answers").expect("it is there") == value);
        }
        client.delete("a/key").expect("it deletes");
        assert_eq!(client.get("a/key").expect("it answers"), None);
        assert_eq!(client.get_into("a/key", &mut room).expect("it answers"), None);
        let stranger = S3Endpoint { secret_key: "wrong".to_owned(), ..server.endpoint().clone() };
        let stranger = S3Client::new(&stranger).expect("a client");
        assert!(stranger.put("a/key", Bytes::from_static(b"x")).is_err(), "{kind:?} checks no signatures");
        assert!(server.version().contains('.'), "{}", server.version());
    }

    #[test]
    fn seaweedfs_keeps_objects_and_checks_signatures() {
        check(S3Kind::SeaweedFs);
    }

    #[test]
    fn rclone_keeps_objects_and_checks_signatures() {
        check(S3Kind::Rclone);
    }

    #[test]
    fn no_user_is_known_to_two_starts() {
        let (one, other) = (endpoint(1), endpoint(1));
        assert!(one.access_key != other.access_key && one.secret_key != other.secret_key, "{one:?} {other:?}");
        assert_ne!(one.access_key, one.secret_key);
    }

    #[test]
    fn another_server_on_the_port_is_not_taken_for_ours() {
        let Some(server) = server(S3Kind::Rclone) else { return };
        let ours =
            endpoint(server.endpoint().url.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port"));
        assert_eq!(ours.url, server.endpoint().url);
        let client = S3Client::new(&ours).expect("a client");
        keeps_what_it_is_given(&client, &ours).expect_err("it does not know this user");
        let client = server.client().expect("a client");
        keeps_what_it_is_given(&client, server.endpoint()).expect("it knows its own, and has the bucket");
    }

    #[test]
    fn versions_are_found_in_what_programs_say() {
        assert_eq!(short_version("rclone v1.75.2"), "1.75.2");
        assert_eq!(short_version("version 8000GB 4.48 pypi linux amd64"), "4.48");
        assert_eq!(short_version("unknown"), "unknown");
    }
}

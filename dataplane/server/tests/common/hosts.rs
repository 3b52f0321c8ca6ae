//! Two servers that call each other, as two hosts would: each has a data directory, a secret, an address of its own, and a
//! proxy before it. Servers run inside the test, or as OS processes of their own, where they can be killed.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::MutexGuard;
use std::time::Duration;

use praas_client::{Client, ConnectOptions, Process};
use praas_protocol::token::{Claims, Rights, Scope, Secret};
use praas_server::{Application, Peer, Server, ServerHandle, ServerOptions};
use tempfile::TempDir;

use crate::common::far::application;
use crate::common::functions::own_segments;
use crate::common::namespaces::enter;
use crate::common::proxy::Proxy;
use crate::common::stage::{DIRECTORY, Played, alone, options, process};
use crate::common::{PATIENCE, children_with, eventually, open_descriptors, private_directory};

/// Where the address of a server apart is left, in its data directory.
const ADDRESS_FILE: &str = "listens-at";

/// In the environment of a server apart: the other server's address, and the token for it.
const PEER_ADDRESS: &str = "TEST_PEER_ADDRESS";
const PEER_TOKEN: &str = "TEST_PEER_TOKEN";

/// There too, for a server in a network namespace: which one, and the address where it listens.
const NAMESPACE: &str = "TEST_NAMESPACE";
const LISTEN: &str = "TEST_LISTEN";

/// What a server needs to call the other one.
pub(crate) const RIGHTS_OF_PEERS: Rights =
    Rights::INVOKE.with(Rights::TRUSTED).with(Rights::STATE).with(Rights::MESSAGES);

/// Where a host's server runs.
enum Running {
    Nowhere,
    /// Inside the test.
    Here(ServerHandle),
    /// In an OS process of its own.
    Apart(Played),
}

/// One of the two.
pub(crate) struct Host {
    directory: TempDir,
    secret: Secret,
    /// The way of the other server to this one.
    pub(crate) proxy: Proxy,
    running: Running,
}

impl Host {
    fn new() -> Self {
        let directory = private_directory();
        let secret = Secret::generate().unwrap();
        let mut file = fs::OpenOptions::new();
        let mut file = file.write(true).create_new(true).mode(0o600).open(directory.path().join("secret")).unwrap();
        std::io::Write::write_all(&mut file, secret.as_bytes()).unwrap();
        Self { directory, secret, proxy: Proxy::new(), running: Running::Nowhere }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A token of this host's server.
    pub(crate) fn token(&self, rights: Rights, expires_unix_s: Option<u64>) -> String {
        let principal = "other-host".parse().unwrap();
        self.secret.sign(&Claims { principal, scope: Scope::Any, rights, expires_unix_s })
    }

    /// As which the other server knows it.
    pub(crate) fn as_peer(&self) -> Peer {
        Peer { address: self.proxy.address.to_string(), token: self.token(RIGHTS_OF_PEERS, None) }
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(ConnectOptions::new().data_directory(self.path())).unwrap()
    }

    /// A process of this host, created.
    pub(crate) fn with_process(&self, name: &str) -> Process {
        let client = self.client();
        client.create(process(name)).unwrap();
        client.process(process(name)).unwrap()
    }

    /// Its server, which runs inside the test.
    pub(crate) fn server(&self) -> &ServerHandle {
        match &self.running {
            Running::Here(server) => server,
            _ => panic!("the server does not run in the test"),
        }
    }

    /// Starts the server inside the test.
    pub(crate) fn start_here(&mut self, peers: Vec<Peer>, change: impl FnOnce(&mut ServerOptions)) {
        let mut options = host_options(self.path(), application());
        options.peers = peers;
        change(&mut options);
        let server = Server::start(options).unwrap();
        self.proxy.lead_to(server.network().unwrap().addresses().first().copied());
        self.running = Running::Here(server);
    }

    /// Starts it as an OS process of its own; false where this host cannot.
    pub(crate) fn start_apart(&mut self, peer: &Peer) -> bool {
        self.start_apart_with(peer, &[])
    }

    /// The same inside a network namespace, where it listens at an address that is known before.
    pub(crate) fn start_inside(&mut self, namespace: &Path, listen: SocketAddr, peer: &Peer) -> bool {
        let listen = listen.to_string();
        self.start_apart_with(peer, &[(NAMESPACE, namespace), (LISTEN, Path::new(&listen))])
    }

    fn start_apart_with(&mut self, peer: &Peer, more: &[(&str, &Path)]) -> bool {
        let _ = fs::remove_file(self.path().join(ADDRESS_FILE));
        let peer = [(PEER_ADDRESS, Path::new(&peer.address)), (PEER_TOKEN, Path::new(&peer.token))];
        let variables = [&peer[..], more].concat();
        let Some(played) = Played::start("host", self.path(), &variables) else { return false };
        self.running = Running::Apart(played);
        let address: SocketAddr = fs::read_to_string(self.path().join(ADDRESS_FILE)).unwrap().parse().unwrap();
        self.proxy.lead_to(Some(address));
        true
    }

    /// Kills the server, which runs apart.
    pub(crate) fn kill(&mut self) {
        match std::mem::replace(&mut self.running, Running::Nowhere) {
            Running::Apart(played) => played.kill(),
            _ => panic!("only a server of its own is killed"),
        }
        // As on a host whose server is gone: nobody listens.
        self.proxy.lead_to(None);
        self.proxy.cut();
    }

    /// Ends the server cleanly.
    pub(crate) fn stop(&mut self) {
        self.proxy.lead_to(None);
        match std::mem::replace(&mut self.running, Running::Nowhere) {
            Running::Here(server) => drop(server.shutdown().unwrap()),
            Running::Apart(played) => {
                played.terminate();
                assert_eq!(played.end(), Some(42), "the server ends by itself");
            }
            Running::Nowhere => {}
        }
    }
}

/// Options of a server that listens and keeps nothing when it ends.
pub(crate) fn host_options(directory: &Path, application: Application) -> ServerOptions {
    let mut options = options(directory, application);
    options.listen = vec!["127.0.0.1:0".parse().unwrap()];
    options.network_shards = 2;
    options
}

/// The role of a server apart.
pub(crate) fn play_host() {
    let signals = praas_sys::SignalQueue::termination().unwrap();
    let directory = PathBuf::from(std::env::var_os(DIRECTORY).unwrap());
    if let Some(namespace) = std::env::var_os(NAMESPACE) {
        // Before the server's threads start: they are where this one is.
        enter(Path::new(&namespace));
    }
    let mut options = host_options(&directory, application());
    if let Ok(listen) = std::env::var(LISTEN) {
        options.listen = vec![listen.parse().unwrap()];
    }
    options.keeper_linger = Duration::from_secs(60);
    let variable = |name: &str| std::env::var(name).unwrap();
    options = options.peer(variable(PEER_ADDRESS), variable(PEER_TOKEN));
    let server = Server::start(options).unwrap();
    let address = server.network().unwrap().addresses()[0];
    fs::write(directory.join(ADDRESS_FILE), address.to_string()).unwrap();
    println!("\nplaying");
    server.run(signals).unwrap();
    std::process::exit(42);
}

/// Two hosts, and what must be as before when both have ended.
pub(crate) struct Hosts {
    pub(crate) a: Host,
    pub(crate) b: Host,
    descriptors: usize,
    /// Last, as in a stage.
    _alone: MutexGuard<'static, ()>,
}

impl Hosts {
    /// Neither runs yet.
    pub(crate) fn idle() -> Self {
        let alone = alone();
        let descriptors = open_descriptors();
        Self { a: Host::new(), b: Host::new(), descriptors, _alone: alone }
    }

    /// Both run inside the test, linked both ways.
    pub(crate) fn linked() -> Self {
        Self::linked_with(|_| {})
    }

    /// The same with other options.
    pub(crate) fn linked_with(change: impl Fn(&mut ServerOptions)) -> Self {
        let mut hosts = Self::idle();
        let (to_a, to_b) = (hosts.a.as_peer(), hosts.b.as_peer());
        hosts.a.start_here(vec![to_b], &change);
        hosts.b.start_here(vec![to_a], &change);
        hosts.await_links();
        hosts
    }

    /// Waits until both servers, which run inside the test, have a link to the other one.
    pub(crate) fn await_links(&self) {
        for host in [&self.a, &self.b] {
            eventually("the servers are linked", || is_linked(host));
        }
    }

    /// Ends both and looks for whatever is left. Clients must be gone.
    pub(crate) fn end(self) {
        let Self { mut a, mut b, descriptors, _alone } = self;
        a.stop();
        b.stop();
        let paths = [a.path().to_owned(), b.path().to_owned()];
        let own = std::process::id();
        eventually("no process is left", || children_with(own, "role").is_empty());
        for path in &paths {
            let run = path.join("run");
            assert!(!run.exists() || fs::read_dir(run).unwrap().count() == 0, "working directories are left");
            for socket in ["praas.sock", "keeper.sock"] {
                assert!(!path.join(socket).exists(), "{socket} is left");
            }
        }
        drop((a, b));
        eventually("no descriptor is left", || open_descriptors() <= descriptors);
        eventually("no segment is left", || own_segments() == 0);
    }
}

/// Whether a server, which runs inside the test, has a link to its peer.
pub(crate) fn is_linked(host: &Host) -> bool {
    host.server().network().unwrap().peers().iter().all(|peer| peer.is_linked)
}

/// What a function answers, in words.
pub(crate) fn ask(process: &Process, function: &str, input: &str) -> String {
    let reply = process.call(function).payload(input.as_bytes()).deadline(PATIENCE).send();
    let reply = reply.unwrap_or_else(|error| panic!("{function} {input}: {error}"));
    String::from_utf8_lossy(reply.as_slice()).into_owned()
}

/// Waits until a process sees a line of its process list that starts so; with `!` before it, until there is none.
pub(crate) fn await_line(process: &Process, line: &str) {
    ask(process, "await", line);
}

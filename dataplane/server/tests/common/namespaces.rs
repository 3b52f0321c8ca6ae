//! Two network namespaces with a cable between them: what two hosts are to each other, on one.
//!
//! A namespace belongs to a child that does nothing and ends when its standard input does, so with the test, however that ends.
//! The cable is made inside, has no end in the namespace of the host, and goes with the namespaces. Nothing has a name that
//! another test, or this host, could know.

use std::fs::{File, read_link};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::common::eventually;

/// What both ends of the cable are called, each in its namespace.
const CABLE: &str = "cable0";

/// Addresses of the two, which nobody outside can reach.
const ADDRESSES: [&str; 2] = ["10.83.0.1", "10.83.0.2"];

/// Where servers listen in their namespaces, which they have for themselves.
const PORT: u16 = 7411;

/// A namespace, for as long as this lives or somebody is inside.
struct Namespace {
    holder: Child,
}

impl Namespace {
    /// Or why there is none.
    fn new() -> Result<Self, String> {
        let mut command = Command::new("unshare");
        command.args(["--net", "cat"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let holder = command.spawn().map_err(|error| format!("unshare: {error}"))?;
        let mut namespace = Self { holder };
        let own = read_link("/proc/self/ns/net").map_err(|error| error.to_string())?;
        let mut has_ended = false;
        eventually("the holder of a namespace is in it", || {
            has_ended = namespace.holder.try_wait().unwrap().is_some();
            has_ended || read_link(namespace.path()).is_ok_and(|path| path != own)
        });
        if has_ended {
            let mut said = String::new();
            let _ = std::io::Read::read_to_string(&mut namespace.holder.stderr.take().unwrap(), &mut said);
            return Err(said.trim().to_owned());
        }
        Ok(namespace)
    }

    fn path(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.holder.id()).into()
    }

    /// Runs a command inside; what it complained about, if it did.
    fn run(&self, words: &str) -> Result<(), String> {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).args(words.split(' ')).stdin(Stdio::null());
        let output = command.output().map_err(|error| format!("nsenter: {error}"))?;
        let said = || format!("{words}: {}", String::from_utf8_lossy(&output.stderr).trim());
        if output.status.success() { Ok(()) } else { Err(said()) }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// Moves this thread, and all that it starts, into a namespace.
pub(crate) fn enter(namespace: &Path) {
    let file = File::open(namespace).unwrap();
    let kind = Some(rustix::thread::LinkNameSpaceType::Network);
    rustix::thread::move_into_link_name_space(file.as_fd(), kind).unwrap();
}

/// Two namespaces and the cable between them.
pub(crate) struct Cable {
    ends: [Namespace; 2],
}

impl Cable {
    /// `None`, and said why, where this host does not let us.
    pub(crate) fn new() -> Option<Self> {
        let made = Self::lay();
        made.inspect_err(|reason| println!("skipped: no network namespaces with a cable here: {reason}")).ok()
    }

    fn lay() -> Result<Self, String> {
        let ends = [Namespace::new()?, Namespace::new()?];
        let far = ends[1].holder.id();
        ends[0].run(&format!("ip link add {CABLE} type veth peer name {CABLE} netns {far}"))?;
        for (end, address) in ends.iter().zip(ADDRESSES) {
            end.run(&format!("ip address add {address}/30 dev {CABLE}"))?;
            end.run(&format!("ip link set {CABLE} up"))?;
        }
        Ok(Self { ends })
    }

    /// The namespace at one end.
    pub(crate) fn namespace(&self, end: usize) -> PathBuf {
        self.ends[end].path()
    }

    /// Where the server at one end listens.
    pub(crate) fn address(&self, end: usize) -> SocketAddr {
        SocketAddr::new(ADDRESSES[end].parse().unwrap(), PORT)
    }

    /// Pulls the cable out at one end: packets are lost, and nobody is told.
    pub(crate) fn pull(&self, end: usize) {
        self.ends[end].run(&format!("ip link set {CABLE} down")).unwrap();
    }

    /// Puts it in again.
    pub(crate) fn put_in(&self, end: usize) {
        self.ends[end].run(&format!("ip link set {CABLE} up")).unwrap();
    }

    /// Lets the cable lose some packets, delay and reorder others, both ways. Or why it cannot.
    pub(crate) fn wear(&self) -> Result<(), String> {
        let worn = "netem delay 4ms 3ms loss 5% reorder 10%";
        self.ends.iter().try_for_each(|end| end.run(&format!("tc qdisc add dev {CABLE} root {worn}")))
    }
}

//! A mixed load, and a checker that knows every acknowledged operation.
//!
//! Actors do everything that an application can do, at once, over lanes and over TCP: they put, get, change, list and delete
//! objects (`objects.rs`), send, broadcast, receive and accept messages (`mail.rs`), and have functions call functions, with and
//! without idempotency keys (`nested.rs`). Each knows of every operation that it happened, that it did not, or that nobody could
//! say (`ends.rs`). Whoever does harm meanwhile (`harm.rs`) may change which of the three; what was acknowledged stays, nothing
//! happens twice, and every call has an end.

mod ends;
pub(crate) mod functions;
pub(crate) mod harm;
mod mail;
mod mail_functions;
mod nested;
mod objects;
mod tally;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use praas_client::{Client, ConnectOptions, Process, Transport};
use praas_server::Application;

use self::mail::Mail;
use self::nested::Caller;
use self::objects::{Counts, Owner};
use self::tally::Tally;
use crate::common::random::Random;
use crate::common::stage::{application, connect, process};
use crate::common::{PATIENCE, eventually};

/// The state of each process under load, in bytes.
pub(crate) const STATE_BYTES: u64 = 24 << 20;

/// An application of the load's functions, of so many workers.
pub(crate) fn mixing(workers: u32) -> Application {
    let mut application = application();
    application.limits.state_bytes_max = STATE_BYTES;
    (application.workers_min, application.workers_max) = (workers, workers);
    application
}

/// A server of the load.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Site<'a> {
    pub(crate) directory: &'a Path,
    /// Where it listens.
    pub(crate) address: &'a str,
    /// The processes that it has.
    pub(crate) names: &'a [&'a str],
}

/// A process of the load, as the actors know it.
struct Party {
    name: String,
    /// Of its server, over lanes and over TCP.
    clients: [Client; 2],
    /// Objects of a certain size that it had room for.
    room: u64,
}

impl Party {
    fn handle(&self, way: usize) -> Process {
        self.clients[way].process(process(&self.name)).unwrap()
    }
}

/// All actors of the load.
pub(crate) struct Load {
    parties: Vec<Party>,
    mail: Mail,
    owners: Vec<Owner>,
    callers: Vec<Caller>,
    /// Of each process: changed by a function, and from outside.
    counts: Vec<[Counts; 2]>,
    random: Random,
}

fn handles(parties: &[Party], way: usize) -> Vec<Process> {
    parties.iter().map(|party| party.handle(way)).collect()
}

fn over_tcp(directory: &Path, address: &str) -> Client {
    let options = ConnectOptions::new().data_directory(directory).address(address);
    Client::connect(options.transport(Transport::Network)).unwrap()
}

fn settle(site: &Site<'_>) -> Vec<Party> {
    let clients = [connect(site.directory), over_tcp(site.directory, site.address)];
    let create = |name: &&str| {
        clients[0].create(process(name)).unwrap();
        let room = room(&clients[0].process(process(name)).unwrap());
        Party { name: (*name).to_owned(), clients: clients.clone(), room }
    };
    site.names.iter().map(create).collect()
}

impl Load {
    /// Creates the processes on their servers.
    pub(crate) fn new(sites: &[Site<'_>], mut random: Random) -> Self {
        let parties: Vec<Party> = sites.iter().flat_map(settle).collect();
        let owner = |number: usize, random: &mut Random| {
            Owner::new(format!("owner{number}"), handles(&parties, number % 2), random.next())
        };
        let owners = (0..3).map(|number| owner(number, &mut random)).collect();
        let caller = |number: usize, random: &mut Random| {
            Caller::new(format!("caller{number}"), handles(&parties, number % 2), random.next())
        };
        let callers = (0..2).map(|number| caller(number, &mut random)).collect();
        let counts = parties.iter().map(|_| Default::default()).collect();
        let mail = Mail::between(parties.iter().map(|party| party.name.clone()).collect());
        Self { parties, mail, owners, callers, counts, random }
    }

    /// Has all actors work while `harm` is done.
    pub(crate) fn run(&mut self, harm: impl FnOnce(&Progress<'_>)) {
        let over = &AtomicBool::new(false);
        let (parties, mail, counts, random) = (&self.parties, &self.mail, &self.counts, &mut self.random);
        std::thread::scope(|scope| {
            let mut actors = Vec::new();
            for (index, party) in parties.iter().enumerate() {
                let [first, second, third] = [random.next(), random.next(), random.next()].map(Random::new);
                let [sender, receiver, other] = [party.handle(0), party.handle(1), party.handle(0)];
                actors.push(scope.spawn(move || mail.send_until(over, index, &sender, first)));
                actors.push(scope.spawn(move || mail.receive_until(over, index, &receiver, second)));
                actors.push(scope.spawn(move || mail.receive_until(over, index, &other, third)));
            }
            for owner in &mut self.owners {
                actors.push(scope.spawn(move || owner.work_until(over, counts)));
            }
            for caller in &mut self.callers {
                actors.push(scope.spawn(move || caller.work_until(over)));
            }
            let progress = Progress { parties, mail, actors: &actors };
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| harm(&progress)));
            over.store(true, Ordering::Relaxed);
            let ends: Vec<_> = actors.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
            ends.into_iter().for_each(|end| end.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        });
    }

    /// Compares everything with what is known of it.
    pub(crate) fn check(&mut self) {
        let handles = handles(&self.parties, 0);
        self.mail.check(&handles);
        self.owners.iter_mut().for_each(Owner::check);
        self.callers.iter().for_each(Caller::check);
        for (process, [inside, outside]) in handles.iter().zip(&self.counts) {
            inside.check(process, "counts/inside");
            outside.check(process, "counts/outside");
        }
    }

    /// Takes everything away, and looks whether there is as much room as there was.
    pub(crate) fn check_room(&self) {
        self.owners.iter().for_each(Owner::clear);
        self.callers.iter().for_each(Caller::clear);
        let keyed: usize = self.callers.iter().map(Caller::keyed_calls).sum();
        for party in &self.parties {
            let (before, now) = (party.room, room(&party.handle(0)));
            // Records of calls with keys stay for their time; tables that have grown stay.
            let kept = (keyed * 1024).div_ceil(32 << 10) as u64 + 16;
            assert!(now + kept >= before, "{}: room for {before} objects has become room for {now}", party.name);
        }
    }

    /// A client of the first server.
    pub(crate) fn client(&self) -> &Client {
        &self.parties[0].clients[0]
    }

    /// Operations whose end is unknown.
    pub(crate) fn unsure(&self) -> u64 {
        self.tallies().iter().map(|tally| tally.unsure).sum()
    }

    /// Of objects, sends, receives and nested calls.
    fn tallies(&self) -> [Tally; 4] {
        let (mut objects, mut calls) = (Tally::default(), Tally::default());
        self.owners.iter().for_each(|owner| objects.add(owner.operations));
        self.callers.iter().for_each(|caller| calls.add(caller.operations));
        [objects, *self.mail.sends.lock().unwrap(), *self.mail.receives.lock().unwrap(), calls]
    }

    /// What was done, in words.
    pub(crate) fn summary(&self) -> String {
        let [objects, sends, receives, calls] = self.tallies();
        format!("state: {objects}\nsends: {sends}\nreceives: {receives}\nnested calls: {calls}{}", self.mail.refusals)
    }
}

/// How many objects of a certain size a process has room for.
fn room(process: &Process) -> u64 {
    let reply = process.call("room").deadline(PATIENCE).send().unwrap();
    std::str::from_utf8(reply.as_slice()).unwrap().parse().unwrap()
}

/// What whoever does harm sees of the load.
pub(crate) struct Progress<'a> {
    parties: &'a [Party],
    mail: &'a Mail,
    actors: &'a [std::thread::ScopedJoinHandle<'a, ()>],
}

impl Progress<'_> {
    /// A client of the first server.
    pub(crate) fn client(&self) -> &Client {
        &self.parties[0].clients[0]
    }

    /// A process at random, and a client of its server.
    pub(crate) fn somebody(&self, random: &mut Random) -> (&str, &Client) {
        let party = &self.parties[usize::try_from(random.below(self.parties.len() as u64)).unwrap()];
        (&party.name, &party.clients[0])
    }

    /// Waits until some more was sent and received; panics when it takes too long, or when an actor has found a fault.
    pub(crate) fn await_more(&self) {
        let before = self.mail.progress();
        eventually("the load goes on", || {
            let now = self.mail.progress();
            assert!(!self.actors.iter().any(|actor| actor.is_finished()), "an actor has found a fault");
            now.0 > before.0 + 10 && now.1 > before.1 + 10
        });
    }
}

/// Waits until a client of a server that was killed has found the next one.
pub(crate) fn await_connection(client: &Client, before: Option<u64>) {
    // A client without calls finds out when it asks for something.
    eventually("the client is connected again", || {
        client.list().is_ok() && client.server_incarnation().is_some_and(|now| Some(now) != before)
    });
}

//! One run: a server, its keeper, workers, storage, clients and time, moved one step at a time in an order that follows from a seed.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use praas_function::testing::{Stepped, SteppedWorker};
use praas_protocol::ProcessId;
use praas_server::simulation::{Asked, SimulatedKeeper, SimulatedServer};
use praas_server::{Application, Level, ServerOptions, TestClock};
use praas_sys::MessageSocket;

use crate::client::{Client, Wish};
use crate::functions::{Role, application};
use crate::model::{Death, MODEL, Operation, model};
use crate::random::Random;
use crate::storage::Storage;

/// Processes of a run, and clients.
const PROCESSES: u64 = 3;
const CLIENTS: usize = 4;

/// Steps in which anything may go wrong.
const STEPS: usize = 5000;

/// Rounds in which everything has to come to rest afterwards. Each serves everybody once.
const ROUNDS_MAX: usize = 20_000;

/// What such a round takes.
const ROUND: Duration = Duration::from_millis(5);

/// Lines of the record that a failure shows.
const SHOWN_MAX: usize = 400;

/// When a run begins, since 1970.
const START: Duration = Duration::from_secs(1_800_000_000);

/// The longest leap of time while something may go wrong.
const LEAP_MAX: Duration = Duration::from_secs(20);

/// A worker as the run has it.
enum Body {
    /// Its program has not said hello yet.
    Loading(OwnedFd),
    Serving(Box<SteppedWorker>),
}

struct Worker {
    process: ProcessId,
    body: Body,
}

/// What a run did, for the summary of many.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) calls: u64,
    pub(crate) server_deaths: u64,
    pub(crate) memory_losses: u64,
    pub(crate) worker_deaths: u64,
    pub(crate) storage_faults: u64,
    pub(crate) swaps_out: u64,
    pub(crate) swaps_in: u64,
    pub(crate) swaps_failed: u64,
}

/// One run; see the module's text.
pub(crate) struct Run {
    random: Random,
    clock: TestClock,
    options: ServerOptions,
    server: Option<SimulatedServer>,
    keeper: SimulatedKeeper,
    storage: Storage,
    workers: BTreeMap<usize, Worker>,
    clients: Vec<Client>,
    processes: Vec<ProcessId>,
    last_operation: Operation,
    /// Whether anything may go wrong.
    is_rough: bool,
    pub(crate) counts: Counts,
    pub(crate) record: Vec<String>,
    /// Removed with the run.
    _directory: tempfile::TempDir,
}

impl Run {
    /// The run of a seed, at its beginning.
    pub(crate) fn new(seed: u64) -> Self {
        MODEL.take();
        let mut random = Random::new(seed);
        let clock = TestClock::standing(START);
        clock.give();
        let directory = tempfile::tempdir().expect("a directory for a server");
        let storage = Storage::new();
        let program = std::env::current_exe().expect("this test has a path");
        let mut application = Application::new("simulated".parse().expect("a name"), program);
        (application.workers_min, application.workers_max) = (1 + u32::from(random.below(4) == 0), 2);
        application.limits.state_bytes_max = 4 << 20;
        application.idle_swap_ms = (random.below(2) == 0).then_some(2_000);
        let mut options = ServerOptions::new(directory.path().join("data"), Vec::new());
        options.applications = vec![application];
        options.storage = Some(storage.backend());
        options.memory_bytes_max = Some(8 << 30);
        options.log_level =
            if std::env::var_os("PRAAS_SIMULATION_LOG").is_some() { Level::Info } else { Level::Silent };
        let process = |number| format!("simulated/p{number}").parse().expect("an id");
        let mut run = Self {
            random,
            clock,
            options,
            server: None,
            keeper: SimulatedKeeper::new().expect("a keeper"),
            storage,
            workers: BTreeMap::new(),
            clients: (0..CLIENTS).map(|number| Client::new(format!("c{number}"))).collect(),
            processes: (0..PROCESSES).map(process).collect(),
            last_operation: 0,
            is_rough: true,
            counts: Counts::default(),
            record: Vec::new(),
            _directory: directory,
        };
        run.start_server();
        run
    }

    /// Everything, to the end; what was found wrong.
    pub(crate) fn carry_out(&mut self) -> Result<(), String> {
        for _ in 0..STEPS {
            self.step();
            self.judge()?;
        }
        self.is_rough = false;
        self.storage.heal();
        self.come_to_rest("after the rough part")?;
        for process in self.processes.clone() {
            if !model(|model| model.is_settled(&process)) {
                self.begin(0, Wish::Restore, process);
                self.come_to_rest("while it is asked what is there")?;
            }
        }
        self.take_all_messages()?;
        model(|model| model.check_messages());
        self.judge()?;
        self.end_cleanly()?;
        self.counts.calls = model(|model| model.runs);
        Ok(())
    }

    fn judge(&mut self) -> Result<(), String> {
        self.record.extend(model(|model| std::mem::take(&mut model.said)));
        let wrong = model(|model| std::mem::take(&mut model.wrong));
        if wrong.is_empty() {
            return Ok(());
        }
        let shown = self.record.len().saturating_sub(SHOWN_MAX);
        Err(format!("{}\n--- what happened:\n{}", wrong.join("\n"), self.record[shown..].join("\n")))
    }

    fn note(&mut self, what: String) {
        self.record.push(what);
    }

    fn chance(&mut self, one_in: u64) -> bool {
        self.random.below(one_in) == 0
    }

    /// One step of somebody.
    fn step(&mut self) {
        match self.random.below(1000) {
            0..280 => self.turn_server(),
            280..360 => self.turn_keeper(),
            360..600 => self.step_some_worker(),
            600..840 => self.step_some_client(),
            840..950 => self.carry_out_something(),
            950..993 => self.let_time_pass(),
            993..997 => self.kill_some_worker(),
            997..998 => self.kill_server(),
            998 => {
                let hours = i64::try_from(self.random.below(48)).expect("small") - 24;
                self.clock.jump_ms(hours * 3_600_000);
                self.note(format!("the wall clock jumps by {hours} h"));
            }
            _ => {}
        }
    }

    fn with_server<R>(&mut self, work: impl FnOnce(&mut SimulatedServer) -> R) -> R {
        work(self.server.as_mut().expect("a server runs"))
    }

    fn start_server(&mut self) {
        let server = SimulatedServer::start(&self.options, &mut self.keeper);
        let server = server.expect("a server starts on storage that works");
        self.server = Some(server);
        self.heed_storage();
    }

    fn turn_server(&mut self) {
        self.with_server(SimulatedServer::turn).expect("the loop turns");
        for worker in self.with_server(|server| server.killed()) {
            self.note(format!("worker {worker} was killed by the server"));
            self.end_worker(worker);
        }
    }

    fn turn_keeper(&mut self) {
        self.keeper.turn().expect("the keeper turns");
    }

    fn heed_storage(&mut self) {
        for noted in self.storage.noted() {
            self.note(format!("{noted:?}").split(", incarnation").next().unwrap_or_default().to_owned());
            model(|model| model.stored(noted));
        }
    }

    /// Does one of the things that the loop has asked of threads.
    fn carry_out_something(&mut self) {
        let asked = self.with_server(|server| server.asked());
        if asked.is_empty() {
            return;
        }
        let index = usize::try_from(self.random.below(asked.len() as u64)).expect("an index");
        self.carry_out_at(index, asked[index]);
    }

    fn carry_out_at(&mut self, index: usize, asked: Asked) {
        let is_transfer = matches!(asked, Asked::Write | Asked::Read { .. } | Asked::Remove { .. });
        if let Asked::Spawn { worker, process } = asked
            && self.is_rough
            && self.chance(20)
        {
            self.note(format!("worker {worker} of {} cannot be started", process.process));
            return self.with_server(|server| server.refuse_spawn(index));
        }
        if is_transfer && self.is_rough && self.chance(4) {
            let fault = self.storage.plan(self.random.below(1000));
            self.counts.storage_faults += 1;
            self.note(format!("storage will {fault}"));
        }
        let server = self.server.as_mut().expect("a server runs");
        let socket = server.carry_out(index, &mut self.keeper).expect("the host has descriptors");
        self.storage.heal();
        self.note(format!("carried out: {asked:?}"));
        self.heed_storage();
        if let (Asked::Spawn { worker, process }, Some(socket)) = (asked, socket) {
            self.workers.insert(worker, Worker { process, body: Body::Loading(socket) });
        }
    }

    fn step_some_worker(&mut self) {
        if self.workers.is_empty() {
            return;
        }
        let index = usize::try_from(self.random.below(self.workers.len() as u64)).expect("an index");
        let worker = *self.workers.keys().nth(index).expect("an index");
        self.step_worker(worker);
    }

    /// One step of a worker; whether it did anything.
    fn step_worker(&mut self, number: usize) -> bool {
        let Some(Worker { process, body }) = self.workers.remove(&number) else { return false };
        let serving = match body {
            Body::Loading(socket) if !has_mail(&socket) => {
                self.workers.insert(number, Worker { process, body: Body::Loading(socket) });
                return false;
            }
            Body::Loading(socket) => {
                let application = application(Role { process, worker: number });
                SteppedWorker::start(MessageSocket::from(socket), application)
                    .map(|worker| (Box::new(worker), Stepped::Busy))
            }
            Body::Serving(mut worker) => {
                if self.is_rough && self.chance(25) {
                    let when = if self.chance(2) { Death::First } else { Death::Last };
                    model(|model| model.death = Some(when));
                }
                let fails = self.is_rough && self.chance(20);
                model(|model| (model.fails, model.is_struck) = (fails, false));
                let stepped = worker.step();
                model(|model| (model.death, model.fails) = (None, false));
                stepped.map(|stepped| (worker, stepped))
            }
        };
        match serving {
            Ok((worker, stepped)) if stepped != Stepped::Ended => {
                self.workers.insert(number, Worker { process, body: Body::Serving(worker) });
                stepped == Stepped::Busy
            }
            ended => {
                let how = match ended {
                    Ok(_) if model(|model| std::mem::take(&mut model.is_struck)) => "died in a call".to_owned(),
                    Ok(_) => "has ended".to_owned(),
                    Err(error) => format!("ended: {error}"),
                };
                self.counts.worker_deaths += u64::from(how != "has ended");
                self.note(format!("worker {number} of {} {how}", process.process));
                self.end_worker(number);
                true
            }
        }
    }

    fn end_worker(&mut self, number: usize) {
        // Its socket closes with it.
        self.workers.remove(&number);
        self.with_server(|server| server.worker_ended(number));
    }

    fn kill_some_worker(&mut self) {
        if self.workers.is_empty() || !self.is_rough {
            return;
        }
        let index = usize::try_from(self.random.below(self.workers.len() as u64)).expect("an index");
        let worker = *self.workers.keys().nth(index).expect("an index");
        self.counts.worker_deaths += 1;
        self.note(format!("worker {worker} is killed"));
        self.end_worker(worker);
    }

    fn step_some_client(&mut self) {
        let index = usize::try_from(self.random.below(self.clients.len() as u64)).expect("an index");
        if self.clients[index].work.is_none() {
            let process = self.processes[usize::try_from(self.random.below(PROCESSES)).expect("an index")];
            let wish = self.some_wish(index, &process);
            self.begin(index, wish, process);
        }
        self.step_client(index);
    }

    /// The first client is the only one that creates and stops: what becomes of it is known in order.
    fn some_wish(&mut self, client: usize, process: &ProcessId) -> Wish {
        if client == 0 {
            let is_there = model(|model| model.is_there(process));
            return match self.random.below(12) {
                // Who asks for it learns whether it is there.
                _ if !model(|model| model.is_settled(process)) => Wish::Restore,
                _ if !is_there => Wish::Create,
                0 => Wish::Stop,
                1 => Wish::Restart,
                2..8 => Wish::Swap,
                8..10 => Wish::Restore,
                _ => Wish::Append,
            };
        }
        match self.random.below(10) {
            0..3 => Wish::Append,
            3..5 => Wish::AppendOnce,
            5..8 => Wish::Send { sequence: 0 },
            _ => Wish::Take,
        }
    }

    fn begin(&mut self, client: usize, wish: Wish, process: ProcessId) {
        self.last_operation += 1;
        self.clients[client].begin(wish, process, self.last_operation);
    }

    fn step_client(&mut self, index: usize) -> bool {
        let did = self.clients[index].step(&self.options.data_directory);
        self.hear_client(index);
        did
    }

    fn hear_client(&mut self, index: usize) {
        let name = self.clients[index].name.clone();
        for said in std::mem::take(&mut self.clients[index].said) {
            self.note(format!("{name} {said}"));
        }
    }

    fn let_time_pass(&mut self) {
        let some = Duration::from_millis(1 + self.random.below(20));
        let next = self.with_server(|server| server.next_timer()).unwrap_or(some);
        let by = if self.chance(3) { next.min(LEAP_MAX) } else { next.min(some) };
        self.clock.advance(by);
    }

    /// `kill -9` of the server, and sometimes of its keeper, so that all memory is lost.
    fn kill_server(&mut self) {
        if self.chance(2) {
            // What storage has under way happens, and nobody hears of it.
            let asked = self.with_server(|server| server.asked());
            for index in (0..asked.len()).rev() {
                let is_transfer = matches!(asked[index], Asked::Write | Asked::Read { .. } | Asked::Remove { .. });
                if is_transfer && self.chance(2) {
                    self.carry_out_at(index, asked[index]);
                }
            }
        }
        let loses_memory = self.chance(3);
        self.note(format!("the server is killed{}", if loses_memory { ", with its keeper" } else { "" }));
        self.counts.server_deaths += 1;
        self.count_swaps();
        self.drop_server();
        if loses_memory {
            self.counts.memory_losses += 1;
            self.keeper = SimulatedKeeper::new().expect("a keeper");
            model(|model| model.all_memory_lost());
        }
        self.start_server();
    }

    fn count_swaps(&mut self) {
        let metrics = self.with_server(|server| server.metrics());
        self.counts.swaps_out += metrics.swaps_out;
        self.counts.swaps_in += metrics.swaps_in;
        self.counts.swaps_failed += metrics.swaps_failed + metrics.restores_failed;
    }

    fn drop_server(&mut self) {
        self.workers.clear();
        drop(self.server.take());
        for index in 0..self.clients.len() {
            self.clients[index].server_died();
            self.hear_client(index);
        }
    }

    /// Serves everybody in turn until nobody has anything to do.
    fn come_to_rest(&mut self, when: &str) -> Result<(), String> {
        for _ in 0..ROUNDS_MAX {
            let did = self.round();
            self.judge()?;
            if self.clients.iter().all(|client| client.work.is_none()) {
                return Ok(());
            }
            if !did {
                self.let_time_pass();
            }
        }
        let asked = self.with_server(|server| server.asked());
        let stuck: Vec<_> = self.clients.iter().filter_map(|client| Some((&client.name, client.work?))).collect();
        let words = format!("{when}, nothing moves any more: {stuck:?}, asked {asked:?}");
        model(|model| model.wrong.push(words));
        self.judge()
    }

    /// Everybody once; whether anybody did anything.
    fn round(&mut self) -> bool {
        let mut did = false;
        // A wake that failed is tried again after a while, however often somebody asks.
        self.clock.advance(ROUND);
        self.turn_server();
        self.turn_keeper();
        let asked: VecDeque<_> = self.with_server(|server| server.asked()).into();
        for asked in asked {
            self.carry_out_at(0, asked);
            did = true;
        }
        let workers: Vec<_> = self.workers.keys().copied().collect();
        for worker in workers {
            did |= self.step_worker(worker);
        }
        for client in 0..self.clients.len() {
            did |= self.step_client(client);
        }
        did
    }

    /// Every process that is there gives up its messages.
    fn take_all_messages(&mut self) -> Result<(), String> {
        for process in self.processes.clone() {
            loop {
                let is_there = model(|model| model.is_there(&process) && model.is_settled(&process));
                self.clients[1].found_message = false;
                if is_there {
                    self.begin(1, Wish::Take, process);
                    self.come_to_rest("while messages are taken")?;
                }
                if !self.clients[1].found_message {
                    break;
                }
            }
        }
        Ok(())
    }

    /// The server ends, and everything is stored.
    fn end_cleanly(&mut self) -> Result<(), String> {
        self.with_server(SimulatedServer::shut_down);
        for _ in 0..ROUNDS_MAX {
            let did = self.round();
            self.judge()?;
            if self.with_server(|server| server.is_over()) {
                model(|model| model.ended_cleanly());
                self.count_swaps();
                self.drop_server();
                return self.judge();
            }
            if !did {
                self.let_time_pass();
            }
        }
        model(|model| model.wrong.push("the server does not end".to_owned()));
        self.judge()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.workers.clear();
        self.server.take();
    }
}

fn has_mail(socket: &OwnedFd) -> bool {
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    let socket = socket.as_fd();
    let mut fds = [rustix::event::PollFd::new(&socket, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
}

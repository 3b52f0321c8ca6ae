//! One run: a server, its keeper, workers, storage, clients and time, moved one step at a time in an order that follows from a seed.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use praas_protocol::control::WaitMode;
use praas_protocol::{Durability, ProcessId};
use praas_server::simulation::{Asked, LateWrite, SimulatedKeeper, SimulatedServer};
use praas_server::{Application, Level, ServerOptions, TestClock};

use crate::client::Client;
use crate::model::{AboutToStore, Operation, Shared, model};
use crate::random::Random;
use crate::storage::Storage;
use crate::workers::{Body, Worker};

/// Processes of a run, and clients.
pub(crate) const PROCESSES: u64 = 3;
const CLIENTS: usize = 4;

/// Steps in which anything may go wrong.
const STEPS: usize = 5000;

/// Rounds in which everything has to come to rest afterwards. Each serves everybody once.
pub(crate) const ROUNDS_MAX: usize = 20_000;

/// What such a round takes.
const ROUND: Duration = Duration::from_millis(5);

/// Lines of the record that a failure shows.
const SHOWN_MAX: usize = 400;

/// How often, of so many writes of processes, the server is cut off before one.
const CUT_OFF_ONE_IN: u64 = 40;

/// How often, of so many times, the rest of a process comes when it could.
const FILL_ONE_IN: u64 = 8;

/// What the start of a server takes. No two of a run begin at the same nanosecond: lanes are numbered from there on.
const START_TAKES: Duration = Duration::from_nanos(1_000_003);

/// When a run begins, since 1970.
const START: Duration = Duration::from_secs(1_800_000_000);

/// The longest leap of time while something may go wrong.
const LEAP_MAX: Duration = Duration::from_secs(20);

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
    pub(crate) checkpoints: u64,
    pub(crate) fetches: u64,
    pub(crate) late_writes: u64,
    pub(crate) notices: u64,
    pub(crate) left_behind: u64,
}

/// One run; see the module's text.
pub(crate) struct Run {
    pub(crate) model: Shared,
    pub(crate) random: Random,
    pub(crate) clock: TestClock,
    pub(crate) options: ServerOptions,
    pub(crate) server: Option<SimulatedServer>,
    pub(crate) keeper: SimulatedKeeper,
    pub(crate) storage: Storage,
    pub(crate) workers: BTreeMap<usize, Worker>,
    pub(crate) clients: Vec<Client>,
    pub(crate) processes: Vec<ProcessId>,
    pub(crate) last_operation: Operation,
    /// What servers that were cut off have still under way.
    pub(crate) late_writes: Vec<(AboutToStore, LateWrite)>,
    /// Whether its host has given notice.
    pub(crate) is_ending: bool,
    /// Whether anything may go wrong.
    pub(crate) is_rough: bool,
    /// Whether its processes have so much that they wake without it.
    pub(crate) is_large: bool,
    pub(crate) counts: Counts,
    pub(crate) record: Vec<String>,
    /// Removed with the run.
    directory: tempfile::TempDir,
}

impl Run {
    /// The run of a seed, at its beginning.
    pub(crate) fn new(seed: u64) -> Self {
        let model = Shared::default();
        model.clone().adopt();
        let mut random = Random::new(seed);
        let clock = TestClock::standing(START);
        clock.give();
        let directory = tempfile::tempdir().expect("a directory for a server");
        let storage = Storage::new();
        let program = std::env::current_exe().expect("this test has a path");
        let mut application = Application::new("simulated".parse().expect("a name"), program);
        (application.workers_min, application.workers_max) = (1 + u32::from(random.below(4) == 0), 2);
        let is_large = random.below(3) == 0;
        application.limits.state_bytes_max = if is_large { 32 << 20 } else { 4 << 20 };
        application.wait = WaitMode::Park;
        application.idle_swap_ms = (random.below(2) == 0).then_some(2_000);
        if random.below(2) == 0 {
            application.durability = Durability::Checkpoint;
            application.checkpoint_interval_ms = 100 + random.below(400);
        }
        let mut options = ServerOptions::new(directory.path().join("data"), Vec::new());
        options.applications = vec![application];
        options.storage = Some(storage.backend());
        options.memory_bytes_max = Some(8 << 30);
        options.log_level =
            if std::env::var_os("PRAAS_SIMULATION_LOG").is_some() { Level::Info } else { Level::Silent };
        let process = |number| format!("simulated/p{number}").parse().expect("an id");
        let mut run = Self {
            model,
            random,
            clock,
            options,
            server: None,
            keeper: SimulatedKeeper::new().expect("a keeper"),
            storage,
            workers: BTreeMap::new(),
            clients: (0..CLIENTS).map(|number| Client::new(format!("c{number}"), number == CLIENTS - 1)).collect(),
            processes: (0..PROCESSES).map(process).collect(),
            last_operation: 0,
            late_writes: Vec::new(),
            is_ending: false,
            is_rough: true,
            is_large,
            counts: Counts::default(),
            record: Vec::new(),
            directory,
        };
        run.be_rough(true);
        run.start_server();
        run
    }

    /// Everything, to the end; what was found wrong.
    pub(crate) fn carry_out(&mut self) -> Result<(), String> {
        for _ in 0..STEPS {
            self.step();
            self.judge()?;
        }
        self.be_rough(false);
        self.come_to_rest("after the rough part")?;
        self.settle()?;
        if self.chance(3) {
            self.end_in_trouble()?;
        }
        self.let_all_wake()?;
        self.take_all_messages()?;
        self.end_cleanly()?;
        self.counts.calls = model(|model| model.runs);
        Ok(())
    }

    /// Whether anything may go wrong from now on.
    pub(crate) fn be_rough(&mut self, is_rough: bool) {
        self.is_rough = is_rough;
        model(|model| model.is_rough = is_rough);
        self.storage.heal();
    }

    pub(crate) fn judge(&mut self) -> Result<(), String> {
        self.record.extend(model(|model| std::mem::take(&mut model.said)));
        let wrong = model(|model| std::mem::take(&mut model.wrong));
        if wrong.is_empty() {
            return Ok(());
        }
        let shown = self.record.len().saturating_sub(SHOWN_MAX);
        Err(format!("{}\n--- what happened:\n{}", wrong.join("\n"), self.record[shown..].join("\n")))
    }

    pub(crate) fn note(&mut self, what: String) {
        self.record.push(what);
    }

    pub(crate) fn chance(&mut self, one_in: u64) -> bool {
        self.random.below(one_in) == 0
    }

    /// One step of somebody.
    fn step(&mut self) {
        match self.random.below(1000) {
            0..200 => self.turn_server(),
            200..260 => self.turn_keeper(),
            260..560 => self.step_some_worker(),
            560..840 => self.step_some_client(),
            840..950 => self.carry_out_something(),
            950..993 => self.let_time_pass(),
            993..996 => self.kill_some_worker(),
            996 if self.chance(2) => self.kill_server(),
            997 if self.chance(4) => self.give_notice(),
            998 => {
                let hours = i64::try_from(self.random.below(48)).expect("small") - 24;
                self.clock.jump_ms(hours * 3_600_000);
                self.note(format!("the wall clock jumps by {hours} h"));
            }
            _ => self.carry_out_late(),
        }
    }

    pub(crate) fn with_server<R>(&mut self, work: impl FnOnce(&mut SimulatedServer) -> R) -> R {
        work(self.server.as_mut().expect("a server runs"))
    }

    pub(crate) fn start_server(&mut self) {
        self.clock.advance(START_TAKES);
        let server = SimulatedServer::start(&self.options, &mut self.keeper);
        let server = server.expect("a server starts on storage that works");
        self.server = Some(server);
        self.heed_storage(false);
    }

    fn turn_server(&mut self) {
        let now_ms = u64::try_from(self.clock.unix_time().as_millis()).expect("it is not that late");
        model(|model| model.time_is(now_ms));
        self.with_server(SimulatedServer::turn).expect("the loop turns");
        for worker in self.with_server(|server| server.killed()) {
            self.note(format!("worker {worker} was killed by the server"));
            self.end_worker(worker);
        }
        for (process, operation) in self.clients.iter().filter_map(Client::quiet_request).collect::<Vec<_>>() {
            if !self.with_server(|server| server.has_in_memory(&process)) {
                model(|model| model.left_behind(&process, operation));
            }
        }
        if self.is_ending && self.with_server(|server| server.is_over()) {
            self.leave_host();
        }
    }

    fn turn_keeper(&mut self) {
        self.keeper.turn().expect("the keeper turns");
    }

    fn heed_storage(&mut self, is_checkpoint: bool) {
        for noted in self.storage.noted() {
            self.note(format!("{noted:?}").split(", incarnation").next().unwrap_or_default().to_owned());
            model(|model| model.stored(noted, is_checkpoint));
        }
    }

    /// Something that a server which was cut off had under way happens.
    fn carry_out_late(&mut self) {
        let Some((about, write)) = self.late_writes.pop() else { return };
        let process = write.process;
        if !model(|model| model.is_settled(&process)) {
            return;
        }
        self.counts.late_writes += 1;
        self.note(format!("a write of {} comes late", process.process));
        write.carry_out();
        let is_in_memory = self.with_server(|server| server.has_in_memory(&process));
        for noted in self.storage.noted() {
            self.note("and is published".to_owned());
            model(|model| model.stored_late(noted, &about, is_in_memory));
        }
    }

    /// Does one of the things that the loop has asked of threads.
    fn carry_out_something(&mut self) {
        let asked = self.with_server(|server| server.asked());
        if asked.is_empty() {
            return;
        }
        let index = usize::try_from(self.random.below(asked.len() as u64)).expect("an index");
        if matches!(asked[index], Asked::Write | Asked::Checkpoint) && self.is_rough && self.chance(CUT_OFF_ONE_IN) {
            return self.cut_server_off();
        }
        // What workers ask for comes before the rest, mostly.
        if asked[index] != Asked::Fill || self.chance(FILL_ONE_IN) {
            self.carry_out_at(index, asked[index]);
        }
    }

    fn carry_out_at(&mut self, index: usize, asked: Asked) {
        let is_transfer = asked.is_of_storage();
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
        self.heed_storage(asked == Asked::Checkpoint);
        if let (Asked::Spawn { worker, process }, Some(socket)) = (asked, socket) {
            let life = self.with_server(|server| server.life_of(worker));
            let (incarnation, tag) = life.expect("it was just started");
            model(|model| model.starts_worker(&process, incarnation, tag));
            self.workers.insert(worker, Worker { process, incarnation, body: Body::Loading(socket) });
        }
    }

    pub(crate) fn let_time_pass(&mut self) {
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
                let is_transfer = asked[index].is_of_storage();
                if is_transfer && self.chance(2) {
                    self.carry_out_at(index, asked[index]);
                }
            }
        }
        let loses_memory = self.chance(3);
        self.note(format!("the server is killed{}", if loses_memory { ", with its keeper" } else { "" }));
        self.counts.server_deaths += 1;
        self.count();
        self.drop_server();
        if loses_memory {
            self.lose_memory();
        }
        self.start_server();
    }

    /// The host of the server and its keeper is cut off, with all their memory and with what they have under way.
    fn cut_server_off(&mut self) {
        self.note("the server is cut off".to_owned());
        self.counts.server_deaths += 1;
        self.count();
        let writes = self.server.take().map(SimulatedServer::cut_off).unwrap_or_default();
        self.leave_under_way(writes);
        self.drop_server();
        self.lose_memory();
        // The next one is on another host: what it stores is told from what this one has stored.
        let directory = format!("data-{}", self.counts.server_deaths);
        self.options.data_directory = self.directory.path().join(directory);
        self.start_server();
    }

    /// What a server had under way that is gone may still happen.
    pub(crate) fn leave_under_way(&mut self, writes: Vec<LateWrite>) {
        let about =
            |write: LateWrite| Some((model(|model| model.about_to_store(&write.process, write.is_checkpoint))?, write));
        self.late_writes.extend(writes.into_iter().filter_map(about));
    }

    pub(crate) fn lose_memory(&mut self) {
        self.counts.memory_losses += 1;
        self.keeper = SimulatedKeeper::new().expect("a keeper");
        model(|model| model.all_memory_lost());
    }

    pub(crate) fn count(&mut self) {
        let metrics = self.with_server(|server| server.metrics());
        self.counts.fetches += metrics.state_fetches;
        self.counts.checkpoints += metrics.checkpoints;
        self.counts.swaps_out += metrics.swaps_out;
        self.counts.swaps_in += metrics.swaps_in;
        self.counts.swaps_failed += metrics.swaps_failed + metrics.restores_failed;
    }

    pub(crate) fn drop_server(&mut self) {
        self.is_ending = false;
        self.workers.clear();
        drop(self.server.take());
        for index in 0..self.clients.len() {
            self.clients[index].server_died();
            self.hear_client(index);
        }
    }

    /// Serves everybody in turn until nobody has anything to do.
    pub(crate) fn come_to_rest(&mut self, when: &str) -> Result<(), String> {
        for _ in 0..ROUNDS_MAX {
            let did = self.round();
            self.judge()?;
            if !self.is_ending && self.clients.iter().all(|client| client.work.is_none()) {
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
    pub(crate) fn round(&mut self) -> bool {
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
}

impl Drop for Run {
    fn drop(&mut self) {
        self.workers.clear();
        self.server.take();
    }
}

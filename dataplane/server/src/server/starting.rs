//! What may block and fail before a server runs: lock, keeper, hand-over, sandbox check, sockets.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use mio::{Interest, Poll, Waker};
use praas_protocol::Durability;
use praas_protocol::wire::host_id;
use praas_sys::{CgroupRoot, FileLock, Listener, Spawner, StaleSocket};

use super::{Order, SandboxLack, ServerOptions, StartError};
use crate::application::Application;
use crate::budget::{Budget, host_memory_bytes};
use crate::data_directory::DataDirectory;
use crate::directory::Directories;
use crate::directory_watch::DirectoryWatch;
use crate::durability::{Durabilities, LogStore};
use crate::elsewhere::Elsewhere;
use crate::gateways::Gateways;
use crate::hosting::{Hosting, HostingPlan, JobResult, worker_plan};
use crate::keeper::link::{KeeperLink, KeeperPlan};
use crate::keeping::Keeping;
use crate::limits::{
    KEEPER_ANSWER_MAX, NETWORK_CONNECTIONS_MAX, NETWORK_DESCRIPTOR_PARTS, NETWORK_SHARDS_MAX, PEERS_MAX,
    WORKER_UID_FIRST,
};
use crate::log::Log;
use crate::metrics::Metrics;
use crate::network::{self, NetworkThreads};
use crate::preemption::Preemption;
use crate::sessions::Sessions;
use crate::shard::Shard;
use crate::sources::Source;
use crate::swap::{Swaps, Transfers};
use crate::timers::{Timer, Timers};

/// Raises the limit of open files as far as the host allows; returns it.
pub(crate) fn raise_open_files() -> u64 {
    match praas_sys::process_self::raise_open_files_limit() {
        Ok(limit) => limit.now,
        Err(_) => rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX),
    }
}

/// A server that is ready to run.
pub(super) struct Prepared {
    pub(super) shard: Shard,
    pub(super) waker: Arc<Waker>,
    pub(super) sandbox_lacks: Vec<SandboxLack>,
}

pub(super) fn prepare(options: &ServerOptions, orders: Receiver<Order>) -> Result<Prepared, StartError> {
    let log = Log { most: options.log_level };
    let applications = check_applications(options)?;
    let open_files = raise_open_files();
    praas_sys::process_self::set_non_dumpable()
        .map_err(|error| StartError::host("making the server non-dumpable", &error))?;
    // Before there are threads, each of which has a heap.
    praas_sys::allocator::give_large_blocks_back();
    let data = Arc::new(DataDirectory::open(&options.data_directory)?);
    let secret = data.secret()?;
    let gives_users = rustix::process::geteuid().is_root();
    let cgroups = CgroupRoot::probe(&data.cgroup_prefix());
    let sandbox_lacks = check_sandbox(options, &data, gives_users, &cgroups, log)?;
    let keeper = KeeperPlan {
        command: options.keeper_command.clone(),
        socket: data.keeper_socket_path(),
        log: data.keeper_log_path(),
        cgroup_prefix: data.cgroup_prefix(),
        linger: options.keeper_linger,
    };
    let (link, held) = take_over(&keeper, data.lock(), log)?;
    if let Err(error) = cgroups.sweep(KEEPER_ANSWER_MAX) {
        log.warning(format_args!("cgroups of the last server are left: {error}"));
    }
    data.sweep().map_err(|error| StartError::host("removing the last server's working directories", &error))?;

    let host = |what: &'static str| move |error: std::io::Error| StartError::host(what, &error);
    let poll = Poll::new().map_err(host("creating the poll"))?;
    let waker = Waker::new(poll.registry(), Source::Mail.token()).map_err(host("creating the waker"))?;
    let waker = Arc::new(waker);
    let spawner = Spawner::start().map_err(|error| StartError::host("starting the spawner", &error))?;
    let (results_in, results) = channel();
    let plan = HostingPlan { data: Arc::clone(&data), spawner, cgroups, strict: options.require_sandbox, keeper, log };
    let disk = options.disk_log.clone();
    let memory_log = options.memory_log.clone().map(|store| Arc::new(store) as Arc<dyn LogStore>);
    let store = disk.clone().map(|store| Arc::new(store) as Arc<dyn LogStore>).or(memory_log);
    let durabilities = match store {
        Some(store) => Some(
            Durabilities::start(store, disk, results_in.clone(), Arc::clone(&waker), log)
                .map_err(host("starting the log's threads"))?,
        ),
        None => None,
    };
    let transfers = options.storage.as_ref().map(|backend| Transfers::start(Arc::clone(backend), &results_in, &waker));
    let transfers = transfers.transpose().map_err(host("starting the threads of storage"))?;
    let hosting = Hosting::start(plan, results_in, Arc::clone(&waker)).map_err(host("starting helper threads"))?;
    let ground = Ground {
        log,
        applications,
        open_files,
        data,
        secret,
        gives_users,
        poll,
        waker: Arc::clone(&waker),
        hosting,
        durabilities,
        transfers,
        link,
        held,
        orders,
        results,
    };
    let mut shard = assemble(options, ground)?;
    shard.network = Some(start_network(options, &shard)?);
    shard.recover_sessions();
    Ok(Prepared { shard, waker, sandbox_lacks })
}

/// What a server stands on: everything of its host that it has opened or started.
pub(crate) struct Ground {
    pub(crate) log: Log,
    pub(crate) applications: BTreeMap<praas_protocol::Name, Arc<Application>>,
    pub(crate) open_files: u64,
    pub(crate) data: Arc<DataDirectory>,
    pub(crate) secret: praas_protocol::token::Secret,
    pub(crate) gives_users: bool,
    pub(crate) poll: Poll,
    pub(crate) waker: Arc<Waker>,
    pub(crate) hosting: Hosting,
    pub(crate) durabilities: Option<Durabilities>,
    pub(crate) transfers: Option<Transfers>,
    pub(crate) link: KeeperLink,
    pub(crate) held: BTreeMap<String, OwnedFd>,
    pub(crate) orders: Receiver<Order>,
    pub(crate) results: Receiver<JobResult>,
}

/// The server on its ground, with the processes that an earlier one left, but without its network.
pub(crate) fn assemble(options: &ServerOptions, ground: Ground) -> Result<Shard, StartError> {
    let host = |what: &'static str| move |error: std::io::Error| StartError::host(what, &error);
    let listener = Listener::bind(&ground.data.socket_path(), StaleSocket::ReplaceHolding(ground.data.lock()))
        .map_err(|error| StartError::host("binding the server's socket", &error))?;
    ground.data.write_local_token(&ground.secret)?;
    let memory = options.memory_bytes_max.or_else(host_memory_bytes).unwrap_or(u64::MAX);
    let directories = Directories::create(ground.applications.keys().copied(), options.process_idle)
        .map_err(host("creating the directories of processes"))?;
    if options.peers.len() > PEERS_MAX {
        return Err(StartError::TooManyPeers { actual: options.peers.len(), limit: PEERS_MAX });
    }
    let shards = network_shards(options);
    let elsewhere =
        Elsewhere::new(ground.applications.keys().copied(), &options.peers, shards, Arc::clone(&ground.waker));
    let mut incarnation = [0; 8];
    praas_sys::process_self::random_bytes(&mut incarnation)
        .map_err(|error| StartError::host("choosing an incarnation", &error))?;
    let mut shard = Shard {
        poll: ground.poll,
        ready: Default::default(),
        timers: Timers::default(),
        log: ground.log,
        metrics: Metrics::default(),
        data: ground.data,
        secret: ground.secret,
        incarnation: u64::from_le_bytes(incarnation),
        applications: ground.applications,
        budget: Budget::new(memory),
        listener,
        spare: crate::shard::spare_descriptor(),
        open_files: ground.open_files,
        network: None,
        clients: Default::default(),
        processes: Default::default(),
        workers: BTreeMap::new(),
        dedicated: crate::dedicated::Dedicated::default(),
        next_worker: 0,
        next_lane: 1,
        messages: Default::default(),
        gives_users: ground.gives_users,
        hosting: ground.hosting,
        keeping: Keeping::new(ground.link, ground.held),
        watched: Default::default(),
        client_hello: options.client_hello,
        claims_watched: false,
        worker_idle: options.worker_idle,
        idle_watched: false,
        directories,
        directory_watch: DirectoryWatch::default(),
        transitions: Default::default(),
        alarms: Default::default(),
        durabilities: ground.durabilities,
        swaps: Swaps::new(ground.transfers),
        gateways: Gateways::default(),
        sessions: Sessions::new(options.session_linger, Arc::clone(&ground.waker)),
        elsewhere: Arc::new(elsewhere),
        listed_elsewhere: BTreeMap::new(),
        shutting_down: false,
        preemption: Preemption::new(options.grace, !options.keeper_linger.is_zero()),
        orders: ground.orders,
        results: ground.results,
        signals: None,
        packet_buffer: Vec::new(),
        output_buffer: Vec::new(),
    };
    shard.watch(shard.listener.as_fd(), Source::Listener, Interest::READABLE).map_err(host("watching the socket"))?;
    shard.watch_keeper().map_err(host("watching the keeper"))?;
    shard.recover_processes();
    shard.sweep_files();
    let logs = shard.find_logs().map_err(host("listing the logs of processes"))?;
    shard.recover_sleepers(&logs).map_err(|error| StartError::host("listing the processes that sleep", &error))?;
    shard.recover_logged(&logs);
    if options.watch {
        shard.timers.after(Duration::ZERO, Timer::Watch);
    }
    Ok(shard)
}

/// Threads for the network: one, for what is local and yet not in a process's memory, if there is none.
fn network_shards(options: &ServerOptions) -> usize {
    let is_alone = options.listen.is_empty() && options.peers.is_empty();
    if is_alone { 1 } else { options.network_shards.clamp(1, NETWORK_SHARDS_MAX) }
}

/// Starts the threads that serve remote clients, other servers and sessions.
fn start_network(options: &ServerOptions, shard: &Shard) -> Result<NetworkThreads, StartError> {
    let shards = network_shards(options);
    let share = shard.open_files / NETWORK_DESCRIPTOR_PARTS / shards as u64;
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let plan = network::Plan {
        secret: shard.secret.clone(),
        incarnation: shard.incarnation,
        host_id: host_id(boot_id.trim(), shard.data.path()),
        socket_path: shard.data.socket_path(),
        payload_bytes_max: shard.applications.values().map(|found| found.limits.payload_bytes_max).max().unwrap_or(0),
        client_hello: options.client_hello,
        wait: options.network_wait,
        connections_max: usize::try_from(share).unwrap_or(usize::MAX).clamp(1, NETWORK_CONNECTIONS_MAX),
        log: shard.log,
        connections: AtomicU64::new(0),
        generations: network::Generations::default(),
        elsewhere: Arc::clone(&shard.elsewhere),
        session_news: shard.sessions.news(),
        peers: options.peers.clone(),
    };
    NetworkThreads::start(plan, &options.listen, shards, options.network_driver)
}

pub(crate) fn check_applications(
    options: &ServerOptions,
) -> Result<BTreeMap<praas_protocol::Name, Arc<Application>>, StartError> {
    let mut checked = BTreeMap::new();
    for application in &options.applications {
        let name = application.name;
        if application.durability == Durability::Logged && options.memory_log.is_none() && options.disk_log.is_none() {
            return Err(StartError::NoLog { application: name.to_string() });
        }
        if application.durability == Durability::Checkpoint && options.storage.is_none() {
            return Err(StartError::NoStorage { application: name.to_string() });
        }
        let application = application.clone().checked();
        let application =
            application.map_err(|error| StartError::BadApplication { application: name.to_string(), error })?;
        if checked.insert(name, Arc::new(application)).is_some() {
            return Err(StartError::SameName { application: name.to_string() });
        }
    }
    Ok(checked)
}

/// Finds out what the host grants to confine workers, and reports what it lacks, once.
fn check_sandbox(
    options: &ServerOptions,
    data: &DataDirectory,
    gives_users: bool,
    cgroups: &CgroupRoot,
    log: Log,
) -> Result<Vec<SandboxLack>, StartError> {
    let user = gives_users.then_some(WORKER_UID_FIRST);
    let program = options.applications.iter().find(|application| application.binary.exists());
    let Some(application) = program else { return Ok(Vec::new()) };
    let plan = worker_plan(application, data.path().to_owned(), user, options.require_sandbox);
    match plan.prepare(Some(cgroups)) {
        Ok(sandbox) => {
            let lacks = sandbox.report().lacking().map(|(feature, why, advice)| SandboxLack {
                feature: feature.to_string(),
                why: why.to_owned(),
                advice: advice.to_owned(),
            });
            let lacks: Vec<_> = lacks.collect();
            for SandboxLack { feature, why, advice } in &lacks {
                log.warning(format_args!("workers run without {feature}: {why}; {advice}"));
            }
            Ok(lacks)
        }
        Err(error) if options.require_sandbox => Err(StartError::Sandbox { reason: error.to_string() }),
        Err(error) => {
            log.warning(format_args!("the sandbox cannot be prepared: {error}"));
            Ok(Vec::new())
        }
    }
}

/// Connects to the keeper of an earlier server and takes what it holds, or starts one.
fn take_over(
    plan: &KeeperPlan,
    lock: &FileLock,
    log: Log,
) -> Result<(KeeperLink, BTreeMap<String, OwnedFd>), StartError> {
    let Some(mut link) = KeeperLink::connect(plan, lock.as_fd())? else {
        return Ok((KeeperLink::start(plan, lock.as_fd())?, BTreeMap::new()));
    };
    let held = link.take()?;
    log.info(format_args!("the last server did not end cleanly; its keeper handed {} descriptors over", held.len()));
    Ok((link, held.into_iter().map(|held| (held.name, held.fd)).collect()))
}

//! Processes that live on through crashes of everything: what they have given out is never given out again, whatever they come back
//! from; they are woken at their times; and what they change does not make their logs longer without end.

mod common;

use std::time::{Duration, SystemTime};

use common::killed::{await_server, kill_all, logs};
use common::mails::{ask, processes};
use common::random::Random;
use common::sleeping::{sleeping, told};
use common::stage::{Stage, process, status};
use common::{PATIENCE, ROLE, eventually, is_keeper_socket, killed, stage};
use praas_client::{Client, Process, ProcessState};
use praas_function::{Call, FunctionResult};
use praas_protocol::Durability::{self, Checkpoint, Logged, Memory};

/// Every level after every other, and after itself.
const LEVELS: [Durability; 10] =
    [Memory, Memory, Checkpoint, Checkpoint, Logged, Logged, Checkpoint, Memory, Logged, Memory];

/// Lives with logs, of which each has its own end.
const LOGGED_LIVES: usize = 6;

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    match std::env::var(ROLE).as_deref() {
        Ok("worker") if !is_keeper_socket(&std::io::stdin()) => serve(),
        Ok("durable server") if !is_keeper_socket(&std::io::stdin()) => killed::play_server(sleeping()),
        _ => stage::play(),
    }
}

fn serve() {
    common::sleeping::functions(praas_function::Application::new())
        .function("wake-in", |call: &mut Call<'_>| {
            let text = String::from_utf8_lossy(call.input()).into_owned();
            let (ms, text) = text.split_once(' ').expect("a time and a text");
            let due = SystemTime::now() + Duration::from_millis(ms.parse()?);
            FunctionResult::Ok(call.context().wake_at(due, "notes", text.as_bytes())?.to_string())
        })
        .run();
}

/// What bob has given out: numbers of messages, and versions of an object.
#[derive(Default)]
struct Given {
    sequence: u64,
    version: u64,
    texts: u64,
}

impl Given {
    /// Bob gives out some more, and nothing a second time.
    fn more(&mut self, bob: &Process, random: &mut Random) -> Vec<String> {
        let mut texts = Vec::new();
        for _ in 0..1 + random.below(4) {
            self.texts += 1;
            let text = self.texts.to_string();
            let sequence: u64 = ask(bob, "send", &format!("alice numbers {text}")).unwrap().parse().unwrap();
            assert!(sequence > self.sequence, "message {text} has number {sequence}, after {}", self.sequence);
            self.sequence = sequence;
            texts.push(text);
        }
        if random.below(3) > 0 {
            ask(bob, "keep", &format!("kept {} 1", 1 + random.below(5000))).unwrap();
            let kept = ask(bob, "kept", "kept").unwrap();
            let version: u64 = kept.rsplit(' ').next().unwrap().parse().unwrap();
            assert!(version > self.version, "version {version} was given out, after {}", self.version);
            self.version = version;
        }
        texts
    }
}

/// Each of these messages has come to alice once. Of earlier ones some may come again, with what alice had forgotten.
fn check_received(client: &Client, texts: &[String], is_only: bool) {
    let alice = client.process(process("alice")).unwrap();
    let all = ask(&alice, "all", "bob numbers").unwrap().replace('!', "");
    let all: Vec<_> = all.split(' ').filter_map(|word| word.strip_prefix("bob:")).collect();
    for text in texts {
        let times = all.iter().filter(|one| *one == text).count();
        assert_eq!(times, 1, "message {text} came {times} times: {all:?}");
    }
    assert!(!is_only || all.len() == texts.len(), "{texts:?} were sent, {all:?} came");
}

#[test]
fn nothing_is_given_out_twice_whatever_a_process_comes_back_from() {
    let mut random = Random::printed("what is stored, and how it ends");
    let stage = Stage::empty();
    let mut given = Given::default();
    let mut was_kept = false;
    for (life, durability) in LEVELS.into_iter().enumerate() {
        let Some(mut server) = killed::start(&stage, durability) else { return stage.end() };
        let client = stage.client();
        if life == 0 {
            // Once they are stored, they always come back.
            drop(processes(&client, ["alice", "bob"]));
            client.swap(process("alice")).unwrap();
            client.swap(process("bob")).unwrap();
        }
        let bob = client.process(process("bob")).unwrap();
        let mut texts = Vec::new();
        for _ in 0..3 {
            texts.extend(given.more(&bob, &mut random));
            match random.below(4) {
                0 => client.swap(process("bob")).unwrap(),
                1 => std::thread::sleep(Duration::from_millis(random.below(150))),
                _ => {}
            }
        }
        check_received(&client, &texts, life == 0 || was_kept);
        let ends = random.below(6);
        println!("life {life}, {durability}: {} given, ends {ends}", given.texts);
        // Alice keeps what she has taken only where nothing of her is lost.
        was_kept = ends < 2 || durability == Logged;
        drop((bob, client));
        match ends {
            0 => {
                server.terminate();
                assert_eq!(server.end(), Some(42));
            }
            1 => server.kill(),
            _ => kill_all(&mut server, &stage),
        }
    }
    let Some(server) = killed::start(&stage, Memory) else { return stage.end() };
    server.terminate();
    assert_eq!(server.end(), Some(42));
    stage.end();
}

#[test]
fn a_process_that_is_found_in_its_log_is_woken_at_its_time() {
    let stage = Stage::empty();
    let Some(mut server) = killed::start(&stage, Logged) else { return stage.end() };
    let client = stage.client();
    let [alice] = processes(&client, ["alice"]);
    let received = |text: &str| {
        let answer = ask(&alice, "recv", &format!("* notes {}", PATIENCE.as_millis())).unwrap();
        assert_eq!(answer.replace('!', ""), format!("alice:{text}"));
        assert_eq!(ask(&alice, "all", "* notes").unwrap(), "", "it came twice");
    };
    for life in 0..LOGGED_LIVES {
        let (soon, text) = (life % 2 == 0, format!("life-{life}"));
        ask(&alice, "wake-in", &format!("{} {text}", if soon { 10 } else { 1500 })).unwrap();
        if life % 3 == 2 {
            client.swap(process("alice")).unwrap();
        }
        kill_all(&mut server, &stage);
        server = killed::start(&stage, Logged).unwrap();
        await_server(&client);
        if !soon && life % 3 != 2 {
            // Nobody else has a reason to look at it.
            eventually("it is awake", || status(&client, "alice").state == ProcessState::Active);
        }
        received(&text);
    }
    drop((alice, client));
    server.terminate();
    assert_eq!(server.end(), Some(42));
    stage.end();
}

#[test]
fn checkpoints_shorten_the_log_of_a_process_that_never_sleeps_and_all_of_it_comes_back() {
    let stage = Stage::empty();
    let Some(mut server) = killed::start(&stage, Logged) else { return stage.end() };
    let client = stage.client();
    let [alice] = processes(&client, ["alice"]);
    let segments = || {
        let log = std::fs::read_dir(logs(stage.path()).join("hello/alice")).unwrap().next().unwrap().unwrap().path();
        let names = std::fs::read_dir(log).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(".log")).collect::<Vec<_>>()
    };
    // Several times a segment's 16 MiB.
    for seed in 0..70_u64 {
        ask(&alice, "scatter", &format!("part-{} 1000000 {seed}", seed % 3)).unwrap();
    }
    eventually("segments that nobody needs are gone", || segments().len() == 1);
    assert!(segments() > vec!["0000000000000002.log".to_owned()], "{:?}", segments());
    kill_all(&mut server, &stage);
    server = killed::start(&stage, Logged).unwrap();
    await_server(&client);
    for seed in 67..70_u64 {
        assert_eq!(ask(&alice, "scattered", &format!("part-{}", seed % 3)).unwrap(), told(1_000_000, seed));
    }
    drop((alice, client));
    server.terminate();
    assert_eq!(server.end(), Some(42));
    stage.end();
}

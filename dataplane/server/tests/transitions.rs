//! What happens in the lives of processes is told to whoever watches and may know of it, on the host and over the network.

mod common;

use std::time::Duration;

use common::network::{address, listening, with_each_driver};
use common::stage::{Stage, application, process};
use common::{PATIENCE, stage};
use praas_client::{
    Client, ConnectOptions, ControlError, ProcessState, RequestError, Transition, TransitionFollower, Transport,
};
use praas_protocol::token::{Claims, Rights, Scope};
use praas_server::DriverChoice;

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    stage::play();
}

/// The transitions that come, until one that is the last of those that are waited for.
fn until(follower: &mut TransitionFollower, is_last: impl Fn(&Transition) -> bool) -> Vec<Transition> {
    let mut seen: Vec<Transition> = Vec::new();
    while !seen.last().is_some_and(&is_last) {
        let news = follower.next(PATIENCE).unwrap().unwrap_or_else(|| panic!("nothing more came after {seen:?}"));
        assert_eq!(news.lost, 0);
        seen.extend(news.transitions);
    }
    seen
}

fn states(transitions: &[Transition]) -> Vec<Option<ProcessState>> {
    transitions.iter().map(|transition| transition.to).collect()
}

fn watch_a_life(client: &Client, watcher: &Client) {
    let mut all = watcher.watch(None).unwrap();
    let mut alice = watcher.watch(Some(process("alice"))).unwrap();
    let mut carol = watcher.watch(Some(process("carol"))).unwrap();
    assert_eq!(all.next(Duration::from_millis(20)).unwrap(), None, "nothing has happened since");
    client.create(process("alice")).unwrap();
    client.create(process("bob")).unwrap();
    client.restart(process("alice")).unwrap();
    client.stop(process("alice")).unwrap();
    let seen = until(&mut alice, |transition| transition.to.is_none());
    let seen_states: Vec<_> = states(&seen).into_iter().filter(|state| *state != Some(ProcessState::Idle)).collect();
    use ProcessState::{Active, Creating, Draining};
    let life = [Some(Creating), Some(Active), Some(Draining), Some(Active), Some(Draining), None];
    assert_eq!(seen_states, life, "{seen:?}");
    assert_eq!(seen[0].from, None);
    assert!(seen.windows(2).all(|pair| pair[0].to == pair[1].from && pair[0].number < pair[1].number), "{seen:?}");
    assert!(seen.windows(2).all(|pair| pair[0].at_unix_ms <= pair[1].at_unix_ms), "the clock did not jump: {seen:?}");
    let everything = until(&mut all, |transition| transition.to.is_none());
    assert!(everything.windows(2).all(|pair| pair[0].number + 1 == pair[1].number), "{everything:?}");
    assert!(everything.iter().any(|transition| transition.process == process("bob")), "{everything:?}");
    let past = until(&mut watcher.watch_after(Some(process("alice")), 0), |transition| transition.to.is_none());
    assert_eq!(past, seen, "what has happened is told as it was");
    assert_eq!(carol.next(Duration::from_millis(20)).unwrap(), None, "she does not live");
    client.stop(process("bob")).unwrap();
}

#[test]
fn a_life_is_told_in_order_on_the_host() {
    let stage = Stage::new(application(), |_| {});
    let client = stage.client();
    watch_a_life(&client, &stage.client());
    drop(client);
    stage.end();
}

#[test]
fn a_life_is_told_in_order_over_the_network() {
    with_each_driver(|driver| {
        let stage = Stage::new(application(), listening(driver));
        let options = ConnectOptions::new().address(address(&stage).to_string()).transport(Transport::Network);
        let watcher = Client::connect(options.data_directory(stage.path())).unwrap();
        let client = stage.client();
        watch_a_life(&client, &watcher);
        drop((client, watcher));
        stage.end();
    });
}

#[test]
fn who_may_not_manage_is_told_nothing_and_others_what_their_token_covers() {
    let stage = Stage::new(application(), listening(DriverChoice::Epoll));
    let client = stage.client();
    let with = |rights: Rights, scope: Scope| {
        let secret = praas_server::read_secret(stage.path()).unwrap();
        let claims = Claims { principal: "watcher".parse().unwrap(), scope, rights, expires_unix_s: None };
        let token = secret.sign(&claims);
        let options = ConnectOptions::new().address(address(&stage).to_string()).transport(Transport::Network);
        Client::connect(options.token(token)).unwrap()
    };
    let stranger = with(Rights::INVOKE, Scope::Any);
    for refused in [stranger.watch(None).unwrap_err(), stranger.watch(Some(process("alice"))).unwrap_err()] {
        assert!(matches!(refused, RequestError::Refused(ControlError::Unauthorized { .. })), "{refused}");
    }
    let of_alice = with(Rights::MANAGE, Scope::Process(process("alice")));
    let refused = of_alice.watch(Some(process("bob"))).unwrap_err();
    assert!(matches!(refused, RequestError::Refused(ControlError::Unauthorized { .. })), "{refused}");
    let mut follower = of_alice.watch(None).unwrap();
    client.create(process("bob")).unwrap();
    client.create(process("alice")).unwrap();
    client.stop(process("bob")).unwrap();
    client.stop(process("alice")).unwrap();
    let seen = until(&mut follower, |transition| transition.to.is_none());
    assert!(seen.iter().all(|transition| transition.process == process("alice")), "{seen:?}");
    drop((client, of_alice, stranger, follower));
    stage.end();
}

#[test]
fn many_who_watch_at_once_are_each_told_and_those_who_left_are_forgotten() {
    const WATCHERS: usize = 40;
    let stage = Stage::new(application(), |_| {});
    let client = stage.client();
    let mut followers: Vec<_> = (0..WATCHERS).map(|_| stage.client().watch(None).unwrap()).collect();
    for follower in &mut followers {
        assert_eq!(follower.next(Duration::from_millis(1)).unwrap(), None);
    }
    followers.truncate(WATCHERS / 2);
    client.create(process("alice")).unwrap();
    for mut follower in followers {
        let seen = until(&mut follower, |transition| transition.to == Some(ProcessState::Active));
        assert_eq!(states(&seen), [Some(ProcessState::Creating), Some(ProcessState::Active)]);
    }
    client.stop(process("alice")).unwrap();
    drop(client);
    stage.end();
}

//! A session over shared memory, as far as the client decides it: the lane is asked for, replaced and given back as one to a
//! process is, and resumed by its ticket.

use praas_client::{Session, Sources};

use crate::scripted::{Installation, PATIENCE, SESSION, Script, eventually};

fn begin(installation: &Installation) -> Session {
    installation.client.session("hello".parse().unwrap()).unwrap()
}

#[test]
fn messages_of_every_size_travel_in_the_lane() {
    let installation = Installation::new(Script { trusted: false, ..Script::default() });
    let session = begin(&installation);
    let sizes = [0, 1, 64, 1023, 1024, 1025, 100_000, (1 << 20) - 200];
    let ids = sizes.map(|bytes| session.send("alice", "k", &vec![7; bytes]).unwrap());
    let sent = installation.shared().sent.lock().unwrap().clone();
    for ((bytes, id), (sequence, content)) in sizes.iter().zip(ids).zip(&sent) {
        assert!(id.sequence == *sequence && *content == vec![7; *bytes], "{bytes} bytes");
    }
    let message = session.recv(Sources::Any, "k", PATIENCE).unwrap();
    assert_eq!((message.source(), &message[..]), ("alice".parse().unwrap(), &b"words"[..]));
    message.accept().unwrap();
}

#[test]
fn a_lost_lane_is_replaced_by_one_to_the_same_session() {
    let installation = Installation::new(Script::default());
    let session = begin(&installation);
    for round in 1..=3 {
        installation.shared().disconnect();
        // Asked or not: the session is resumed, by whoever notices first.
        if round == 2 {
            eventually("it is resumed", || installation.shared().resumed.lock().unwrap().len() == round + 1);
        }
        session.try_recv(Sources::Any, "k").unwrap().unwrap();
        session.send("alice", "k", b"x").unwrap();
        // The lane may have served both before anybody noticed.
        eventually("it is resumed", || installation.shared().resumed.lock().unwrap().len() > round);
        let resumed = installation.shared().resumed.lock().unwrap().clone();
        assert_eq!(resumed, [vec![None], vec![Some(SESSION); round]].concat());
    }
    let sent = installation.shared().sent.lock().unwrap().clone();
    assert!(sent.windows(2).all(|pair| pair[0].0 < pair[1].0), "numbers go on: {sent:?}");
}

#[test]
fn whoever_drops_a_session_leaves_it() {
    let installation = Installation::new(Script::default());
    let session = begin(&installation);
    let other = session.clone();
    let message = session.recv(Sources::Any, "k", PATIENCE).unwrap();
    assert_eq!(installation.shared().lanes_open(), 2);
    drop((session, other));
    assert_eq!(message.bytes(), b"words");
    message.accept().unwrap();
    eventually("its lane is given back", || installation.shared().lanes_open() == 1);
}

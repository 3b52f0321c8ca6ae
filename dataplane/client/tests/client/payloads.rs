//! Loans, replies in place and private, and typed calls.

use praas_client::CallError;
use rkyv::{Archive, Deserialize, Serialize};

use crate::scripted::{Installation, Script, eventually};

#[derive(Archive, Serialize, Deserialize, Debug, PartialEq, Clone)]
struct Document {
    title: String,
    words: Vec<(String, u32)>,
    score: f64,
}

#[derive(Archive, Serialize, Deserialize, Debug)]
#[rkyv(serialize_bounds(__S: rkyv::ser::Writer + rkyv::ser::Allocator, __S::Error: rkyv::rancor::Source))]
#[rkyv(deserialize_bounds(__D::Error: rkyv::rancor::Source))]
#[rkyv(bytecheck(bounds(__C: rkyv::validation::ArchiveContext, __C::Error: rkyv::rancor::Source)))]
struct Nested {
    #[rkyv(omit_bounds)]
    inner: Option<Box<Nested>>,
}

fn document(words: u32) -> Document {
    Document {
        title: "lanes".into(),
        words: (0..words).map(|index| (format!("word number {index}"), index)).collect(),
        score: 0.5,
    }
}

fn untrusted() -> Script {
    Script { trusted: false, ..Script::default() }
}

#[test]
fn a_loan_is_filled_in_place_inside_a_trust_domain_only() {
    for script in [Script::default(), untrusted()] {
        let here = Installation::new(script.clone());
        let mut loan = here.process.loan(100_000).unwrap();
        assert_eq!(loan.len(), 100_000);
        match loan.as_mut_slice() {
            Some(bytes) => bytes.fill(2),
            None => loan.write_at(0, &vec![2; 100_000]).unwrap(),
        }
        assert_eq!(loan.as_mut_slice().is_some(), script.trusted);
        assert_eq!(here.process.is_trusted(), script.trusted);
        let sum = here.process.invoke("sum", loan).unwrap();
        assert_eq!(u64::from_le_bytes(sum.as_slice().try_into().unwrap()), 200_000);
    }
}

#[test]
fn writing_beyond_a_loan_is_an_error_and_writes_nothing() {
    let here = Installation::new(Script::default());
    let mut loan = here.process.loan(10).unwrap();
    loan.write_at(0, &[1; 10]).unwrap();
    assert!(matches!(loan.write_at(5, &[9; 6]), Err(CallError::PayloadTooLarge { limit_bytes: 10, actual_bytes: 11 })));
    assert!(loan.write_at(usize::MAX, &[9; 6]).is_err());
    assert_eq!(here.process.invoke("echo", loan).unwrap().as_slice(), [1; 10]);
}

#[test]
fn loans_that_are_dropped_go_back() {
    let here = Installation::new(Script::default());
    for _ in 0..1000 {
        drop(here.process.loan(1 << 20).unwrap());
    }
    let call = here.process.start("echo", here.process.loan(1 << 20).unwrap()).unwrap();
    assert_eq!(call.wait().unwrap().len(), 1 << 20);
    here.process.loan(1 << 20).unwrap();
}

#[test]
fn large_replies_read_alike_on_both_sides_of_a_trust_boundary() {
    for script in [Script::default(), untrusted()] {
        let here = Installation::new(script);
        let reply = here.process.invoke("in place", &70_000_u32.to_le_bytes()).unwrap();
        assert!(reply.iter().all(|&byte| byte == 5) && reply.len() == 70_000);
        assert_eq!(reply.as_slice().as_ptr().align_offset(16), 0);
        assert_eq!(reply.into_vec().len(), 70_000);
    }
}

#[test]
fn a_loan_follows_its_process_to_a_new_lane() {
    let here = Installation::new(Script::default());
    let mut loan = here.process.loan(5000).unwrap();
    loan.write_at(0, &[6; 5000]).unwrap();
    here.shared().disconnect();
    eventually("the loss is noticed", || here.client.server_incarnation().is_none());
    assert_eq!(here.process.invoke("echo", loan).unwrap().as_slice(), [6; 5000]);
}

#[test]
fn typed_values_of_any_size_arrive_as_they_were() {
    for script in [Script::default(), untrusted()] {
        let here = Installation::new(script);
        for words in [0, 1, 20, 3000] {
            let sent = document(words);
            let reply = here.process.invoke_typed::<_, Document>("echo", &sent).unwrap();
            assert_eq!(reply.get().unwrap().words.len(), sent.words.len());
            assert_eq!(reply.to_value().unwrap(), sent, "{words} words");
        }
    }
}

#[test]
fn a_reply_of_another_type_is_a_typed_error() {
    let here = Installation::new(Script::default());
    let reply = here.process.invoke_typed::<_, Document>("junk", &document(1)).unwrap();
    match reply.get() {
        Err(CallError::Undecodable { type_name, actual_bytes: 48, .. }) => assert!(type_name.contains("Document")),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("junk was read as a document"),
    }
    let empty = here.process.invoke("echo", b"").unwrap();
    assert!(empty.is_empty());
    assert!(here.process.invoke_typed::<_, u64>("in place", &0_u32).unwrap().get().is_err());
}

#[test]
fn a_reply_nested_without_end_is_refused_and_does_not_overflow_the_stack() {
    let here = Installation::new(Script::default());
    let mut nested = Nested { inner: None };
    for _ in 0..2000 {
        nested = Nested { inner: Some(Box::new(nested)) };
    }
    let reply = here.process.invoke_typed::<_, Nested>("echo", &nested).unwrap();
    assert!(matches!(reply.get(), Err(CallError::Undecodable { .. })));
}

#[test]
fn a_typed_value_over_the_limit_is_refused_before_it_is_sent() {
    let here = Installation::new(Script { payload_bytes_max: 4096, ..Script::default() });
    let refused = here.process.invoke_typed::<_, Document>("echo", &document(3000)).unwrap_err();
    assert!(matches!(refused, CallError::PayloadTooLarge { limit_bytes: 4096, .. }), "{refused}");
}

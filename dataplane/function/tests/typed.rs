//! Typed functions: archives in and out, and what becomes of bytes that are no archive.

use praas_function::testing::{Harness, HarnessOptions};
use praas_function::{Application, Call, Context, FunctionError, FunctionResult, codes};
use praas_protocol::CallError;
use rkyv::rancor::Error;
use rkyv::{Archive, Deserialize, Serialize};

#[derive(Archive, Serialize, Deserialize, Debug, PartialEq)]
struct Order {
    customer: String,
    prices: Vec<u32>,
    weight: u128,
}

#[derive(Archive, Serialize, Deserialize, Debug, PartialEq)]
struct Bill {
    total: u64,
    lines: Vec<String>,
}

/// A list that nests one pointer an element: the attack on recursive validation.
#[derive(Archive, Serialize)]
#[rkyv(serialize_bounds(__S: rkyv::ser::Writer, __S::Error: rkyv::rancor::Source))]
#[rkyv(bytecheck(bounds(__C: rkyv::validation::ArchiveContext)))]
enum Chain {
    End,
    Link(#[rkyv(omit_bounds)] Box<Chain>),
}

fn bill(_: &Context, order: &ArchivedOrder) -> FunctionResult<Bill> {
    if order.prices.is_empty() {
        return Err(FunctionError::new(1, format!("{} ordered nothing", order.customer)));
    }
    Ok(Bill {
        total: order.prices.iter().map(|price| u64::from(price.to_native())).sum(),
        lines: order.prices.iter().map(|price| format!("{}: {price}", order.customer)).collect(),
    })
}

fn application() -> Application {
    Application::new()
        .typed("bill", bill)
        .typed("length", |_: &Context, chain: &ArchivedChain| {
            let mut length = 0_u32;
            let mut rest = chain;
            while let ArchivedChain::Link(next) = rest {
                length += 1;
                rest = next;
            }
            Ok(length)
        })
        .typed("zeros", |_: &Context, count: &rkyv::rend::u32_le| Ok(vec![0_u8; count.to_native() as usize]))
        .function("raw", |call: &mut Call| call.reply(call.input()))
}

fn harness() -> Harness {
    Harness::with_options(HarnessOptions { payload_bytes_max: 5 << 20, ..HarnessOptions::default() }, application)
        .unwrap()
}

fn order(prices: u32) -> Order {
    Order { customer: "alice".to_owned(), prices: (0..prices).collect(), weight: 1 << 100 }
}

/// An archive of `links` nested boxes, made by hand: serialising such a value would itself overflow the stack. Each
/// element is a tag in 4 bytes and an offset in 4, relative to itself, that leads to the element before.
fn chain_bytes(links: usize) -> Vec<u8> {
    let mut bytes = vec![0_u8; 8];
    for _ in 0..links {
        bytes.extend(1_u32.to_le_bytes());
        bytes.extend((-12_i32).to_le_bytes());
    }
    bytes
}

#[test]
fn typed_functions_answer_with_rust_values() {
    let harness = harness();
    for caller in [harness.trusted(), harness.untrusted()] {
        // Grows from a reply cell to blocks and back, so that every way to make room is taken.
        for prices in [1, 2, 1000, 1001, 5, 100_000, 1, 1, 3] {
            let answer: Bill = caller.invoke_typed("bill", &order(prices)).unwrap();
            assert_eq!(answer.total, u64::from(prices) * u64::from(prices - 1) / 2);
            assert_eq!(answer.lines.len(), prices as usize);
            assert_eq!(answer.lines.last().unwrap(), &format!("alice: {}", prices - 1));
        }
    }
}

#[test]
fn a_typed_functions_own_error_keeps_its_code_and_message() {
    let error = harness().invoke_typed::<Bill>("bill", &order(0)).unwrap_err();
    assert_eq!(error, CallError::FunctionFailed { code: 1, message: "alice ordered nothing".to_owned() });
}

#[test]
fn bytes_that_are_no_archive_are_refused_by_type_and_size() {
    let harness = harness();
    for caller in [harness.trusted(), harness.untrusted()] {
        for payload in [&b""[..], b"x", &[0xff; 48], &[0xff; 4096]] {
            match caller.invoke("bill", payload).unwrap_err() {
                CallError::FunctionFailed { code: codes::UNDECODABLE_INPUT, message } => {
                    assert!(message.contains(&format!("{} bytes", payload.len())), "{message}");
                    assert!(message.contains("ArchivedOrder"), "{message}");
                }
                other => panic!("{other:?}"),
            }
        }
        let archive = rkyv::to_bytes::<Error>(&order(10)).unwrap();
        for cut in 0..archive.len() {
            // A shorter archive may by chance be valid; it must only never harm.
            let _ = caller.invoke("bill", &archive[..cut]);
        }
        caller.invoke("bill", &archive).unwrap();
    }
}

#[test]
fn an_archive_that_nests_too_deeply_is_refused_and_the_worker_lives() {
    let harness = harness();
    let honest = rkyv::to_bytes::<Error>(&(0..3).fold(Chain::End, |rest, _| Chain::Link(Box::new(rest)))).unwrap();
    assert_eq!(honest.as_slice(), chain_bytes(3), "the archive made by hand is laid out as a real one");
    for caller in [harness.trusted(), harness.untrusted()] {
        for (links, is_read) in [(3, true), (100, true), (1000, false), (500_000, false)] {
            let answer = caller.invoke("length", &chain_bytes(links));
            match answer {
                Ok(bytes) => assert!(is_read && bytes == u32::try_from(links).unwrap().to_le_bytes(), "{links} links"),
                Err(CallError::FunctionFailed { code: codes::UNDECODABLE_INPUT, .. }) => {
                    assert!(!is_read, "{links} links");
                }
                Err(other) => panic!("{links} links: {other:?}"),
            }
        }
    }
}

#[test]
fn an_output_over_the_limit_is_told_with_its_size() {
    let harness = harness();
    for caller in [harness.trusted(), harness.untrusted()] {
        let count = 6_u32 << 20;
        match caller.invoke_typed::<Vec<u8>>("zeros", &count).unwrap_err() {
            CallError::PayloadTooLarge { limit_bytes, actual_bytes } => {
                assert_eq!(limit_bytes, 5 << 20);
                assert!((u64::from(count)..u64::from(count) + 64).contains(&actual_bytes), "{actual_bytes}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(caller.invoke_typed::<Vec<u8>>("zeros", &1000_u32).unwrap(), vec![0; 1000]);
    }
}

#[test]
fn an_answer_of_another_type_is_told_to_the_caller() {
    let error = harness().invoke_typed::<Bill>("raw", &u32::MAX).unwrap_err();
    assert!(matches!(error, CallError::Undecodable { actual_bytes: 4, .. }), "{error:?}");
}

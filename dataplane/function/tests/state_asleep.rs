//! Functions of a process that has slept: what they ask for comes back while they wait, what is damaged is named, and all else is
//! as it was.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use praas_function::testing::{Harness, HarnessOptions};
use praas_function::{Application, Call, Condition, FunctionResult, StateError, StateType};

#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Default)]
struct Count {
    count: u64,
}

impl StateType for Count {
    const NAME: &'static str = "count";
}

const OBJECTS: usize = 100;

fn key(number: usize) -> String {
    format!("object-{number}")
}

fn value(number: usize) -> Vec<u8> {
    let bytes = [0, 10, 2000, 9000][number % 4];
    (0..bytes).map(|at| (at ^ number).to_le_bytes()[0]).collect()
}

fn keep(call: &mut Call) -> FunctionResult {
    let context = call.context();
    for number in 0..OBJECTS {
        context.put_bytes(&key(number), &value(number))?;
    }
    context.put("count", &Count { count: 41 })?;
    Ok(())
}

fn number_of(call: &Call) -> usize {
    std::str::from_utf8(call.input()).unwrap().parse().unwrap()
}

/// What is there of the object of this number.
fn tell(call: &mut Call) -> FunctionResult {
    let (context, number) = (call.context(), number_of(call));
    match context.state_bytes(&key(number))? {
        Some(bytes) => call.reply(&bytes),
        None => call.reply(b"nothing"),
    }
}

fn replace(call: &mut Call) -> FunctionResult {
    let (context, number) = (call.context(), number_of(call));
    context.put_bytes(&key(number), b"replaced")?;
    Ok(())
}

/// The same with the value built where it will lie.
fn rebuild(call: &mut Call) -> FunctionResult {
    let (context, number) = (call.context(), number_of(call));
    let text = key(number);
    let mut loan = context.loan_state(&text, 7)?;
    loan.copy_from_slice(b"rebuilt");
    loan.publish(Condition::Any)?;
    Ok(())
}

fn remove(call: &mut Call) -> FunctionResult {
    let (context, number) = (call.context(), number_of(call));
    let was_there = context.delete(&key(number))?;
    call.reply(if was_there { b"removed" } else { b"nothing" })
}

fn count_up(call: &mut Call) -> FunctionResult {
    let context = call.context();
    context.update("count", |count: Option<Count>| Count { count: count.unwrap_or_default().count + 1 })?;
    let count = context.state::<Count>("count")?.expect("it was just put").count.to_native();
    call.reply(count.to_string().as_bytes())
}

fn list(call: &mut Call) -> FunctionResult {
    let page = call.context().list("object-", None)?;
    call.reply(page.objects.len().to_string().as_bytes())
}

fn damaged(call: &mut Call) -> FunctionResult {
    let (context, number) = (call.context(), number_of(call));
    let text = key(number);
    let Err(StateError::Damaged { object, reason }) = context.state_bytes(&text) else { panic!("it is damaged") };
    assert_eq!(object, text);
    call.reply(reason.as_bytes())
}

fn application() -> Application {
    Application::new()
        .function("keep", keep)
        .function("tell", tell)
        .function("replace", replace)
        .function("rebuild", rebuild)
        .function("remove", remove)
        .function("count_up", count_up)
        .function("list", list)
        .function("damaged", damaged)
}

fn told(harness: &Harness, function: &str, number: usize) -> Vec<u8> {
    harness.invoke(function, number.to_string().as_bytes()).unwrap()
}

#[test]
fn what_functions_ask_for_comes_back_and_what_they_change_is_changed() {
    let harness = Harness::new(application).unwrap();
    harness.invoke("keep", b"").unwrap();
    let harness = harness.asleep_and_back(&["object-7"]).unwrap();
    assert_eq!(told(&harness, "tell", 3), value(3));
    assert_eq!(told(&harness, "tell", 3), value(3), "it is there now");
    assert_eq!(told(&harness, "tell", OBJECTS), b"nothing");
    assert_eq!(harness.invoke("count_up", b"").unwrap(), b"42");
    told(&harness, "replace", 4);
    told(&harness, "rebuild", 5);
    assert_eq!(told(&harness, "remove", 6), b"removed");
    assert_eq!(told(&harness, "remove", OBJECTS + 1), b"nothing");
    assert_eq!(harness.invoke("list", b"").unwrap(), (OBJECTS - 1).to_string().as_bytes());
    let reason = String::from_utf8(told(&harness, "damaged", 7)).unwrap();
    assert!(reason.contains("version"), "{reason}");
    // A damaged one is replaced as any other, and what is beside it is there.
    told(&harness, "replace", 7);
    for number in 0..OBJECTS {
        let expected = match number {
            4 | 7 => b"replaced".to_vec(),
            5 => b"rebuilt".to_vec(),
            6 => b"nothing".to_vec(),
            _ => value(number),
        };
        assert!(told(&harness, "tell", number) == expected, "object {number}");
    }
    // It sleeps once more, whole.
    let harness = harness.asleep_and_back(&[]).unwrap();
    assert_eq!(harness.invoke("count_up", b"").unwrap(), b"43");
    assert_eq!(told(&harness, "tell", 7), b"replaced");
    assert_eq!(told(&harness, "tell", 6), b"nothing");
}

#[test]
fn several_workers_ask_for_the_same_at_once() {
    let harness =
        Harness::with_options(HarnessOptions { workers: 4, ..HarnessOptions::default() }, application).unwrap();
    harness.invoke("keep", b"").unwrap();
    let mut harness = harness.asleep_and_back(&[]).unwrap();
    let callers: Vec<_> = (0..4).map(|number| harness.caller(&format!("caller-{number}"), true).unwrap()).collect();
    let seen = Arc::new(AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for caller in &callers {
            let seen = Arc::clone(&seen);
            scope.spawn(move || {
                for number in 0..OBJECTS {
                    let told = caller.invoke("tell", number.to_string().as_bytes()).unwrap();
                    assert!(told == value(number), "object {number}");
                    caller.invoke("count_up", b"").unwrap();
                    seen.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    let counted = 42 + seen.load(Ordering::Relaxed);
    assert_eq!(harness.invoke("count_up", b"").unwrap(), counted.to_string().as_bytes());
    callers.into_iter().for_each(|caller| harness.close(caller).unwrap());
}

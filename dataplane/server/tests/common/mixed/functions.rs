//! The functions of the mixed load: each does one thing that a checker outside can account for, and says so.
//!
//! An answer means that all of it happened. [`REFUSED`] means that nothing of it did, [`UNSURE`] that the function itself does not
//! know, and [`WRONG`] that it saw what must never be; the other codes say what became of received messages.

use std::time::Duration;

use praas_function::{
    Call, CallError, Condition, Context, FunctionError, FunctionResult, IdempotencyKey, InvokeOptions, SELF, StateType,
};

use super::mail_functions;
use crate::common::PATIENCE;

/// Nothing of it happened.
pub(crate) const REFUSED: u32 = 11;
/// What was asked of another process may have happened.
pub(crate) const UNSURE: u32 = 12;
/// What must never be was seen.
pub(crate) const WRONG: u32 = 13;
/// The call failed after it had accepted the message that its words name.
pub(crate) const LET_GO: u32 = 14;
/// The call failed and has accepted nothing.
pub(crate) const GIVEN_BACK: u32 = 15;

/// How long ends of calls with keys are remembered, in milliseconds, if not for long.
pub(crate) const KEPT_MS: &str = "TEST_KEPT_MS";

/// Numbers whose bits one object of the state holds.
pub(crate) const NUMBERS_PER_OBJECT: usize = 4096;

/// A count that is changed where it lies.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Default)]
pub(crate) struct Count {
    pub(crate) count: u64,
}

impl StateType for Count {
    const NAME: &'static str = "count";
}

/// The bytes that say a number, of a length that follows from it: inline, in the entry of a lane, in small and large blocks.
pub(crate) fn letter(number: u64) -> Vec<u8> {
    let bytes = match number % 16 {
        0 => 200_000,
        1 | 2 => 20_000,
        3..=5 => 1000,
        6..=9 => 100,
        _ => 8,
    };
    number.to_le_bytes().into_iter().cycle().take(bytes).collect()
}

/// The number that these bytes say, if they are those of a letter and no others.
pub(crate) fn number_of(bytes: &[u8]) -> Option<u64> {
    let number = u64::from_le_bytes(*bytes.first_chunk()?);
    (bytes == letter(number)).then_some(number)
}

/// Serves as a worker.
pub(crate) fn serve() {
    let kept_ms = std::env::var(KEPT_MS).ok().and_then(|ms| ms.parse().ok());
    praas_function::Application::new()
        .keep_answers_for(kept_ms.map_or(PATIENCE * 20, Duration::from_millis))
        .function("store", |call: &mut Call<'_>| {
            let [key, number] = words(call);
            let version = call.context().put_bytes(&key, &letter(number.parse()?)).map_err(refused)?;
            FunctionResult::Ok(version.to_le_bytes())
        })
        .function("build", |call: &mut Call<'_>| {
            let [key, number] = words(call);
            let bytes = letter(number.parse()?);
            let mut loan = call.context().loan_state(&key, bytes.len()).map_err(refused)?;
            loan.copy_from_slice(&bytes);
            let version = loan.publish(Condition::Any).map_err(refused)?;
            FunctionResult::Ok(version.to_le_bytes())
        })
        .function("fetch", |call: &mut Call<'_>| fetch(call))
        .function("remove", |call: &mut Call<'_>| {
            let [key] = words(call);
            FunctionResult::Ok([u8::from(call.context().delete(&key).map_err(refused)?)])
        })
        .function("bump", |call: &mut Call<'_>| {
            let [key] = words(call);
            bump(&call.context(), &key)
        })
        .function("bump-there", |call: &mut Call<'_>| {
            let [way, target, key] = words(call);
            bump_there(&call.context(), &way, &target, &key)
        })
        .function("once-there", |call: &mut Call<'_>| {
            let [target, rerun, key] = words(call);
            once_there(&call.context(), &target, rerun == "rerun", &key)
        })
        .function("pass", |call: &mut Call<'_>| mail_functions::pass(call))
        .function("pass-many", |call: &mut Call<'_>| mail_functions::pass_many(call))
        .function("announce", |call: &mut Call<'_>| mail_functions::announce(call))
        .function("note", |call: &mut Call<'_>| mail_functions::note(call))
        .function("noted", |call: &mut Call<'_>| {
            let [source, number] = words(call);
            let bits =
                call.context().state_bytes(&mail_functions::bits_key(&source, number.parse()?)).map_err(refused)?;
            FunctionResult::Ok(bits.map(|bits| bits.to_vec()).unwrap_or_default())
        })
        .function("room", |call: &mut Call<'_>| room(&call.context()))
        .function("fill", |call: &mut Call<'_>| fill(call))
        .function("send-numbers", |call: &mut Call<'_>| mail_functions::send_numbers(call))
        .function("occupy", |_: &mut Call<'_>| std::thread::sleep(Duration::from_millis(3)))
        .function("send-by", |call: &mut Call<'_>| mail_functions::send_by(call))
        .function("take-at-gate", |call: &mut Call<'_>| mail_functions::take_at_gate(call))
        .function("take-numbers", |call: &mut Call<'_>| mail_functions::take_numbers(call))
        .function("spoil", |call: &mut Call<'_>| {
            let [order] = words(call);
            crate::common::functions::spoil(&order)
        })
        .function("send-junk", |call: &mut Call<'_>| mail_functions::send_junk(call))
        .function("read-junk", |call: &mut Call<'_>| mail_functions::read_junk(call))
        .run();
}

pub(super) fn words<const COUNT: usize>(call: &Call<'_>) -> [String; COUNT] {
    let text = std::str::from_utf8(call.input()).expect("the test sends text");
    let words: Vec<_> = text.splitn(COUNT, ' ').map(str::to_owned).collect();
    words.try_into().expect("the test sends as many words")
}

pub(super) fn refused(error: impl std::fmt::Display) -> FunctionError {
    FunctionError::new(REFUSED, error.to_string())
}

pub(super) fn wrong(words: String) -> FunctionError {
    FunctionError::new(WRONG, words)
}

/// The number of an object and its version; nothing where there is none.
fn fetch(call: &Call<'_>) -> FunctionResult<Vec<u8>> {
    let [key] = words(call);
    let Some(object) = call.context().state_bytes(&key).map_err(refused)? else { return Ok(Vec::new()) };
    let number = number_of(&object).ok_or_else(|| wrong(format!("{key} has {} bytes of no number", object.len())))?;
    // It stays what it is, whatever others put meanwhile.
    std::thread::yield_now();
    if number_of(&object) != Some(number) {
        return Err(wrong(format!("{key} changed under a reader")));
    }
    Ok([number.to_le_bytes(), object.version().to_le_bytes()].concat())
}

fn bump(context: &Context<'_>, key: &str) -> FunctionResult<Vec<u8>> {
    let mut count = 0;
    let bumped = context.update(key, |before: Option<Count>| {
        count = before.unwrap_or_default().count + 1;
        Count { count }
    });
    bumped.map_err(refused)?;
    Ok(count.to_string().into_bytes())
}

/// What the caller of a nested call knows by its end: nothing happened, or it may have.
fn end_there(error: &CallError) -> FunctionError {
    let words = error.to_string();
    match error {
        CallError::FunctionFailed { code: code @ (REFUSED | WRONG | UNSURE), message } => {
            FunctionError::new(*code, message.clone())
        }
        // A server that has just been started does not know the processes of others yet.
        CallError::UnknownProcess { .. }
        | CallError::ConnectionLost { may_have_run: false }
        | CallError::Unavailable { .. }
        | CallError::Overloaded { .. } => refused(words),
        CallError::WorkerLost | CallError::ConnectionLost { may_have_run: true } => FunctionError::new(UNSURE, words),
        _ => wrong(format!("a nested call ended as {error:?}")),
    }
}

/// Counts in another process, and by some ways back through this one.
fn bump_there(context: &Context<'_>, way: &str, target: &str, key: &str) -> FunctionResult<Vec<u8>> {
    let ended = match way {
        "invoke" => context.invoke(target, "bump", key.as_bytes()),
        "later" => context.start(target, "bump", key.as_bytes()).and_then(|pending| pending.wait()),
        // To the other one, which calls this one again, which counts there.
        "around" => {
            let there = format!("invoke {target} {key}");
            let input = format!("back {} {there}", context.process().process);
            context.invoke(target, "bump-there", input.as_bytes())
        }
        // Called by "around": what is to be done there is in the key.
        "back" => context.invoke(target, "bump-there", key.as_bytes()),
        "self" => context.invoke(SELF, "bump-there", format!("invoke {target} {key}").as_bytes()),
        _ => return Err(wrong(format!("no way {way}"))),
    };
    ended.map(|output| output.to_vec()).map_err(|error| end_there(&error))
}

/// Counts in another process, once for all calls with this key.
fn once_there(context: &Context<'_>, target: &str, rerun: bool, key: &str) -> FunctionResult<Vec<u8>> {
    let name: IdempotencyKey = key.parse()?;
    let options = match rerun {
        true => InvokeOptions::new().idempotency_key_rerun_lost(name),
        false => InvokeOptions::new().idempotency_key(name),
    };
    let ended = context.invoke_with(target, "bump", key.as_bytes(), &options);
    ended.map(|output| output.to_vec()).map_err(|error| end_there(&error))
}

/// How many objects of 32 KiB there is room for beside what is there.
fn room(context: &Context<'_>) -> FunctionResult<String> {
    let bytes = vec![1; 32 << 10];
    let mut count = 0;
    while context.put_bytes(&format!("room/{count}"), &bytes).is_ok() {
        count += 1;
    }
    for number in 0..count {
        context.delete(&format!("room/{number}")).map_err(refused)?;
    }
    Ok(count.to_string())
}

/// "BYTES": puts objects of so many bytes until one is refused; how many were put, and why the last was not.
fn fill(call: &Call<'_>) -> FunctionResult<String> {
    let [bytes] = words(call);
    let (bytes, mut count) = (vec![1; bytes.parse()?], 0);
    loop {
        if let Err(error) = call.context().put_bytes(&format!("fill/{count}"), &bytes) {
            return Ok(format!("{count} {error}"));
        }
        count += 1;
    }
}

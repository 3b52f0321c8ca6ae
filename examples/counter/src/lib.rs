//! The functions of the application `counter`, which keeps counts in the state of its processes.
//!
//! A count is a typed object of its process. All workers see it, and it outlives them: kill one in the middle of a call, and
//! the next goes on with every count that was answered.
#![forbid(unsafe_code)]

use std::time::{SystemTime, UNIX_EPOCH};

use praas_function::{Application, Call, Context, FunctionError, FunctionResult, StateType};
use rkyv::{Archive, Deserialize, Serialize};

/// What is kept under a counter's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Archive, Serialize, Deserialize)]
pub struct Counter {
    /// What was counted.
    pub count: u64,
    /// How often it was changed.
    pub changes: u64,
    /// When it was changed last, in seconds since 1970.
    pub changed_unix_s: u64,
}

impl StateType for Counter {
    const NAME: &'static str = "counter";
    const SCHEMA_VERSION: u32 = 1;
}

/// What `add` takes.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Addition {
    /// The counter's key.
    pub key: String,
    /// How much to add.
    pub amount: u64,
}

/// `add` fails with this code when the sum is more than a counter can hold; nothing is changed then.
pub const TOO_MUCH: u32 = 1;

/// The application: every worker of its processes makes one.
#[must_use]
pub fn application() -> Application {
    Application::new().function("count", count).function("read", read).function("reset", reset).typed("add", add)
}

/// Adds one to the counter whose key is the input; answers with the count, as text.
fn count(call: &mut Call) -> FunctionResult<String> {
    let key = std::str::from_utf8(call.input())?;
    Ok(change(&call.context(), key, 1)?.to_string())
}

/// The count of the counter whose key is the input, as text: read where it lies.
fn read(call: &mut Call) -> FunctionResult<String> {
    let key = std::str::from_utf8(call.input())?;
    let count = call.context().state::<Counter>(key)?.map_or(0, |counter| counter.count.to_native());
    Ok(count.to_string())
}

/// Removes the counter whose key is the input.
fn reset(call: &mut Call) -> FunctionResult {
    let key = std::str::from_utf8(call.input())?;
    call.context().delete(key)?;
    Ok(())
}

/// The same as `count` with Rust values, and any amount.
fn add(context: &Context, addition: &ArchivedAddition) -> FunctionResult<u64> {
    change(context, &addition.key, addition.amount.to_native())
}

/// Adds to a counter, which is made by its first change. Workers that change it at the same time lose none of the changes:
/// `update` gives each the newest one.
fn change(context: &Context, key: &str, amount: u64) -> FunctionResult<u64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let mut sum = None;
    context.update(key, |counter: Option<Counter>| {
        let counter = counter.unwrap_or_default();
        sum = counter.count.checked_add(amount);
        match sum {
            Some(count) => Counter { count, changes: counter.changes + 1, changed_unix_s: now },
            None => counter,
        }
    })?;
    sum.ok_or_else(|| FunctionError::new(TOO_MUCH, format!("{amount} more is more than {key} can hold")))
}

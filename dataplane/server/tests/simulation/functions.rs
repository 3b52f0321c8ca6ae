//! What the workers of simulated processes run: real functions in real workers, which tell the model what they do.
//!
//! Between a look at the model and what it speaks of, no function waits: each of them is one step of the run there.

mod large;
mod nested;
mod reminders;

pub(crate) use self::large::OBJECTS;
pub(crate) use self::nested::KEYED;
use praas_function::testing::strike;
use praas_function::{Application, Call, Context, FunctionError, FunctionResult, Sources};
use praas_protocol::ProcessId;

use crate::model::{Death, Operation, model};

/// The object that holds the operations of a process.
const LOG: &str = "log";

/// The key of all messages.
pub(crate) const MESSAGE_KEY: &str = "work";

/// What a function fails with that is told to.
pub(crate) const PLANNED: u32 = 1;

/// The answer to a `take` that finds no message.
pub(crate) const NOTHING: &[u8] = b"nothing";

/// Which worker runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Role {
    pub(crate) process: ProcessId,
    /// Of the life of the process.
    pub(crate) incarnation: u64,
    pub(crate) worker: usize,
}

impl Role {
    /// Another process of the same application.
    fn other(&self, number: u8) -> ProcessId {
        ProcessId { process: format!("p{number}").parse().expect("it is a name"), ..self.process }
    }
}

/// The functions of one worker.
pub(crate) fn application(role: Role) -> Application {
    Application::new()
        .function("append", move |call: &mut Call<'_>| append(call, role))
        .function("take", move |call: &mut Call<'_>| take(call, role))
        .function("relay", move |call: &mut Call<'_>| nested::relay(call, role))
        .function("post", move |call: &mut Call<'_>| nested::post(call, role))
        .function("grow", move |call: &mut Call<'_>| large::grow(call, role))
        .function("look", move |call: &mut Call<'_>| large::look(call, role))
        .function("remind", move |call: &mut Call<'_>| reminders::remind(call, role))
        .function("take_wake", move |call: &mut Call<'_>| reminders::take_wake(call, role))
}

/// The operation of a call, and what its function needs beside.
fn operation_of<'a>(call: &Call<'a>) -> (Operation, &'a [u8]) {
    let (operation, rest) = call.input().split_first_chunk().expect("four bytes");
    (Operation::from_le_bytes(*operation), rest)
}

/// A call begins. It has no effect if its process does not know all that it should.
fn begin(context: &Context<'_>, role: Role, operation: Operation) -> FunctionResult<()> {
    let log = read_log(context)?;
    model(|model| model.begin(&role.process, operation, &log));
    Ok(())
}

fn read_log(context: &Context<'_>) -> Result<Vec<Operation>, FunctionError> {
    let Some(object) = context.state_bytes(LOG)? else { return Ok(Vec::new()) };
    Ok(object.chunks_exact(4).map(|word| Operation::from_le_bytes(word.try_into().expect("four bytes"))).collect())
}

/// The call's effect: its operation stands at the end of the log.
fn take_effect(context: &Context<'_>, role: Role, operation: Operation) -> FunctionResult<()> {
    let mut log = read_log(context)?;
    log.push(operation);
    let bytes: Vec<u8> = log.iter().flat_map(|operation| operation.to_le_bytes()).collect();
    let version = context.put_bytes(LOG, &bytes)?;
    model(|model| model.put(&role, operation, version));
    Ok(())
}

/// Whether the worker dies here; its function goes no further then.
fn dies(when: Death, role: Role) -> bool {
    let dies = model(|model| {
        let dies = model.death == Some(when);
        model.is_struck |= dies;
        if dies {
            model.death = None;
        }
        dies
    });
    if dies {
        model(|model| model.said.push(format!("    worker {} is struck", role.worker)));
        strike();
    }
    dies
}

fn append(call: &mut Call<'_>, role: Role) -> FunctionResult<&'static [u8]> {
    let ((operation, _), context) = (operation_of(call), call.context());
    begin(&context, role, operation)?;
    if dies(Death::First, role) {
        return Ok(b"");
    }
    take_effect(&context, role, operation)?;
    dies(Death::Last, role);
    Ok(b"")
}

fn take(call: &mut Call<'_>, role: Role) -> FunctionResult<Vec<u8>> {
    let ((operation, _), context) = (operation_of(call), call.context());
    begin(&context, role, operation)?;
    let Some(message) = context.try_recv(Sources::Any, MESSAGE_KEY)? else { return Ok(NOTHING.to_vec()) };
    let number = Operation::from_le_bytes(message[..].try_into().expect("four bytes"));
    let (source, id) = (message.source().to_string(), message.id());
    model(|model| model.receive(&role.process, &source, id, number));
    if model(|model| std::mem::take(&mut model.fails)) {
        return Err(FunctionError::new(PLANNED, "it failed, as planned"));
    }
    let is_struck = dies(Death::Last, role);
    model(|model| model.end_receive(&role.process, number, is_struck));
    Ok(number.to_le_bytes().to_vec())
}

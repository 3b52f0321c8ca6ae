//! What the workers of simulated processes run: real functions in real workers, which tell the model what they do.

use praas_function::testing::strike;
use praas_function::{Application, Call, Context, FunctionError, FunctionResult, Sources};
use praas_protocol::ProcessId;

use crate::model::{Death, Operation, model};

/// The object that holds the operations of a process.
const LOG: &str = "log";

/// The key of all messages.
pub(crate) const MESSAGE_KEY: &str = "work";

/// The answer to a `take` that finds no message.
pub(crate) const NOTHING: &[u8] = b"nothing";

/// Which worker runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Role {
    pub(crate) process: ProcessId,
    pub(crate) worker: usize,
}

/// The functions of one worker.
pub(crate) fn application(role: Role) -> Application {
    Application::new()
        .function("append", move |call: &mut Call<'_>| append(call, role))
        .function("take", move |call: &mut Call<'_>| take(call, role))
}

fn operation_of(call: &Call<'_>) -> Operation {
    Operation::from_le_bytes(call.input().try_into().expect("four bytes"))
}

fn read_log(context: &Context<'_>) -> Result<Vec<Operation>, FunctionError> {
    let Some(object) = context.state_bytes(LOG)? else { return Ok(Vec::new()) };
    Ok(object.chunks_exact(4).map(|word| Operation::from_le_bytes(word.try_into().expect("four bytes"))).collect())
}

fn write_log(context: &Context<'_>, role: Role, mut log: Vec<Operation>, operation: Operation) -> FunctionResult<()> {
    log.push(operation);
    let bytes: Vec<u8> = log.iter().flat_map(|operation| operation.to_le_bytes()).collect();
    context.put_bytes(LOG, &bytes)?;
    model(|model| model.put(&role.process, operation));
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
    let (operation, context) = (operation_of(call), call.context());
    let log = read_log(&context)?;
    model(|model| model.begin(&role.process, operation, &log));
    if dies(Death::First, role) {
        return Ok(b"");
    }
    write_log(&context, role, log, operation)?;
    dies(Death::Last, role);
    Ok(b"")
}

fn take(call: &mut Call<'_>, role: Role) -> FunctionResult<Vec<u8>> {
    let (operation, context) = (operation_of(call), call.context());
    let log = read_log(&context)?;
    model(|model| model.begin(&role.process, operation, &log));
    let Some(message) = context.try_recv(Sources::Any, MESSAGE_KEY)? else { return Ok(NOTHING.to_vec()) };
    let number = Operation::from_le_bytes(message[..].try_into().expect("four bytes"));
    let source = message.source().to_string();
    model(|model| model.receive(&role.process, &source, message.id().sequence, number));
    if model(|model| std::mem::take(&mut model.fails)) {
        return Err(FunctionError::new(1, "it failed, as planned"));
    }
    let is_struck = dies(Death::Last, role);
    model(|model| model.end_receive(&role.process, number, is_struck));
    Ok(number.to_le_bytes().to_vec())
}

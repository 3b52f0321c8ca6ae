//! The workers of the tests with two servers: they call and send, see the list of processes, and say what became of it.

use std::time::{Duration, Instant};

use praas_function::{Application, Call, Context, FunctionResult, InvokeOptions, ProcessList};
use praas_protocol::IdempotencyKey;

use crate::common::{PATIENCE, mails, nesting, stage};

/// Serves as a worker.
pub(crate) fn serve() {
    mails::functions(nesting::functions(Application::new()))
        .function("list", |call: &mut Call<'_>| -> FunctionResult<String> { Ok(text(&call.context().processes()?)) })
        .function("await", |call: &mut Call<'_>| -> FunctionResult<String> {
            await_line(&call.context(), std::str::from_utf8(call.input())?)
        })
        .function("broadcast", |call: &mut Call<'_>| -> FunctionResult<String> {
            let words: Vec<&str> = std::str::from_utf8(call.input())?.split(' ').collect();
            let (&[key, text], to) = words.split_first_chunk().expect("a key, a text and destinations");
            let sent = call.context().broadcast(to, key, text.as_bytes());
            let told = sent.iter().map(|one| one.as_ref().map_or_else(ToString::to_string, |_| "ok".to_owned()));
            Ok(told.collect::<Vec<_>>().join("\n"))
        })
        .function("send-behind", |call: &mut Call<'_>| -> FunctionResult<()> {
            let to = std::str::from_utf8(call.input())?;
            let context = call.context();
            let first = context.start_send(to, "k", &[1; 300_000])?;
            // None of these waits for the one before it.
            let behind = (0..3).map(|_| context.start_send(to, "k", b"small")).collect::<Result<Vec<_>, _>>()?;
            for sent in std::iter::once(first).chain(behind) {
                sent.wait_within(PATIENCE / 2)?;
            }
            Ok(())
        })
        .function("count", |call: &mut Call<'_>| -> FunctionResult<String> {
            let context = call.context();
            let count = context.state_bytes("count")?.and_then(|count| count.first().copied()).unwrap_or(0) + 1;
            context.put_bytes("count", &[count])?;
            Ok(count.to_string())
        })
        .function("once", |call: &mut Call<'_>| -> FunctionResult<String> {
            let text = std::str::from_utf8(call.input())?;
            let (target, key) = text.split_once(' ').expect("a target and a key");
            let key =
                IdempotencyKey::from_bytes(std::array::from_fn(|at| key.as_bytes().get(at).copied().unwrap_or(0)));
            let options = InvokeOptions::new().idempotency_key(key).deadline(PATIENCE / 2);
            let output = call.context().invoke_with(target, "count", b"", &options)?;
            Ok(String::from_utf8_lossy(&output).into_owned())
        })
        .run()
}

/// One line a process, in order of the names.
fn text(list: &ProcessList) -> String {
    let mut lines: Vec<_> = list.iter().map(|process| format!("{} {}\n", process.name, process.state)).collect();
    lines.sort_unstable();
    lines.concat()
}

/// Watches until the list has a line that starts so, or with `!` before it no longer has one; the list.
pub(crate) fn await_line(context: &Context<'_>, wanted: &str) -> FunctionResult<String> {
    let (is_wanted, line) = match wanted.strip_prefix('!') {
        Some(line) => (false, line),
        None => (true, wanted),
    };
    let mut seen = context.processes()?;
    let end = Instant::now() + PATIENCE - Duration::from_secs(2);
    while text(&seen).lines().any(|one| one.starts_with(line)) != is_wanted {
        seen = context.watch_processes(seen.change(), end.saturating_duration_since(Instant::now()))?;
    }
    Ok(text(&seen))
}

/// An application of these functions.
pub(crate) fn application() -> praas_server::Application {
    let mut application = mails::mailing();
    application.limits.payload_bytes_max = 8 << 20;
    (application.workers_min, application.workers_max) = (1, 3);
    application
}

/// What a test binary does when it was started in a role.
pub(crate) fn play() {
    match std::env::var(crate::common::ROLE).as_deref() {
        _ if crate::common::is_keeper_socket(&std::io::stdin()) => stage::play(),
        Ok("worker") => serve(),
        Ok("host") => crate::common::hosts::play_host(),
        _ => stage::play(),
    }
}

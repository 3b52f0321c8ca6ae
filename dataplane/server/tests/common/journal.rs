//! Functions of the tests of logged processes: they keep a journal in state, send, receive and call, and say what they saw.

use std::time::Duration;

use praas_function::{Call, FunctionError, FunctionResult, Sources};
use praas_protocol::Durability;
use praas_server::Application;

use crate::common::PATIENCE;
use crate::common::stage::application;

/// Serves as a worker.
pub(crate) fn serve() {
    praas_function::Application::new()
        .function("put", |call: &mut Call<'_>| {
            let [key, value] = words(call);
            call.context().put_bytes(&key, value.as_bytes())?;
            FunctionResult::Ok(value)
        })
        .function("bump", |call: &mut Call<'_>| {
            // Its position, as its caller is told: whoever has it may rely on it.
            let [key, number] = words(call);
            let position = call.context().put_bytes(&key, number.as_bytes())?;
            FunctionResult::Ok(position.to_string())
        })
        .function("fill", |call: &mut Call<'_>| {
            let [key, bytes] = words(call);
            call.context().put_bytes(&key, &vec![b'x'; bytes.parse()?])?;
            FunctionResult::Ok(())
        })
        .function("get", |call: &mut Call<'_>| {
            let [key] = words(call);
            let value = call.context().state_bytes(&key)?;
            FunctionResult::Ok(value.map(|value| value.to_vec()).unwrap_or_default())
        })
        .function("large", |call: &mut Call<'_>| {
            let [key, bytes] = words(call);
            call.context().put_bytes(&key, b"large")?;
            FunctionResult::Ok(vec![b'y'; bytes.parse()?])
        })
        .function("fail", |call: &mut Call<'_>| {
            call.context().put_bytes("failed", b"yes")?;
            FunctionResult::<()>::Err(FunctionError::new(7, "as asked"))
        })
        .function("send", |call: &mut Call<'_>| {
            let [to, text] = words(call);
            call.context().put_bytes("sent", text.as_bytes())?;
            call.context().send_within(to.as_str(), "letters", text.as_bytes(), PATIENCE)?;
            FunctionResult::Ok(())
        })
        .function("recv", |call: &mut Call<'_>| {
            let [ms] = words(call);
            let within = Duration::from_millis(ms.parse()?);
            let message = call.context().recv(Sources::Any, "letters", within)?;
            FunctionResult::Ok(message.bytes().to_vec())
        })
        .function("ask", |call: &mut Call<'_>| {
            let [to, key] = words(call);
            call.context().put_bytes("asked", key.as_bytes())?;
            let answer = call.context().invoke(to.as_str(), "get", key.as_bytes())?;
            FunctionResult::Ok(answer.to_vec())
        })
        .function("barrier", |call: &mut Call<'_>| {
            let [ms] = words(call);
            call.context().put_bytes("barrier", b"before")?;
            let level = call.context().barrier(Duration::from_millis(ms.parse()?))?;
            FunctionResult::Ok(level.to_string())
        })
        .run();
}

fn words<const N: usize>(call: &Call<'_>) -> [String; N] {
    let text = std::str::from_utf8(call.input()).expect("the test sends text");
    let words: Vec<_> = text.split(' ').map(str::to_owned).collect();
    words.try_into().expect("the test sends as many words")
}

/// The application that they are, logged.
pub(crate) fn logged() -> Application {
    let mut application = application();
    application.durability = Durability::Logged;
    application.limits.state_bytes_max = 16 << 20;
    application
}

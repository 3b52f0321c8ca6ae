//! The workers of the tests of clients' sessions: they answer clients, tell them numbers, and say what they were sent.

use praas_client::Session;
use praas_function::{Call, FunctionResult, Sources};
use praas_protocol::{Address, SessionId};

use crate::common::PATIENCE;

/// Serves as a worker.
pub(crate) fn serve() {
    praas_function::Application::new()
        // Sends what comes next under a key back to who sent it.
        .function("answer", |call: &mut Call<'_>| {
            let [key] = words(call);
            let context = call.context();
            let message = context.recv(Sources::Any, &key, PATIENCE)?;
            context.send_within(message.source(), "answers", message.bytes(), PATIENCE)?;
            FunctionResult::Ok(())
        })
        // Sends numbers to a client.
        .function("tell", |call: &mut Call<'_>| {
            let [client, key, from, count, bytes] = words(call);
            let to = Address::Client(SessionId(u128::from_str_radix(&client, 16)?));
            let (from, count): (u64, u64) = (from.parse()?, count.parse()?);
            for number in from..from + count {
                let text = format!("{number:0width$}", width = bytes.parse()?);
                call.context().send_within(to, &key, text.as_bytes(), PATIENCE)?;
            }
            FunctionResult::Ok(())
        })
        // All that is there under a key, in the order in which it is received.
        .function("all", |call: &mut Call<'_>| {
            let [key] = words(call);
            let (context, mut texts) = (call.context(), Vec::new());
            while let Some(message) = context.try_recv(Sources::Any, &key)? {
                let again = if message.is_redelivered() { "!" } else { "" };
                texts.push(format!("{}{again}", String::from_utf8_lossy(message.bytes())));
            }
            FunctionResult::Ok(texts.join(" "))
        })
        // How many are taken out of the mailbox.
        .function("take", |call: &mut Call<'_>| {
            let [key, count] = words(call);
            for _ in 0..count.parse()? {
                call.context().recv(Sources::Any, &key, PATIENCE)?.accept()?;
            }
            FunctionResult::Ok(())
        })
        .run();
}

fn words<const COUNT: usize>(call: &Call<'_>) -> [String; COUNT] {
    let text = std::str::from_utf8(call.input()).expect("the test sends text");
    let words: Vec<_> = text.splitn(COUNT, ' ').map(str::to_owned).collect();
    words.try_into().expect("the test sends as many words")
}

/// A session, as functions are told of it.
pub(crate) fn told(session: &Session) -> String {
    session.id().to_string()
}

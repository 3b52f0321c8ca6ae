//! Functions of the tests of messages: they send, receive, hold and note what a test says, and misuse the control socket where a
//! test wants that.

use std::os::fd::OwnedFd;
use std::time::Duration;

use praas_client::{CallError, Client, Process};
use praas_function::{Call, Context, FunctionError, FunctionResult, RecvError, SendError, Sources};
use praas_protocol::codec::{decode, encode};
use praas_protocol::control::{ControlError, MessageLaneSlot, WorkerCommand, WorkerMessage};
use praas_protocol::limits::CONTROL_MESSAGE_BYTES_MAX;
use praas_protocol::{Address, Key, MessageId};
use praas_server::Application;
use praas_shm::mail_bell::MailBell;
use praas_shm::message_lane::Outbound;
use praas_sys::MessageSocket;

use crate::common::PATIENCE;
use crate::common::functions::SOCKET_COPY;
use crate::common::stage::{application, application_with_copies, process};

/// The state of each process in these tests, in bytes.
const STATE_BYTES: u64 = 4 << 20;

/// Numbers whose bits one object of the state holds.
pub(crate) const NUMBERS_PER_OBJECT: usize = 4096;

/// Code of the error of `note` for a message that must not come.
pub(crate) const WRONG: u32 = 7;

/// Serves as a worker.
pub(crate) fn serve() {
    functions(praas_function::Application::new()).run()
}

/// Adds these functions.
pub(crate) fn functions(application: praas_function::Application) -> praas_function::Application {
    let socket = praas_sys::inherited::take(SOCKET_COPY).ok().map(MessageSocket::from);
    application
        .function("misuse", move |call: &mut Call<'_>| {
            let [how, to, count] = words(call);
            let socket = socket.as_ref().expect("the test gave the worker a copy of its socket");
            FunctionResult::Ok(misuse(socket, &how, &to, count.parse()?))
        })
        .function("send", |call: &mut Call<'_>| {
            let [to, key, text] = words(call);
            let id = call.context().send(to.as_str(), &key, text.as_bytes())?;
            FunctionResult::Ok(format!("{}", id.sequence))
        })
        .function("send-many", |call: &mut Call<'_>| {
            let [to, key, from, count] = words(call);
            let (from, count): (u64, u64) = (from.parse()?, count.parse()?);
            for number in from..from + count {
                call.context().send_within(to.as_str(), &key, number.to_string().as_bytes(), PATIENCE)?;
            }
            FunctionResult::Ok(())
        })
        .function("send-large", |call: &mut Call<'_>| {
            let [to, key, bytes, fill] = words(call);
            let mut loan = call.context().loan_message(to.as_str(), bytes.parse()?)?;
            loan.fill(fill.parse()?);
            loan.send(&key)?;
            FunctionResult::Ok(())
        })
        .function("recv", |call: &mut Call<'_>| {
            let [source, key, ms] = words(call);
            recv(&call.context(), &source, &key, Duration::from_millis(ms.parse()?))
        })
        .function("recv-large", |call: &mut Call<'_>| {
            let [source, key] = words(call);
            let message = call.context().recv(source.as_str(), &key, PATIENCE)?;
            let same = message.bytes().iter().all(|byte| *byte == message.bytes()[0]);
            FunctionResult::Ok(format!("{} of {} {same}", message.bytes().len(), message.bytes()[0]))
        })
        .function("recv-hold", |call: &mut Call<'_>| {
            let [source, key] = words(call);
            let context = call.context();
            let text = recv(&context, &source, &key, PATIENCE)?;
            println!("holding {text}.");
            std::thread::sleep(PATIENCE);
            FunctionResult::Ok(())
        })
        .function("recv-fail", |call: &mut Call<'_>| {
            let [source, key] = words(call);
            let text = recv(&call.context(), &source, &key, PATIENCE)?;
            FunctionResult::<()>::Err(FunctionError::new(1, text))
        })
        .function("all", |call: &mut Call<'_>| {
            let [source, key] = words(call);
            let (context, mut texts) = (call.context(), Vec::new());
            while let Some(message) = context.try_recv(sources(&source), &key)? {
                texts.push(text_of(&message));
            }
            FunctionResult::Ok(texts.join(" "))
        })
        .function("compute", |call: &mut Call<'_>| {
            let [ms] = words(call);
            let end = std::time::Instant::now() + Duration::from_millis(ms.parse()?);
            println!("computing.");
            while std::time::Instant::now() < end {
                std::hint::black_box(0);
            }
            FunctionResult::Ok(())
        })
        .function("pass", |call: &mut Call<'_>| {
            let [to, key, number] = words(call);
            let (context, letter) = (call.context(), letter(number.parse()?));
            match context.send(to.as_str(), &key, &letter) {
                // The other server was out of reach for long: what became of the message is settled before the next one.
                Err(SendError::Unknown { id, .. }) => {
                    context.send_again(id, to.as_str(), &key, &letter, PATIENCE / 2)?;
                }
                sent => drop(sent?),
            }
            FunctionResult::Ok(())
        })
        .function("note", |call: &mut Call<'_>| {
            let [source, key, ms] = words(call);
            note(&call.context(), &source, &key, Duration::from_millis(ms.parse()?))
        })
        .function("noted", |call: &mut Call<'_>| {
            let [source, key, number] = words(call);
            let bits = call.context().state_bytes(&bits_key(&source, &key, number.parse()?))?;
            FunctionResult::Ok(bits.map(|bits| bits.to_vec()).unwrap_or_default())
        })
}

fn words<const COUNT: usize>(call: &Call<'_>) -> [String; COUNT] {
    let text = std::str::from_utf8(call.input()).expect("the test sends text");
    let words: Vec<_> = text.splitn(COUNT, ' ').map(str::to_owned).collect();
    words.try_into().expect("the test sends as many words")
}

fn sources(source: &str) -> Sources<'_> {
    if source == "*" { Sources::Any } else { source.into() }
}

fn text_of(message: &praas_function::Message<'_>) -> String {
    let again = if message.is_redelivered() { "!" } else { "" };
    format!("{}:{}{again}", message.source(), String::from_utf8_lossy(message.bytes()))
}

fn recv(context: &Context<'_>, source: &str, key: &str, within: Duration) -> FunctionResult<String> {
    Ok(text_of(&context.recv(sources(source), key, within)?))
}

fn bits_key(source: &str, key: &str, number: u64) -> String {
    format!("bits/{source}/{key}/{}", number / NUMBERS_PER_OBJECT as u64)
}

/// The message of a number: most fit an entry of a lane, some lie in its arena.
fn letter(number: u64) -> Vec<u8> {
    let bytes = if number.is_multiple_of(7) { 5000 } else { 8 };
    number.to_le_bytes().into_iter().cycle().take(bytes).collect()
}

/// Receives one number and notes it; answers with it, or with nothing if none came.
fn note(context: &Context<'_>, source: &str, key: &str, within: Duration) -> FunctionResult<Vec<u8>> {
    let message = match context.recv(source, key, within) {
        Err(RecvError::DeadlineExceeded { .. }) => return Ok(Vec::new()),
        message => message?,
    };
    let number = message.bytes().first_chunk().map_or(0, |number| u64::from_le_bytes(*number));
    if message.bytes() != letter(number) {
        return Err(FunctionError::new(WRONG, format!("{number} came with other bytes than it was sent with")));
    }
    // Some calls take their time, so that some of those that are killed hold a message.
    std::thread::sleep(Duration::from_micros(number % 4 * 200));
    let last_key = format!("last/{source}/{key}");
    let last = context.state_bytes(&last_key)?.map(|last| u64::from_le_bytes((*last).try_into().unwrap_or_default()));
    let comes_again = last == Some(number) && message.is_redelivered();
    if last.is_some_and(|last| number <= last) && !comes_again {
        let again = message.is_redelivered();
        return Err(FunctionError::new(WRONG, format!("{number} came after {last:?}, redelivered: {again}")));
    }
    let bits_key = bits_key(source, key, number);
    let mut bits = context.state_bytes(&bits_key)?.map(|bits| bits.to_vec()).unwrap_or_default();
    bits.resize(NUMBERS_PER_OBJECT / 8, 0);
    let bit = usize::try_from(number % NUMBERS_PER_OBJECT as u64)?;
    bits[bit / 8] |= 1 << (bit % 8);
    context.put_bytes(&bits_key, &bits)?;
    context.put_bytes(&last_key, &number.to_le_bytes())?;
    Ok(number.to_le_bytes().to_vec())
}

/// Does with the control socket what no honest worker does; says what came of it.
fn misuse(socket: &MessageSocket, how: &str, to: &str, count: u32) -> String {
    let say = |message: &WorkerMessage| drop(socket.send_deadline(&encode(message).unwrap(), &[], PATIENCE));
    let to = to.parse().unwrap();
    let slot = MessageLaneSlot(u16::try_from(count).unwrap_or(u16::MAX));
    match how {
        "attached" => say(&WorkerMessage::InboundLaneAttached { slot, error: None }),
        "failed" => say(&WorkerMessage::InboundLaneAttached { slot, error: Some("no".into()) }),
        "detached" => say(&WorkerMessage::InboundLaneDetached { slot }),
        "nameless" => say(&WorkerMessage::MessageLaneOpen { request: 0, to, payload_bytes: 1 }),
        "close" => (0..u64::from(count)).for_each(|serial| say(&WorkerMessage::MessageLaneClose { serial })),
        "large" => return open(socket, 1, to, u32::MAX).err().map_or("opened".into(), |error| error.to_string()),
        // Many lanes to the same receiver, none of them closed, or each with a message in it.
        "open" | "orphan" => {
            let mut opened = 0;
            for request in 0..count {
                let lane = match open(socket, request + 1, to, 1 << 20) {
                    Ok(lane) => lane,
                    Err(error) => return format!("{opened} opened, then: {error}"),
                };
                opened += 1;
                if how == "orphan" {
                    let serial = lane.serial;
                    lane.send(u64::from(request));
                    say(&WorkerMessage::MessageLaneClose { serial });
                }
            }
            return format!("{opened} opened");
        }
        _ => return "unknown".into(),
    }
    // Whoever is to be killed for it is killed here.
    std::thread::sleep(Duration::from_millis(200));
    "done".into()
}

/// A message lane that was opened by hand.
#[derive(Debug)]
struct OpenedLane {
    serial: u64,
    outbound: Outbound,
}

impl OpenedLane {
    fn send(mut self, number: u64) {
        let id = MessageId { incarnation: 1, sequence: u64::MAX / 2 + number };
        self.outbound.try_send(id, Key::new("orphans").unwrap(), b"hello").unwrap();
    }
}

/// Opens a message lane by hand.
fn open(socket: &MessageSocket, request: u32, to: Address, payload_bytes: u32) -> Result<OpenedLane, ControlError> {
    let message = WorkerMessage::MessageLaneOpen { request, to, payload_bytes };
    let _ = socket.send_deadline(&encode(&message).unwrap(), &[], PATIENCE).unwrap();
    let mut buffer = vec![0; CONTROL_MESSAGE_BYTES_MAX];
    loop {
        let received = socket.recv_deadline(&mut buffer, 8, PATIENCE).unwrap().expect("an answer");
        match decode(&buffer[..received.bytes]).unwrap() {
            WorkerCommand::Refused { request: refused, error } if refused == request => return Err(error),
            WorkerCommand::MessageLaneOpened { request: opened, serial, geometry, .. } if opened == request => {
                let [lane, bell] = <[OwnedFd; 2]>::try_from(received.fds).unwrap();
                let outbound = Outbound::attach(lane, &geometry, MailBell::attach(bell).unwrap()).unwrap();
                return Ok(OpenedLane { serial, outbound });
            }
            _ => {}
        }
    }
}

/// An application of these functions.
pub(crate) fn mailing() -> Application {
    let mut application = application();
    application.limits.state_bytes_max = STATE_BYTES;
    application
}

/// The same, whose workers can misuse their control sockets.
pub(crate) fn misusing() -> Application {
    let mut application = application_with_copies();
    application.limits.state_bytes_max = STATE_BYTES;
    application
}

/// A call that ends by itself.
pub(crate) fn ask(process: &Process, function: &str, input: &str) -> Result<String, CallError> {
    let reply = process.call(function).payload(input.as_bytes()).deadline(PATIENCE).send()?;
    Ok(String::from_utf8_lossy(reply.as_slice()).into_owned())
}

/// Processes of the test, created and opened.
pub(crate) fn processes<const COUNT: usize>(client: &Client, names: [&str; COUNT]) -> [Process; COUNT] {
    names.map(|name| {
        client.create(process(name)).unwrap();
        client.process(process(name)).unwrap()
    })
}

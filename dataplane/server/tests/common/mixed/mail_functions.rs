//! The functions of the load that send and receive.

use std::time::Duration;

use praas_function::{
    Address, Call, Context, FunctionError, FunctionResult, Message, MessageId, RecvError, SendError, Sources,
    StateError,
};

use super::functions::{GIVEN_BACK, LET_GO, NUMBERS_PER_OBJECT, UNSURE, letter, number_of, refused, words, wrong};
use crate::common::PATIENCE;

/// What "announce" says of a destination that has the message, of one that has not, and of one of which nobody can say.
pub(super) const TAKEN: u8 = 1;
const NOT_TAKEN: u8 = 0;
pub(super) const UNKNOWN: u8 = 2;

/// Key of messages that nobody accounts for.
const JUNK_KEY: &str = "junk";

fn sent(ended: Result<MessageId, SendError>) -> FunctionResult {
    match ended {
        Ok(_) => Ok(()),
        Err(error) if is_unknown(&error) => Err(FunctionError::new(UNSURE, error.to_string())),
        Err(error) => Err(refused(error)),
    }
}

/// Whether the receiver may have the message all the same: it is on another server, and the way there broke.
fn is_unknown(error: &SendError) -> bool {
    matches!(error, SendError::Unknown { .. })
}

/// "TO KEY NUMBER", in one of several ways.
pub(super) fn pass(call: &Call<'_>) -> FunctionResult {
    let [to, key, number] = words(call);
    let (context, number) = (call.context(), number.parse::<u64>()?);
    let bytes = letter(number);
    match number % 3 {
        0 => sent(context.send(to.as_str(), &key, &bytes)),
        1 => sent(context.send_within(to.as_str(), &key, &bytes, PATIENCE / 3)),
        _ => {
            let mut loan = context.loan_message(to.as_str(), bytes.len()).map_err(refused)?;
            loan.copy_from_slice(&bytes);
            sent(loan.send(&key))
        }
    }
}

/// "TO KEY FROM COUNT": one after the other; how many were sent, whether the next one may have been, and why it ended.
pub(super) fn pass_many(call: &Call<'_>) -> FunctionResult<String> {
    let [to, key, from, count] = words(call);
    let (from, count): (u64, u64) = (from.parse()?, count.parse()?);
    for number in from..from + count {
        if let Err(error) = call.context().send(to.as_str(), &key, &letter(number)) {
            return Ok(format!("{} {} {error}", number - from, u8::from(is_unknown(&error))));
        }
    }
    Ok(format!("{count} 0 -"))
}

/// "KEY NUMBER TO…": for each destination whether it has the message, a byte each.
pub(super) fn announce(call: &Call<'_>) -> FunctionResult<Vec<u8>> {
    let [key, number, to] = words(call);
    let to: Vec<&str> = to.split(' ').collect();
    let results = call.context().broadcast(&to, &key, &letter(number.parse()?));
    let told = |result: &Result<MessageId, SendError>| match result {
        Ok(_) => TAKEN,
        Err(error) if is_unknown(error) => UNKNOWN,
        Err(_) => NOT_TAKEN,
    };
    Ok(results.iter().map(told).collect())
}

pub(super) fn bits_key(source: &str, number: u64) -> String {
    format!("mail/bits/{source}/{}", number / NUMBERS_PER_OBJECT as u64)
}

/// Receives and notes what it receives in the state before it lets it go. "HOW KEY MS SOURCE…".
pub(super) fn note(call: &Call<'_>) -> FunctionResult<String> {
    let [how, key, ms, sources] = words(call);
    let (context, within) = (call.context(), Duration::from_millis(ms.parse()?));
    let named: Vec<Address> = match sources.as_str() {
        "*" => Vec::new(),
        names => names.split(' ').map(str::parse).collect::<Result<_, _>>()?,
    };
    let sources = match &named[..] {
        [] => Sources::Any,
        [one] => one.into(),
        several => several.into(),
    };
    let receive = |sources, within| match context.recv(sources, &key, within) {
        Ok(message) => Ok(Some(message)),
        Err(RecvError::DeadlineExceeded { .. }) => Ok(None),
        // It drains, the lock was held for too long, or the server has just been killed.
        Err(error @ (RecvError::Interrupted { .. } | RecvError::Mailbox(_) | RecvError::Unavailable { .. })) => {
            Err(FunctionError::new(GIVEN_BACK, error.to_string()))
        }
        Err(error) => Err(wrong(error.to_string())),
    };
    let Some(first) = receive(sources, within)? else { return Ok(String::new()) };
    let number = number_in(&first)?;
    if how == "fail" {
        return Err(FunctionError::new(GIVEN_BACK, format!("{number} as asked")));
    }
    let (from, source) = (first.source(), first.source().to_string());
    note_one(&context, &first, number, true)?;
    let words = format!("{source} {number}");
    match how.as_str() {
        "end" => Ok(words),
        "accept" => {
            let_go(&context, first, number)?;
            Ok(words)
        }
        "accept-and-fail" => {
            let_go(&context, first, number)?;
            Err(FunctionError::new(LET_GO, words))
        }
        // Two of one source at a time, or one if there is no more.
        "two" | "accept-one-and-fail" => {
            let second = receive((&from).into(), Duration::ZERO)?;
            let after = match &second {
                Some(second) => {
                    let after = number_in(second)?;
                    note_one(&context, second, after, false)?;
                    Some(after)
                }
                None => None,
            };
            if how == "two" {
                return Ok(after.map_or(words.clone(), |after| format!("{words} {after}")));
            }
            let_go(&context, first, number)?;
            Err(FunctionError::new(LET_GO, words))
        }
        _ => Err(wrong(format!("no way {how}"))),
    }
}

fn number_in(message: &Message<'_>) -> FunctionResult<u64> {
    let length = message.bytes().len();
    number_of(message.bytes()).ok_or_else(|| wrong(format!("a message from {} of {length} bytes", message.source())))
}

fn numbers<const COUNT: usize>(context: &Context<'_>, key: &str) -> FunctionResult<Option<[u64; COUNT]>> {
    let Some(bytes) = context.state_bytes(key).map_err(given_back)? else { return Ok(None) };
    let numbers = bytes.chunks_exact(8).map(|bytes| u64::from_le_bytes(bytes.try_into().expect("eight bytes")));
    let numbers: Vec<u64> = numbers.collect();
    Ok(Some(numbers.try_into().map_err(|_| wrong(format!("{key} has other numbers")))?))
}

fn given_back(error: impl std::fmt::Display) -> FunctionError {
    FunctionError::new(GIVEN_BACK, error.to_string())
}

/// Notes a message that the call holds. What one call noted last, from its first to its last number, may come again if it says so;
/// everything else comes once, in order, and nothing comes after it was accepted.
fn note_one(context: &Context<'_>, message: &Message<'_>, number: u64, is_first: bool) -> FunctionResult {
    let (source, again, sequence) = (message.source(), message.is_redelivered(), message.id().sequence);
    let noted = bits(context, &source.to_string(), number).map_err(given_back)?;
    let (byte, bit) = (usize::try_from(number % NUMBERS_PER_OBJECT as u64)? / 8, 1 << (number % 8));
    let last_key = format!("mail/last/{source}");
    let last = numbers::<3>(context, &last_key)?;
    // Everything that it takes to see what went wrong.
    let words = |what: &str| {
        let (when, is_noted) = (if again { "again" } else { "first" }, noted[byte] & bit != 0);
        wrong(format!(
            "{number} of {source} (message {sequence}, {when}, noted before: {is_noted}) came to worker {} {what}; \
             [first, last, last message] of the last call: {last:?}",
            context.worker_index()
        ))
    };
    let accepted = numbers::<1>(context, &format!("mail/accepted/{source}"))?;
    if accepted.is_some_and(|[accepted]| number <= accepted) {
        return Err(words(&format!("after {accepted:?} was accepted")));
    }
    let [low, high, high_sequence] = match last {
        Some([low, high, high_sequence]) if number <= high => {
            if !again || number < low {
                return Err(words("out of its order"));
            }
            [if is_first { number } else { low }, high, high_sequence]
        }
        Some([low, ..]) if !is_first => [low, number, sequence],
        _ => [number, number, sequence],
    };
    if number == high && sequence != high_sequence {
        return Err(words("in two messages"));
    }
    let mut noted = noted.clone();
    noted[byte] |= bit;
    let last = [low, high, high_sequence].map(u64::to_le_bytes).concat();
    context.put_bytes(&last_key, &last).map_err(given_back)?;
    context.put_bytes(&bits_key(&source.to_string(), number), &noted).map_err(given_back)?;
    Ok(())
}

/// The bits of a number and its neighbours.
fn bits(context: &Context<'_>, source: &str, number: u64) -> Result<Vec<u8>, StateError> {
    let bits = context.state_bytes(&bits_key(source, number))?;
    let mut bits = bits.map(|bits| bits.to_vec()).unwrap_or_default();
    bits.resize(NUMBERS_PER_OBJECT / 8, 0);
    Ok(bits)
}

/// Accepts a message, and notes that it was.
fn let_go(context: &Context<'_>, message: Message<'_>, number: u64) -> FunctionResult {
    let source = message.source();
    message.accept().map_err(given_back)?;
    let put = context.put_bytes(&format!("mail/accepted/{source}"), &number.to_le_bytes());
    put.map(drop).map_err(|error| FunctionError::new(LET_GO, format!("{source} {number} {error}")))
}

/// "TO KEY FROM COUNT MS": sends numbers of 8 bytes, waiting for room for so long each; how many were taken, and why the next
/// was not.
pub(super) fn send_numbers(call: &Call<'_>) -> FunctionResult<String> {
    let [to, key, from, count, ms] = words(call);
    let (from, count, within) = (from.parse::<u64>()?, count.parse::<u64>()?, Duration::from_millis(ms.parse()?));
    for number in from..from + count {
        let bytes = number.to_le_bytes();
        let sent = match within {
            Duration::ZERO => call.context().send(to.as_str(), &key, &bytes),
            within => call.context().send_within(to.as_str(), &key, &bytes, within),
        };
        if let Err(error) = sent {
            return Ok(format!("{} {error}", number - from));
        }
    }
    Ok(format!("{count} -"))
}

/// "WORKER TO NUMBER BYTES": sends a number, if it is this worker that was meant.
pub(super) fn send_by(call: &Call<'_>) -> FunctionResult<&'static str> {
    let [worker, to, number, bytes] = words(call);
    if call.context().worker_index() != worker.parse::<u8>()? {
        return Ok("not me");
    }
    let number = number.parse::<u64>()?.to_le_bytes();
    let bytes: Vec<u8> = number.into_iter().cycle().take(bytes.parse()?).collect();
    call.context().send(to.as_str(), "numbers", &bytes).map_err(refused)?;
    Ok("sent")
}

/// "SOURCE": waits until there is an object called "gate", without a look at what the server says, and takes three numbers.
pub(super) fn take_at_gate(call: &Call<'_>) -> FunctionResult<String> {
    let ([source], context) = (words(call), call.context());
    let end = std::time::Instant::now() + PATIENCE;
    while context.state_bytes("gate").map_err(refused)?.is_none() && std::time::Instant::now() < end {
        std::thread::sleep(Duration::from_micros(200));
    }
    let mut numbers = Vec::new();
    for _ in 0..3 {
        let message = context.recv(source.as_str(), "numbers", PATIENCE / 3).map_err(refused)?;
        numbers.push(u64::from_le_bytes(*message.bytes().first_chunk().unwrap_or(&[0; 8])).to_string());
    }
    Ok(numbers.join(" "))
}

/// "SOURCE KEY COUNT": takes at most so many numbers of 8 bytes; all of them, or why there is none.
pub(super) fn take_numbers(call: &Call<'_>) -> FunctionResult<Vec<u8>> {
    let [source, key, count] = words(call);
    let mut numbers = Vec::new();
    for _ in 0..count.parse::<u64>()? {
        let Some(message) = call.context().try_recv(source.as_str(), &key).map_err(refused)? else { break };
        numbers.extend_from_slice(message.bytes());
        message.accept().map_err(refused)?;
    }
    Ok(numbers)
}

/// "COUNT TO…": sends messages that nobody accounts for; how many were taken.
pub(super) fn send_junk(call: &Call<'_>) -> FunctionResult<String> {
    let [count, to] = words(call);
    let mut taken = 0;
    for number in 0..count.parse()? {
        let ends = to.split(' ').map(|to| call.context().send(to, JUNK_KEY, &letter(number)));
        taken += ends.filter(Result::is_ok).count();
    }
    Ok(taken.to_string())
}

/// Receives such messages, whatever they are, until there is none or they cannot be received; how many there were.
pub(super) fn read_junk(call: &Call<'_>) -> FunctionResult<String> {
    let mut count = 0;
    while count < 1000 {
        match call.context().try_recv(Sources::Any, JUNK_KEY) {
            Ok(Some(message)) => drop(message.accept()),
            Ok(None) => return Ok(count.to_string()),
            Err(error) => return Ok(format!("{count} {error}")),
        }
        count += 1;
    }
    Ok(count.to_string())
}

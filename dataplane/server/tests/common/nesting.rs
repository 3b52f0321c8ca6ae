//! Functions that call functions, for the tests of nested calls. What a call ended as is told in words, so that a test sees the
//! end that its function saw.

use std::time::{Duration, Instant};

use praas_function::{Application, Call, CallError, Callee, Context, FunctionResult, InvokeOptions, Output, SELF};
use praas_protocol::ProcessId;

/// What stands before a call's error.
pub(crate) const FAILED: &str = "failed: ";

/// Serves as a worker.
pub(crate) fn serve() {
    functions(Application::new()).run()
}

/// Adds these functions.
pub(crate) fn functions(application: Application) -> Application {
    application
        .function("echo", |call: &mut Call<'_>| call.reply(call.input()))
        .function("sleep", |call: &mut Call<'_>| std::thread::sleep(milliseconds(text(call.input()))))
        .function("hold", |call: &mut Call<'_>| super::functions::hold(call.input()))
        .function("grow", |call: &mut Call<'_>| vec![7; text(call.input()).parse().expect("a number")])
        .function("panic", |_: &mut Call<'_>| -> Vec<u8> { panic!("as asked") })
        .function("caller", |call: &mut Call<'_>| {
            let context = call.context();
            format!("{} {}", context.principal(), context.is_caller_trusted())
        })
        .function("left", |call: &mut Call<'_>| {
            call.context().time_remaining().map_or(String::new(), |left| left.as_millis().to_string())
        })
        .function("root", |call: &mut Call<'_>| format!("{:?}", call.context().root_id()))
        .function("roots", roots)
        .function("until-unwanted", until_unwanted)
        .function("relay", |call: &mut Call<'_>| relay(&call.context(), text(call.input())))
        .function("relay-later", |call: &mut Call<'_>| {
            let (time, rest) = text(call.input()).split_once(' ').expect("a time and hops");
            std::thread::sleep(milliseconds(time));
            relay(&call.context(), rest)
        })
        .function("descend", |call: &mut Call<'_>| descend(&call.context(), text(call.input())))
        .function("ask", |call: &mut Call<'_>| ask(&call.context(), text(call.input())))
        .function("insist", |call: &mut Call<'_>| insist(&call.context(), text(call.input())))
        .function("gather", |call: &mut Call<'_>| gather(&call.context(), text(call.input())))
        .function("later", |call: &mut Call<'_>| later(&call.context(), text(call.input())))
        .function("forsake", |call: &mut Call<'_>| forsake(&call.context(), text(call.input())))
        .function("sum-there", |call: &mut Call<'_>| sum_there(&call.context(), text(call.input())))
        .typed("sum", |_: &Context<'_>, numbers: &rkyv::Archived<Vec<u64>>| -> FunctionResult<u64> {
            Ok(numbers.iter().map(|number| number.to_native()).sum())
        })
}

fn text(input: &[u8]) -> &str {
    std::str::from_utf8(input).expect("the test sends text")
}

fn milliseconds(text: &str) -> Duration {
    Duration::from_millis(text.parse().expect("the test sends a number"))
}

fn told(end: Result<Output, CallError>) -> String {
    match end {
        Ok(output) => String::from_utf8_lossy(&output).into_owned(),
        Err(error) => format!("{FAILED}{error:?}"),
    }
}

/// `@` is the process itself, `application/process` an id, anything else a name.
fn callee(word: &str) -> Callee<'_> {
    match word.parse::<ProcessId>() {
        _ if word == "@" => SELF.into(),
        Ok(id) => id.into(),
        Err(_) => word.into(),
    }
}

/// For "bob,@,alice|words": has bob relay the rest, and adds its own name.
fn relay(context: &Context<'_>, input: &str) -> String {
    let (hops, words) = input.split_once('|').expect("hops and words");
    if hops.is_empty() {
        return format!("{} {words}", context.process().process);
    }
    let (hop, rest) = hops.split_once(',').unwrap_or((hops, ""));
    let answer = told(context.invoke(callee(hop), "relay", format!("{rest}|{words}").as_bytes()));
    format!("{} {answer}", context.process().process)
}

/// Calls itself so many times, one inside the other; the depth that was reached, or the error of the deepest call.
fn descend(context: &Context<'_>, depth: &str) -> String {
    match depth.parse::<u32>().expect("a depth") {
        0 => "0".into(),
        depth => {
            let answer = told(context.invoke(SELF, "descend", (depth - 1).to_string().as_bytes()));
            answer.parse::<u32>().map_or(answer, |depth| (depth + 1).to_string())
        }
    }
}

/// "TARGET FUNCTION DEADLINE_MS PAYLOAD"; a deadline of 0 is none.
fn ask(context: &Context<'_>, input: &str) -> String {
    let [target, function, deadline, payload] = words(input);
    let options = match milliseconds(deadline) {
        Duration::ZERO => InvokeOptions::new(),
        deadline => InvokeOptions::new().deadline(deadline),
    };
    told(context.invoke_with(callee(target), function, payload.as_bytes(), &options))
}

/// "TARGET FUNCTION FOR_MS PAYLOAD": calls again and again; how many ended well, and every other end.
fn insist(context: &Context<'_>, input: &str) -> String {
    let [target, function, time, payload] = words(input);
    let end = Instant::now() + milliseconds(time);
    let (mut good, mut others) = (0, Vec::new());
    while Instant::now() < end && others.len() < 100 {
        match told(context.invoke(callee(target), function, payload.as_bytes())) {
            failed if failed.starts_with(FAILED) => others.push(failed),
            _ => good += 1,
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    format!("{good}\n{}", others.join("\n"))
}

/// "FUNCTION PAYLOAD TARGET…": an end a line.
fn gather(context: &Context<'_>, input: &str) -> String {
    let mut words = input.split(' ');
    let (function, payload) = (words.next().expect("a function"), words.next().expect("a payload"));
    let ends = context.gather(words.map(callee), function, payload.as_bytes());
    ends.into_iter().map(told).collect::<Vec<_>>().join("\n")
}

/// Starts a call of each, in the order given, and waits for them from the last to the first.
fn later(context: &Context<'_>, targets: &str) -> String {
    let mut pending = Vec::new();
    for (number, target) in targets.split(' ').enumerate() {
        match context.start(callee(target), "echo", number.to_string().as_bytes()) {
            Ok(call) => pending.push(call),
            Err(error) => return format!("{FAILED}{error:?}"),
        }
    }
    let mut answers = Vec::new();
    while let Some(mut call) = pending.pop() {
        // Every other one by looking now and then.
        answers.push(told(if pending.len() % 2 == 0 {
            call.wait()
        } else {
            loop {
                match call.try_wait() {
                    Some(end) => break end,
                    None => std::thread::yield_now(),
                }
            }
        }));
    }
    answers.join(" ")
}

/// Starts a call of "TARGET FUNCTION PAYLOAD" and gives it up at once.
fn forsake(context: &Context<'_>, input: &str) -> String {
    let mut words = input.splitn(3, ' ');
    let mut next = || words.next().expect("three words");
    let (target, function, payload) = (next(), next(), next());
    match context.start(callee(target), function, payload.as_bytes()) {
        Ok(call) => {
            // Time to be claimed.
            std::thread::sleep(Duration::from_millis(50));
            drop(call);
            "forsaken".into()
        }
        Err(error) => format!("{FAILED}{error:?}"),
    }
}

/// Calls a typed function of another process.
fn sum_there(context: &Context<'_>, target: &str) -> FunctionResult<String> {
    let numbers: Vec<u64> = (1..=1000).collect();
    let sum = context.invoke_typed::<_, u64>(callee(target), "sum", &numbers)?;
    Ok(format!("{} {}", sum.get()?.to_native(), sum.to_value()?))
}

/// The root id before a nested call, that of the nested call, and its own one after it.
fn roots(call: &mut Call<'_>) -> FunctionResult<String> {
    let context = call.context();
    let before = context.root_id();
    let nested = context.invoke(SELF, "root", b"")?;
    Ok(format!("{before:?}\n{}\n{:?}", text(&nested), context.root_id()))
}

fn until_unwanted(call: &mut Call<'_>) -> FunctionResult {
    let end = Instant::now() + Duration::from_secs(60);
    while Instant::now() < end {
        call.context().ensure_wanted()?;
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn words<const N: usize>(input: &str) -> [&str; N] {
    let words: Vec<&str> = input.splitn(N, ' ').collect();
    words.try_into().expect("the test sends as many words")
}

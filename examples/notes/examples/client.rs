//! A client: creates the process `notes/alice` unless it exists, writes notes, puts the process to sleep, and reads them again,
//! which wakes it.
//!
//! Start a server first: `praas serve examples/notes/praas.toml`. While this runs, `praas process watch` shows what happens.
#![forbid(unsafe_code)]

use std::time::Instant;

use notes::Page;
use praas_client::{Client, ControlError, RequestError};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::connect_default()?;
    let alice = "notes/alice".parse()?;
    match client.create(alice) {
        Err(RequestError::Refused(ControlError::ProcessExists { .. })) => {}
        created => created?,
    }
    let process = client.process(alice)?;
    for (title, text) in [("shopping", "bread and butter"), ("garden", "water the beans on Tuesday")] {
        let page = Page { title: title.to_owned(), text: text.to_owned() };
        let revision = process.invoke_typed::<_, u64>("write", &page)?.to_value()?;
        println!("{title}: revision {revision}");
    }

    // It would fall asleep by itself after half a minute; here nobody wants to wait for that.
    let start = Instant::now();
    client.swap(alice)?;
    let asleep = client.list()?.into_iter().find(|status| status.process == alice);
    let (state, stored) = asleep.map_or(("gone".to_owned(), 0), |found| (found.state.to_string(), found.stored_bytes));
    println!("{alice} is {state} after {:?}: {stored} bytes stored, no worker, no memory", start.elapsed());

    // Nothing has to be said to wake it: whatever needs it does.
    let start = Instant::now();
    let found = process.invoke("find", "beans")?;
    println!("beans are in: {} ({:?})", String::from_utf8(found.into_vec())?, start.elapsed());
    Ok(())
}

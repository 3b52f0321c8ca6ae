//! A client: creates the process `counter/shop` unless it exists, counts, restarts the process, counts on, and looks at the
//! counters from outside.
//!
//! Start a server first: `praas serve examples/counter/praas.toml`.
#![forbid(unsafe_code)]

use counter::{Addition, Counter};
use praas_client::{Client, ControlError, RequestError};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::connect_default()?;
    let shop = "counter/shop".parse()?;
    match client.create(shop) {
        Err(RequestError::Refused(ControlError::ProcessExists { .. })) => {}
        created => created?,
    }
    let process = client.process(shop)?;
    println!("visitors: {}", String::from_utf8(process.invoke("count", "visitors")?.into_vec())?);
    let bread = Addition { key: "loaves of bread".to_owned(), amount: 12 };
    println!("loaves of bread: {}", process.invoke_typed::<_, u64>("add", &bread)?.to_value()?);

    // Every worker is replaced; what they counted is not theirs.
    client.restart(shop)?;
    println!("visitors: {}", String::from_utf8(process.invoke("count", "visitors")?.into_vec())?);

    // The same objects from outside, past the functions: this needs the right `state`, which the server's own user has.
    for object in process.state().list("")? {
        let key = object?.key;
        let Some(counter) = process.state().get_as::<Counter>(&key)? else { continue };
        let Counter { count, changes, .. } = counter.to_value()?;
        println!("{key}: {count} (changes: {changes}, version: {})", counter.version());
    }
    Ok(())
}

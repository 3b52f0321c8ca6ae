//! A client: creates the process `hello/world` unless it exists, and calls its functions.
//!
//! Start a server first: `praas serve examples/hello/praas.toml`.
#![forbid(unsafe_code)]

use praas_client::{Client, ControlError, RequestError};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::connect_default()?;
    let world = "hello/world".parse()?;
    match client.create(world) {
        Err(RequestError::Refused(ControlError::ProcessExists { .. })) => {}
        created => created?,
    }
    let process = client.process(world)?;
    println!("{}", String::from_utf8(process.invoke("greet", "world")?.into_vec())?);
    let mean: f64 = process.invoke_typed("mean", &vec![1.0_f64, 2.0, 6.0])?.to_value()?;
    println!("the mean of 1, 2 and 6 is {mean}");
    Ok(())
}

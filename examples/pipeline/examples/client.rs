//! A client: creates the processes of a pipeline unless they exist, sets all parts to work, and prints what they counted.
//!
//! Start a server first: `praas serve examples/pipeline/praas.toml`.
#![forbid(unsafe_code)]

use std::thread;

use pipeline::{COLLECTOR, Job, SOURCE};
use praas_client::{Client, ControlError, Process, RequestError};

const TEXT: &str = "\
They were given the choice of becoming kings or the kings' messengers.
As is the way with children, they all wanted to be messengers.
That is why there are only messengers, racing through the world.";

/// The process of this name, which is created unless it exists.
fn part(client: &Client, name: &str) -> Result<Process, Box<dyn std::error::Error>> {
    let process = format!("pipeline/{name}").parse()?;
    match client.create(process) {
        Err(RequestError::Refused(ControlError::ProcessExists { .. })) => {}
        created => created?,
    }
    Ok(client.process(process)?)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::connect_default()?;
    let names = vec!["stage-1".to_owned(), "stage-2".to_owned()];
    let (source, collector) = (part(&client, SOURCE)?, part(&client, COLLECTOR)?);
    let stages = names.iter().map(|name| part(&client, name)).collect::<Result<Vec<_>, _>>()?;
    let job = Job { stages: names.clone(), text: TEXT.to_owned() };

    let words = thread::scope(|scope| {
        let collecting = scope.spawn(|| collector.invoke_typed::<_, Vec<u32>>("collect", &names)?.to_value());
        for stage in &stages {
            scope.spawn(|| stage.invoke_typed::<_, ()>("work", &()).map(drop));
        }
        source.invoke_typed::<_, u32>("feed", &job)?;
        collecting.join().expect("the thread only calls")
    })?;
    for (line, words) in TEXT.lines().zip(words) {
        println!("{words:3} words: {line}");
    }
    Ok(())
}

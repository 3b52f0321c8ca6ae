//! `praas message send`.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use praas_client::ProcessId;
use serde_json::json;

use super::session::Party;
use super::{PartyArguments, TIMEOUT_DEFAULT, id_text, show_and_accept};
use crate::command::Context;
use crate::command::invoke::read_at_most;
use crate::duration;
use crate::failure::Failure;

const EXAMPLES: &str = "\
Examples:
  praas message send pipeline/splitter text 'a few words'
  praas message send pipeline/splitter text --file book.txt
  date | praas message send pipeline/splitter text -
  praas message send pipeline/splitter text 'a few words' --within 10s   wait for room in its mailbox
  praas message send pipeline/splitter text 'a few words' --answer counts --timeout 5s

When the command has ended, the message is in the mailbox of the process.";

/// Arguments of `praas message send`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct SendArguments {
    /// The process, such as pipeline/splitter
    #[arg(value_name = "APPLICATION/PROCESS")]
    pub process: ProcessId,
    /// The message's key: 1 to 255 bytes of text without control characters
    pub key: String,
    /// Its bytes; - reads standard input, and -- goes before text that starts with a dash
    #[arg(value_name = "DATA", allow_negative_numbers = true)]
    pub content: Option<String>,
    /// Send this file's bytes
    #[arg(long, short, value_name = "FILE", conflicts_with = "content")]
    pub file: Option<PathBuf>,
    /// Wait so long for room when the mailbox is full, such as 10s; otherwise it is refused
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub within: Option<Duration>,
    /// Then wait for a message with this key to this command, from whoever, and write it to standard output
    #[arg(long, value_name = "KEY")]
    pub answer: Option<String>,
    /// Wait no longer than this for the answer, such as 5s; 30s unless given
    #[arg(long, value_name = "TIME", value_parser = duration::parse, requires = "answer")]
    pub timeout: Option<Duration>,
    /// As whom it is sent
    #[command(flatten)]
    pub party: PartyArguments,
}

/// Sends a message, and waits for an answer if one is wanted.
///
/// # Errors
/// [`Failure::Send`] when it was not sent, [`Failure::Receive`] when no answer came.
pub fn send(context: &Context, arguments: &SendArguments) -> Result<(), Failure> {
    let party = Party::begin(context, arguments.process.application, &arguments.party)?;
    let data = read_data(arguments, u64::from(party.payload_bytes_max()))?;
    let (to, key) = (arguments.process, arguments.key.as_str());
    let id = match arguments.within {
        Some(within) => party.send_within(to, key, &data, within)?,
        None => party.send(to, key, &data)?,
    };
    let output = context.output();
    output.value(&json!({
        "process": to.to_string(),
        "key": key,
        "bytes": data.len(),
        "source": party.address().to_string(),
        "id": id_text(id),
    }))?;
    let Some(answer) = &arguments.answer else {
        return output.line(format_args!("{to} has the message {key:?} ({} bytes)", data.len()));
    };
    let timeout = arguments.timeout.unwrap_or(TIMEOUT_DEFAULT);
    show_and_accept(output, party.recv(praas_client::Sources::Any, answer, timeout)?)
}

fn read_data(arguments: &SendArguments, limit_bytes: u64) -> Result<Vec<u8>, Failure> {
    match (&arguments.file, arguments.content.as_deref()) {
        (Some(path), _) => {
            let file = File::open(path).map_err(Failure::file("opening", path))?;
            read_at_most(file, path, limit_bytes)
        }
        (None, Some("-")) => read_at_most(io::stdin().lock(), Path::new("standard input"), limit_bytes),
        (None, Some(text)) => Ok(text.as_bytes().to_vec()),
        (None, None) => Ok(Vec::new()),
    }
}

//! `praas message …`: messages to processes, and theirs to the command line, which is a client session for that.

pub mod recv;
pub mod send;
mod session;

use std::time::Duration;

use clap::{Args, Subcommand};
use praas_client::{Message, MessageId};
use serde_json::{Value, json};

use crate::command::Context;
use crate::command::calling::CallingArguments;
use crate::failure::Failure;
use crate::output::{JsonBytes, Output};

use recv::RecvArguments;
use send::SendArguments;

/// What its help begins with.
pub(crate) const LONG_ABOUT: &str = "\
Sends messages to processes, and receives messages that they send back. Each process of an application has a mailbox; a message \
has a source, a key and bytes, and stays there until a function takes it. The command is a client session for this: an address \
that processes can send to, with a mailbox of its own at the server.

With --session FILE the session is kept for the commands that follow: its ticket is written to the file (mode 0600), and the \
server keeps its mailbox for a minute after the last command that used it, unless the server was started with another --session-linger. Without it a \
session is begun and ended by each command.

On the server's own host its user may do so. Others need a token with the right messages: \
praas token create --application hello --rights messages --expires 12h";

const EXAMPLES: &str = "\
Examples:
  praas message send pipeline/splitter text 'a few words'
  praas message send pipeline/splitter text 'a few words' --answer counts   and print the answer
  praas message send pipeline/splitter text 'a few words' --session mine    and receive it later:
  praas message recv pipeline counts --session mine

Exit code 5 when no message came in time.";

/// The commands below `praas message`.
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub enum MessageCommand {
    /// Send a message to a process
    Send(SendArguments),
    /// Receive a message: its bytes go to standard output, then it is removed from the mailbox
    Recv(RecvArguments),
}

/// How the server is reached, and as whom.
#[derive(Debug, Args)]
pub struct PartyArguments {
    /// Keep the session for further commands: the file that holds its ticket, made if there is none
    #[arg(long, value_name = "FILE")]
    pub session: Option<std::path::PathBuf>,
    /// How the server is reached
    #[command(flatten)]
    pub calling: CallingArguments,
}

/// Time that is waited for a message unless the command line says otherwise, as for the answer of a call.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

/// Carries out a command below `praas message`.
///
/// # Errors
/// [`Failure`]: why a message was not sent or received.
pub fn message(context: &Context, command: &MessageCommand) -> Result<(), Failure> {
    match command {
        MessageCommand::Send(arguments) => send::send(context, arguments),
        MessageCommand::Recv(arguments) => recv::recv(context, arguments),
    }
}

/// Shows a message, and only then has it removed: one that could not be shown comes again.
fn show_and_accept(output: Output, message: Message) -> Result<(), Failure> {
    if output.is_json() {
        output.value(&as_json(&message))?;
    } else {
        output.bytes(&message, true)?;
    }
    Ok(message.accept()?)
}

fn as_json(message: &Message) -> Value {
    json!({
        "source": message.source().to_string(),
        "key": message.key(),
        "id": id_text(message.id()),
        "is_redelivered": message.is_redelivered(),
        "bytes": message.len(),
        "data": JsonBytes::from(message.bytes()),
    })
}

/// An id for people and programs: two numbers of 64 bits, more than a number of JSON holds everywhere.
fn id_text(id: MessageId) -> String {
    format!("{}/{}", id.incarnation, id.sequence)
}

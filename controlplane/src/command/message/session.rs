//! The session as which a command exchanges messages: its own, or one that is kept in a file between commands.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::ops::Deref;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use praas_client::{Client, Name, Session, SessionTicket};

use super::PartyArguments;
use crate::command::Context;
use crate::failure::Failure;
use crate::limits::TICKET_FILE_BYTES_MAX;

/// A session in use by one command. One of the command's own is ended with it.
pub(super) struct Party {
    session: Session,
    /// Where its ticket is kept.
    kept: Option<PathBuf>,
}

impl Party {
    /// The session that the arguments name, or a new one.
    ///
    /// # Errors
    /// [`Failure`] when it has lapsed, belongs to another application, or the server gives none.
    pub(super) fn begin(context: &Context, application: Name, arguments: &PartyArguments) -> Result<Self, Failure> {
        let client = context.client_with(arguments.calling.options())?;
        let session = match &arguments.session {
            None => client.session(application)?,
            Some(path) => match read_ticket(path)? {
                Some(ticket) => resume(&client, application, &ticket, path)?,
                None => begin_kept(&client, application, path)?,
            },
        };
        Ok(Self { session, kept: arguments.session.clone() })
    }
}

impl Deref for Party {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}

impl Drop for Party {
    fn drop(&mut self) {
        if self.kept.is_none() {
            // One that cannot be ended lapses by itself.
            let _ = self.session.end();
        }
    }
}

fn resume(client: &Client, application: Name, ticket: &SessionTicket, path: &Path) -> Result<Session, Failure> {
    if ticket.application() != application {
        return Err(Failure::Usage {
            message: format!(
                "the session in {} exchanges messages with processes of {}, not of {application}: name another file",
                path.display(),
                ticket.application()
            ),
        });
    }
    client.resume_session(ticket).map_err(|error| match Failure::from(error) {
        Failure::Session(error) => Failure::KeptSession { path: path.to_owned(), error },
        other => other,
    })
}

/// Begins a session whose ticket is kept. The file is made first: without it nobody would find the session again.
fn begin_kept(client: &Client, application: Name, path: &Path) -> Result<Session, Failure> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(Failure::file("making", path))?;
    let kept = client.session(application).map_err(Failure::from).and_then(|session| {
        writeln!(file, "{}", session.ticket()).map_err(Failure::file("writing", path))?;
        Ok(session)
    });
    if kept.is_err() {
        // An empty file would be taken for a broken one.
        let _ = std::fs::remove_file(path);
    }
    kept
}

/// The ticket in a file; `None` when there is no file.
fn read_ticket(path: &Path) -> Result<Option<SessionTicket>, Failure> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::file("opening", path)(error)),
    };
    let mut text = String::new();
    file.take(TICKET_FILE_BYTES_MAX).read_to_string(&mut text).map_err(Failure::file("reading", path))?;
    let wrong = |error| Failure::Usage { message: format!("{}: {error}", path.display()) };
    text.parse().map(Some).map_err(wrong)
}

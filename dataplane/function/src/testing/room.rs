//! The mailbox of a session, as the gateway of a harness fills it.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use praas_protocol::message::{PutHead, codes};
use praas_shm::WorkerTag;
use praas_shm::mail_bell::MailBell;
use praas_shm::mailbox::{MailError, Mailbox, NewMessage};
use praas_shm::objects::Objects;

use super::gateway::Reply;
use crate::messages::code_of;

/// The row that the gateway has in each session's mailbox; the test has the first one.
const GATEWAY: WorkerTag = WorkerTag::new(1, 1);

/// What a gateway needs of a session.
pub(super) struct SessionRoom {
    objects: Arc<Objects>,
    bell: Option<OwnedFd>,
    /// Made by the thread that uses it.
    mailbox: Option<Mailbox>,
    /// Whether the last message found no room, and nobody has said since that there is some.
    is_full: bool,
}

impl SessionRoom {
    pub(super) fn new(objects: &Arc<Objects>, bell: OwnedFd) -> Self {
        Self { objects: Arc::clone(objects), bell: Some(bell), mailbox: None, is_full: false }
    }

    fn mailbox(&mut self) -> Result<&Mailbox, String> {
        if self.mailbox.is_none() {
            let bell = self.bell.take().ok_or("the mailbox could not be mapped before")?;
            let bell = MailBell::attach(bell).map_err(|error| error.to_string())?;
            let mailbox = Mailbox::new(Arc::clone(&self.objects), GATEWAY, bell).map_err(|error| error.to_string())?;
            self.mailbox = Some(mailbox);
        }
        self.mailbox.as_ref().ok_or_else(|| "the mailbox could not be mapped".to_owned())
    }

    /// Puts a message, or finds that it was put before.
    pub(super) fn put(&mut self, head: &PutHead<'_>, bytes: &[u8]) -> Reply {
        let PutHead { source, id, key } = *head;
        let put = match self.mailbox() {
            Ok(mailbox) => mailbox.put(&NewMessage { source: &source, id, key, bytes, repeats: true }),
            Err(reason) => return Reply::failed(codes::NOT_SENT, &reason),
        };
        self.is_full = matches!(put, Err(MailError::Full { .. }));
        match put {
            Ok(accepted) => Reply::accepted(accepted),
            Err(error) => Reply::failed(code_of(&error, codes::BAD_REQUEST), &error.to_string()),
        }
    }

    /// Whether a message may find room. Nobody tells when one was taken, so the answer comes a little later than it could.
    pub(super) fn has_room(&mut self) -> bool {
        !std::mem::take(&mut self.is_full)
    }
}

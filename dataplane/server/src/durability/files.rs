//! The thread that opens and removes logs: both take many operations of the file system, and to open one it is read whole.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};

use mio::Waker;
use praas_shm::log_ring::LogReader;
use praas_storage::Folder;

use super::{Beginning, Command, LogEnd, LogNews, LogStore, News, Opened, RingStart, tell};
use crate::processes::ProcessKey;

/// What is to be done.
#[derive(Debug)]
pub(super) enum FileOrder {
    Open(Box<Beginning>),
    End(ProcessKey, Folder, LogEnd),
}

#[derive(Debug)]
pub(super) struct FilesThread {
    orders: Receiver<FileOrder>,
    store: Arc<dyn LogStore>,
    commands: Sender<Command>,
    waker: Arc<Waker>,
    news: News,
}

impl FilesThread {
    pub(super) fn new(
        orders: Receiver<FileOrder>,
        store: Arc<dyn LogStore>,
        commands: Sender<Command>,
        waker: Arc<Waker>,
        news: News,
    ) -> Self {
        Self { orders, store, commands, waker, news }
    }

    /// Does what it is told, in order, until nobody can tell it anything.
    pub(super) fn run(self) {
        while let Ok(order) = self.orders.recv() {
            match order {
                FileOrder::Open(beginning) => {
                    let key = beginning.key;
                    tell(&self.commands, &self.waker, Command::Opened(key, self.open(*beginning)));
                }
                FileOrder::End(key, folder, end) => {
                    let ended = match end {
                        LogEnd::Leave => continue,
                        LogEnd::Mark => self.store.mark_ended(&folder),
                        LogEnd::Remove => self.store.remove(&folder),
                    };
                    self.news.tell(LogNews::Ended(key, end, ended.map_err(|error| error.to_string())));
                }
            }
        }
    }

    /// The error says why there is no log.
    fn open(&self, beginning: Beginning) -> Result<Box<Opened>, String> {
        let Beginning { key, folder, note, ring, ring_bytes, start, position, doorbell, control } = beginning;
        let (reader, goes_on) = match start {
            RingStart::New | RingStart::Replayed => {
                let reader = LogReader::attach(ring, ring_bytes, position).map_err(|error| error.to_string())?;
                (reader, start == RingStart::Replayed)
            }
            RingStart::LeftBehind => {
                let end = self.store.end(&folder).map_err(|error| error.to_string())?;
                let reader = LogReader::resume(ring, ring_bytes, end, position).map_err(|error| error.to_string())?;
                (reader, end.is_some())
            }
        };
        let position = reader.position();
        let log =
            if goes_on { self.store.go_on(&folder, position) } else { self.store.begin(&folder, position, &note) };
        let log = log.map_err(|error| error.to_string())?;
        Ok(Box::new(Opened { key, folder, reader, doorbell, control, log }))
    }
}

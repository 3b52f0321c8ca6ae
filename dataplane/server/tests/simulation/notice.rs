//! The notice of a host that it will be taken away: the server ends within a grace period while everything goes on as before, faults of
//! storage included, and says what it could not store.
//!
//! What it does not name is stored as it was. What it names is with the keeper, which the next server finds, if the host stays after all.

use std::time::Duration;

use praas_server::simulation::SimulatedServer;

use crate::model::model;
use crate::run::Run;

/// The shortest grace period, and how much longer one may be.
const GRACE_MIN_MS: u64 = 20;
const GRACE_MORE_MS: u64 = 400;

impl Run {
    pub(crate) fn give_notice(&mut self) {
        if self.is_ending {
            return;
        }
        let grace = Duration::from_millis(GRACE_MIN_MS + self.random.below(GRACE_MORE_MS));
        self.note(format!("the host gives notice: the server has {grace:?}"));
        self.counts.notices += 1;
        self.is_ending = true;
        self.with_server(|server| server.shut_down_within(grace));
    }

    /// The server has ended, and its host goes or stays.
    pub(crate) fn leave_host(&mut self) {
        self.count();
        let Some((farewell, writes)) = self.server.take().map(SimulatedServer::farewell) else { return };
        let unsaved: Vec<_> = farewell.unsaved.iter().map(|unsaved| unsaved.process).collect();
        let names: Vec<_> = unsaved.iter().map(|process| process.process.to_string()).collect();
        self.note(format!("the server has ended, {} processes were stored and not {names:?}", farewell.saved));
        self.counts.left_behind += unsaved.len() as u64;
        model(|model| model.said_farewell(&unsaved));
        self.leave_under_way(writes);
        self.drop_server();
        // A keeper that has nothing for the next server is dismissed.
        let is_kept = farewell.unsaved.iter().any(|unsaved| unsaved.is_kept);
        if !is_kept || self.chance(2) {
            self.note("nothing is left of what it had in memory".to_owned());
            self.lose_memory();
        }
        self.start_server();
    }
}

//! The end of a run: what everybody has to have got by then, and the ends of its servers.

use std::collections::BTreeSet;

use praas_protocol::ProcessId;
use praas_server::simulation::SimulatedServer;

use crate::model::model;
use crate::run::{ROUNDS_MAX, Run};
use crate::wish::Wish;

/// Rounds in which a process wakes that is due.
const WAKE_ROUNDS_MAX: usize = 4000;

impl Run {
    /// Everybody is asked for, so that it is known whether it is there; whose end could not be completed is stopped again.
    pub(crate) fn settle(&mut self) -> Result<(), String> {
        for process in self.processes.clone() {
            for wish in [Wish::Restore, Wish::Stop] {
                if !model(|model| model.is_settled(&process)) {
                    self.begin(0, wish, process);
                    self.come_to_rest("while it is asked what is there")?;
                }
            }
        }
        Ok(())
    }

    /// The time of everything comes that processes wait for, while they sleep; they have to wake by themselves.
    pub(crate) fn let_all_wake(&mut self) -> Result<(), String> {
        for process in self.there() {
            self.begin(1, Wish::Remind { seconds: u8::MAX }, process);
            self.come_to_rest("while it asks to be woken")?;
            self.begin(0, Wish::Swap, process);
            self.come_to_rest("while it is put to sleep")?;
        }
        let Some(last) = model(|model| model.last_due_unix_ms()) else { return Ok(()) };
        let mut sleepers: BTreeSet<_> = self.there().into_iter().collect();
        sleepers.retain(|process| model(|model| model.waits_to_wake(process)));
        let wait_ms = i64::try_from(last).unwrap_or(0) - i64::try_from(self.clock.unix_time().as_millis()).unwrap_or(0);
        self.clock.jump_ms(wait_ms.max(0) + 1000);
        self.note(format!("it is {last}: all that was wished for is due"));
        for _ in 0..WAKE_ROUNDS_MAX {
            if sleepers.is_empty() {
                break;
            }
            self.round();
            self.judge()?;
            sleepers.retain(|process| self.with_server(|server| server.sleeps(process)));
        }
        for process in sleepers {
            model(|model| model.wrong.push(format!("{process}: it sleeps on, though its time has come")));
        }
        self.judge()
    }

    fn there(&self) -> Vec<ProcessId> {
        let is_there = |process: &&ProcessId| model(|model| model.is_there(process) && model.is_settled(process));
        self.processes.iter().filter(is_there).copied().collect()
    }

    /// Every process that is there gives up its messages.
    pub(crate) fn take_all_messages(&mut self) -> Result<(), String> {
        for wish in [Wish::Take, Wish::TakeWake] {
            for process in self.there() {
                loop {
                    self.clients[1].found_message = false;
                    self.begin(1, wish, process);
                    self.come_to_rest("while messages are taken")?;
                    if !self.clients[1].found_message {
                        break;
                    }
                }
            }
        }
        model(|model| model.check_messages());
        self.judge()
    }

    /// The server is told to end, storage being what it is; its keeper goes on, and so does the next server.
    pub(crate) fn end_in_trouble(&mut self) -> Result<(), String> {
        self.note("the server is told to end while storage fails".to_owned());
        self.be_rough(true);
        self.end_server()?;
        self.be_rough(false);
        self.start_server();
        self.settle()
    }

    /// The server ends, and everything is stored.
    pub(crate) fn end_cleanly(&mut self) -> Result<(), String> {
        self.end_server()?;
        model(|model| model.ended_cleanly());
        self.judge()
    }

    fn end_server(&mut self) -> Result<(), String> {
        self.with_server(SimulatedServer::shut_down);
        for _ in 0..ROUNDS_MAX {
            let did = self.round();
            self.judge()?;
            if self.with_server(|server| server.is_over()) {
                self.count();
                self.drop_server();
                return self.judge();
            }
            if !did {
                self.let_time_pass();
            }
        }
        model(|model| model.wrong.push("the server does not end".to_owned()));
        self.judge()
    }
}

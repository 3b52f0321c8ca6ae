//! What the answer to a call says, and what its client makes of it.

use std::sync::Arc;

use praas_protocol::{Outcome, ProcessId};
use praas_shm::client_lane::{ClientLane, Ticket};

use super::{Client, DoneOnce, LOSSES_MAX, REPEATED_MAX, TRIES_MAX, Work};
use crate::functions::{NOTHING, PLANNED};
use crate::model::{Operation, model};
use crate::wish::Wish;

impl Client {
    pub(super) fn answered(&mut self, lane: &Arc<ClientLane>, ticket: Ticket) {
        let answer = lane.take(ticket);
        let Some(Work { wish, process, operation, tries, done_at, .. }) = self.work else { return };
        let (outcome, detail) = (Outcome::from_code(answer.outcome_code), answer.detail);
        let payload = answer.payload.expect("workers answer within the lane");
        let mut bytes = vec![0; payload.len()];
        payload.copy_to(&mut bytes);
        match (outcome, wish) {
            (Some(Outcome::Ok), Wish::Take | Wish::TakeWake) => {
                self.found_message = bytes != NOTHING;
                self.end(if self.found_message { "took a message" } else { "found no message" });
            }
            (Some(Outcome::Ok), Wish::Send { .. }) => {
                if !self.is_outdated(&process) {
                    model(|model| model.accepted(&process, operation));
                }
                self.end("is accepted");
            }
            (Some(Outcome::Ok), _) => {
                if !self.is_outdated(&process) {
                    model(|model| model.acknowledged(&process, operation));
                    if wish == Wish::AppendOnce && done_at.is_none() {
                        self.remember_done(process, operation);
                    }
                }
                self.end("is done");
            }
            (Some(Outcome::Unavailable), _) => {
                if !matches!(wish, Wish::Send { .. }) && tries == 1 && done_at.is_none() {
                    model(|model| model.refused(&process, operation));
                }
                self.say(format!("{wish:?} {operation} was refused"));
                self.let_lane_go(process);
            }
            (Some(Outcome::FunctionFailed), _) if detail == PLANNED || model(|model| model.is_rough) => {
                self.found_message = true;
                self.end(&format!("failed: {}", String::from_utf8_lossy(&bytes)));
            }
            // What is known of an earlier call with its key could not be brought back.
            (Some(Outcome::Overloaded), Wish::AppendOnce) => self.say(format!("{operation} is refused for now")),
            (Some(Outcome::WorkerLost), _) => self.is_unknown("its worker died"),
            other => {
                let words = String::from_utf8_lossy(&bytes).into_owned();
                model(|model| {
                    model.wrong.push(format!("{process}: the call of {operation} ended as {other:?}: {words}"));
                });
                self.end("ended oddly");
            }
        }
    }

    fn remember_done(&mut self, process: ProcessId, operation: Operation) {
        let changes = model(|model| model.changes(&process));
        self.done_once.push_front(DoneOnce { process, operation, changes });
        self.done_once.truncate(REPEATED_MAX);
    }

    /// Nobody knows whether what it wanted happened.
    pub(super) fn is_unknown(&mut self, why: &str) {
        let Some(work) = &mut self.work else { return };
        work.losses += 1;
        match (work.wish, work.done_at) {
            (Wish::AppendOnce, Some(_)) if work.losses < LOSSES_MAX => self.say(format!("repeats it once more: {why}")),
            (Wish::AppendOnce, Some(done_at)) => {
                let Work { process, operation, .. } = *work;
                model(|model| model.not_repeated(&process, operation, done_at));
                self.end(why);
            }
            (Wish::AppendOnce | Wish::Send { .. }, None) if work.tries < TRIES_MAX / 4 => {
                self.say(format!("repeats it: {why}"));
            }
            _ => self.end(why),
        }
    }

    pub(super) fn end(&mut self, how: &str) {
        self.found_message |= how == "its worker died";
        if let Some(work) = self.work.take() {
            self.say(format!("{:?} {} of {}: {how}", work.wish, work.operation, work.process.process));
        }
    }
}

//! What the server says to a client.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use praas_protocol::control::{ControlError, ServerMessage};
use praas_shm::client_lane::ClientLane;

use super::{Client, Doing, Lane, Work};
use crate::lane_parts::lane_parts;
use crate::model::model;
use crate::wish::Wish;

impl Client {
    pub(super) fn hear(&mut self, message: &ServerMessage, fds: Vec<OwnedFd>) {
        let asked = match self.doing {
            Doing::Asking(request) => request,
            _ => 0,
        };
        match message {
            ServerMessage::Welcome { .. } => {
                if let Some(connection) = &mut self.connection {
                    connection.is_welcome = true;
                }
            }
            ServerMessage::Done { request } if *request == asked => {
                self.doing = Doing::Nothing;
                self.order_done();
            }
            ServerMessage::Failed { request, error } if *request == asked => {
                self.doing = Doing::Nothing;
                self.order_failed(error);
            }
            ServerMessage::LaneOpened { request, process, lane, .. } if *request == asked => {
                self.doing = Doing::Nothing;
                if !self.is_outdated(process) {
                    model(|model| model.exists(process));
                }
                let connection = self.connection.as_mut().expect("it is there");
                let parts = lane_parts(message, fds, &connection.socket).expect("it is a lane");
                let attached = Arc::new(ClientLane::attach(parts).expect("the server gives a lane that fits"));
                connection.lanes.insert(*process, Lane { lane: attached, id: *lane });
            }
            other => model(|model| model.wrong.push(format!("{} was told {other:?}", self.name))),
        }
    }

    fn order_done(&mut self) {
        let Some(Work { wish, process, .. }) = self.work else { return };
        match wish {
            Wish::Create | Wish::Restore => model(|model| model.is_settled_there(&process)),
            Wish::Stop => model(|model| model.is_settled_gone(&process)),
            _ => model(|model| model.exists(&process)),
        }
        self.end("is done");
    }

    fn order_failed(&mut self, error: &ControlError) {
        let Some(Work { wish, process, changes, .. }) = self.work else { return };
        match error {
            ControlError::UnknownProcess { .. } => {
                if wish.is_call() {
                    model(|model| model.missing(&process, changes));
                } else {
                    model(|model| model.is_settled_gone(&process));
                }
                self.end("there is no such process");
            }
            // It may be one that could not be created and is on its way out.
            ControlError::ProcessExists { .. } => self.end("it exists already"),
            ControlError::WrongState { .. }
            | ControlError::SwapFailed { .. }
            | ControlError::WorkersFailed { .. }
            | ControlError::ShuttingDown
            | ControlError::LimitReached { .. } => {
                let words = error.to_string();
                if wish.is_call() {
                    self.say(format!("is told: {words}"));
                } else {
                    self.end(&words);
                }
            }
            other => {
                let words = format!("{process}: {wish:?} was refused: {other}");
                model(|model| model.wrong.push(words));
                self.end("was refused oddly");
            }
        }
    }
}

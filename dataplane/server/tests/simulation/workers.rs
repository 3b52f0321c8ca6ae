//! The workers of a run: their steps, and their deaths.

use std::os::fd::{AsFd, OwnedFd};

use praas_function::testing::{Stepped, SteppedWorker};
use praas_protocol::ProcessId;
use praas_sys::MessageSocket;

use crate::functions::{Role, application};
use crate::model::{Death, model};
use crate::run::Run;

/// A worker as the run has it.
pub(crate) enum Body {
    /// Its program has not said hello yet.
    Loading(OwnedFd),
    Serving(Box<SteppedWorker>),
}

pub(crate) struct Worker {
    pub(crate) process: ProcessId,
    /// Of the life of the process.
    pub(crate) incarnation: u64,
    pub(crate) body: Body,
}

impl Run {
    pub(crate) fn step_some_worker(&mut self) {
        if self.workers.is_empty() {
            return;
        }
        let index = usize::try_from(self.random.below(self.workers.len() as u64)).expect("an index");
        let worker = *self.workers.keys().nth(index).expect("an index");
        self.step_worker(worker);
    }

    /// One step of a worker; whether it did anything.
    pub(crate) fn step_worker(&mut self, number: usize) -> bool {
        let Some(Worker { process, incarnation, body }) = self.workers.remove(&number) else { return false };
        let serving = match body {
            Body::Loading(socket) if !has_mail(&socket) => {
                self.workers.insert(number, Worker { process, incarnation, body: Body::Loading(socket) });
                return false;
            }
            Body::Loading(socket) => {
                let (model, role) = (self.model.clone(), Role { process, incarnation, worker: number });
                let application = move || {
                    model.adopt();
                    application(role)
                };
                SteppedWorker::start(MessageSocket::from(socket), application)
                    .map(|worker| (Box::new(worker), Stepped::Busy))
            }
            Body::Serving(mut worker) => {
                if self.is_rough && self.chance(40) {
                    let when = if self.chance(2) { Death::First } else { Death::Last };
                    model(|model| model.death = Some(when));
                }
                let fails = self.is_rough && self.chance(20);
                model(|model| (model.fails, model.is_struck) = (fails, false));
                let stepped = worker.step();
                model(|model| (model.death, model.fails) = (None, false));
                stepped.map(|stepped| (worker, stepped))
            }
        };
        match serving {
            Ok((worker, stepped)) if stepped != Stepped::Ended => {
                self.workers.insert(number, Worker { process, incarnation, body: Body::Serving(worker) });
                stepped == Stepped::Busy
            }
            ended => {
                let how = match ended {
                    Ok(_) if model(|model| std::mem::take(&mut model.is_struck)) => "died in a call".to_owned(),
                    Ok(_) => "has ended".to_owned(),
                    Err(error) => format!("ended: {error}"),
                };
                self.counts.worker_deaths += u64::from(how != "has ended");
                self.note(format!("worker {number} of {} {how}", process.process));
                self.end_worker(number);
                true
            }
        }
    }

    pub(crate) fn end_worker(&mut self, number: usize) {
        // Its socket closes with it.
        self.workers.remove(&number);
        self.with_server(|server| server.worker_ended(number));
    }

    pub(crate) fn kill_some_worker(&mut self) {
        if self.workers.is_empty() || !self.is_rough {
            return;
        }
        let index = usize::try_from(self.random.below(self.workers.len() as u64)).expect("an index");
        let worker = *self.workers.keys().nth(index).expect("an index");
        self.counts.worker_deaths += 1;
        self.note(format!("worker {worker} is killed"));
        self.end_worker(worker);
    }
}

fn has_mail(socket: &OwnedFd) -> bool {
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    let socket = socket.as_fd();
    let mut fds = [rustix::event::PollFd::new(&socket, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
}

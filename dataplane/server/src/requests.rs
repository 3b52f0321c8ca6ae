//! What clients ask for, checked against their tokens and carried out.
//!
//! Rights and scope come first, existence after: a token learns nothing about processes outside its scope.

use std::os::fd::OwnedFd;

use praas_protocol::codec;
use praas_protocol::control::{ClientRequest, ControlError, ServerMessage};
use praas_protocol::limits::{CONTROL_MESSAGE_BYTES_MAX, LIST_PAGE_PROCESSES};
use praas_protocol::token::{Claims, Rights, Scope};
use praas_protocol::{Address, Name, ProcessId};

use crate::drain::Purpose;
use crate::gateways::Speaker;
use crate::lanes::{LaneAsker, LaneWish};
use crate::message_lanes::MessageLaneWish;
use crate::processes::{Asker, Follower, output_answer};
use crate::shard::Shard;
use crate::swap::{SwapReason, Waiter};
use crate::transitions::Wish;

/// Bytes that a page of processes may take, with room for what surrounds it.
const PAGE_BYTES_MAX: usize = CONTROL_MESSAGE_BYTES_MAX - 1024;

impl Shard {
    /// Carries a request out, or starts to; whoever finishes it answers.
    pub(crate) fn carry_out(
        &mut self,
        asker: Asker,
        body: &ClientRequest,
        socket: Option<OwnedFd>,
    ) -> Result<(), ControlError> {
        let claims = self.clients.get(asker.client).and_then(|client| client.claims.clone());
        let claims = claims.ok_or(ControlError::Protocol { reason: "no hello was said".into() })?;
        match *body {
            ClientRequest::ProcessCreate { process, idle_swap_ms } => {
                allow(&claims, Rights::MANAGE, "manage", &process)?;
                self.create_process(process, idle_swap_ms, asker)
            }
            ClientRequest::ProcessStop { process } => {
                allow(&claims, Rights::MANAGE, "manage", &process)?;
                if self.looks_in_storage(process, asker, body)? || self.stop_sleeper(&process, asker)? {
                    return Ok(());
                }
                self.end_process(self.processes.key_of(&process)?, Purpose::Stop, asker)
            }
            ClientRequest::ProcessRestart { process } => {
                allow(&claims, Rights::MANAGE, "manage", &process)?;
                if self.processes.swapped.contains_key(&process) {
                    // It has no workers: those that it is woken with are new.
                    return self.restore_process(&process, Some(asker));
                }
                if self.is_away(&process) {
                    let body = Box::new(body.clone());
                    return self.wait_for(process, Waiter::Request { asker, body, socket });
                }
                self.end_process(self.processes.key_of(&process)?, Purpose::Restart, asker)
            }
            ClientRequest::ProcessSwap { process } => {
                allow(&claims, Rights::MANAGE, "manage", &process)?;
                if self.looks_in_storage(process, asker, body)? {
                    return Ok(());
                }
                self.begin_swap_of(&process, SwapReason::Asked, Some(asker))
            }
            ClientRequest::ProcessRestore { process } => {
                allow(&claims, Rights::MANAGE, "manage", &process)?;
                if self.looks_in_storage(process, asker, body)? {
                    return Ok(());
                }
                self.restore_process(&process, Some(asker))
            }
            ClientRequest::TransitionWatch { process, after } => {
                if !claims.rights.contains(Rights::MANAGE) {
                    return Err(unauthorized("manage", "what happens to processes"));
                }
                if let Some(process) = process {
                    allow(&claims, Rights::MANAGE, "manage", &process)?;
                }
                self.watch_transitions(asker, Wish { scope: claims.scope, process }, after)
            }
            ClientRequest::StorageUsage { after } => {
                if !claims.rights.contains(Rights::MANAGE) {
                    return Err(unauthorized("manage", "what is stored"));
                }
                self.look_up_usage(asker, claims.scope, after)
            }
            ClientRequest::ProcessOutput { process, from, follow } => {
                allow(&claims, Rights::MANAGE, "manage", &process)?;
                self.show_output(process, Follower { asker, from }, follow)
            }
            ClientRequest::LaneOpen { process, payload_bytes_max, calls_in_flight, on_behalf } => {
                allow(&claims, Rights::INVOKE, "invoke", &process)?;
                if let Some(caller) = on_behalf {
                    self.allow_in_the_name_of(asker, &claims, process.application, caller.into())?;
                }
                self.open_lane(LaneWish { process, payload_bytes_max, calls_in_flight }, on_behalf, asker)
            }
            ClientRequest::ProcessStats { process } => {
                allow(&claims, Rights::MANAGE, "manage", &process)?;
                let key = self.processes.key_of(&process)?;
                let stats = self.stats_of(key).ok_or(ControlError::UnknownProcess { process })?;
                self.answer(asker, &ServerMessage::Stats { request: asker.request, stats }, &[]);
                Ok(())
            }
            ClientRequest::ConnectionGive { process, request_id, payload_bytes_max, calls_in_flight } => {
                let missing = || ControlError::Protocol { reason: "no connection came with the request".into() };
                let socket = socket.ok_or_else(missing)?;
                allow(&claims, Rights::INVOKE, "invoke", &process)?;
                if self.is_away(&process) || self.is_waking(&process) {
                    let (body, socket) = (Box::new(body.clone()), Some(socket));
                    return self.wait_for(process, Waiter::Request { asker, body, socket });
                }
                if self.may_be_stored(&process) {
                    let (body, socket) = (Box::new(body.clone()), Some(socket));
                    return self.look_in_storage(process, Waiter::Request { asker, body, socket });
                }
                let wish = LaneWish { process, payload_bytes_max, calls_in_flight };
                self.give_connection(&wish, request_id, socket, &claims)?;
                self.answer_done(asker);
                Ok(())
            }
            ClientRequest::SessionOpen { application, resume, payload_bytes_max } => {
                self.open_session(asker, &claims, application, resume, payload_bytes_max)
            }
            ClientRequest::SessionLaneOpen { application, session, source, incarnation } => {
                self.allow_in_the_name_of(asker, &claims, application, source)?;
                self.open_session_lane(asker, &claims, session, Speaker { application, source, incarnation })
            }
            ClientRequest::MessageLaneOpen { process, source, incarnation, payload_bytes } => {
                allow(&claims, Rights::MESSAGES, "messages", &process)?;
                self.allow_in_the_name_of(asker, &claims, process.application, source)?;
                let asker = LaneAsker::Client(asker);
                let (to, repeats) = (process, true);
                self.open_message_lane(&MessageLaneWish { asker, to, source, incarnation, payload_bytes, repeats })
            }
            ClientRequest::DirectoryWatch { after } => {
                if !claims.rights.contains(Rights::TRUSTED) {
                    return Err(unauthorized("trusted", "the processes of this server"));
                }
                self.watch_directory(asker, after, &claims.scope)
            }
            ClientRequest::ProcessList { after } => self.list_processes(&claims, after, asker),
            ClientRequest::ApplicationList => {
                let visible = |name: &praas_protocol::Name| match &claims.scope {
                    Scope::Any => true,
                    Scope::Application(application) => application == name,
                    Scope::Process(process) => process.application == *name,
                };
                let applications = self.applications.keys().copied().filter(visible).collect();
                self.answer(asker, &ServerMessage::Applications { request: asker.request, applications }, &[]);
                Ok(())
            }
        }
    }

    /// Whether somebody may speak in the name of others: the network side alone, for sessions of its own accord, for processes
    /// of other servers with a token that shares their trust domain.
    fn allow_in_the_name_of(
        &self,
        asker: Asker,
        claims: &Claims,
        application: Name,
        source: Address,
    ) -> Result<(), ControlError> {
        if !self.clients.get(asker.client).is_some_and(|client| client.is_network) {
            let reason = "only the server itself speaks in the name of others".into();
            return Err(ControlError::Protocol { reason });
        }
        match source {
            Address::Process(process) => allow(claims, Rights::TRUSTED, "trusted", &ProcessId { application, process }),
            Address::Client(_) => Ok(()),
        }
    }

    fn list_processes(&mut self, claims: &Claims, after: Option<ProcessId>, asker: Asker) -> Result<(), ControlError> {
        if !claims.rights.contains(Rights::MANAGE) {
            return Err(unauthorized("manage", "the list of processes"));
        }
        let mut processes = Vec::new();
        let (mut bytes, mut more) = (0, false);
        for id in self.ids_after(&claims.scope, after) {
            let Some(status) = self.status_of_id(&id) else { continue };
            bytes += codec::encode(&status).map_or(PAGE_BYTES_MAX, |bytes| bytes.len());
            if bytes >= PAGE_BYTES_MAX || processes.len() >= LIST_PAGE_PROCESSES {
                more = true;
                break;
            }
            processes.push(status);
        }
        self.answer(asker, &ServerMessage::Processes { request: asker.request, processes, more }, &[]);
        Ok(())
    }

    fn show_output(&mut self, id: ProcessId, follower: Follower, follow: bool) -> Result<(), ControlError> {
        let key = self.processes.key_of(&id)?;
        let process = self.processes.get_mut(key).ok_or(ControlError::UnknownProcess { process: id })?;
        if follow && follower.from >= process.output.end() {
            process.followers.push(follower);
            return Ok(());
        }
        let answer = output_answer(process, follower);
        self.answer(follower.asker, &answer, &[]);
        Ok(())
    }
}

fn allow(claims: &Claims, rights: Rights, right: &str, process: &ProcessId) -> Result<(), ControlError> {
    if claims.rights.contains(rights) && claims.scope.covers(process) {
        Ok(())
    } else {
        Err(unauthorized(right, &process.to_string()))
    }
}

fn unauthorized(right: &str, what: &str) -> ControlError {
    ControlError::Unauthorized { right: right.into(), what: what.into() }
}

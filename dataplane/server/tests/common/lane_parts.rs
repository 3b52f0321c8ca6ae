//! What the client of a lane attaches to, made of the server's answer by hand.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use praas_protocol::codec::encode;
use praas_protocol::control::{ClientMessage, ServerMessage};
use praas_shm::client_lane::ClientLaneParts;
use praas_sys::MessageSocket;

/// The parts of a lane that the server has opened over this socket; `None` if the answer is another one.
pub(crate) fn lane_parts(
    opened: &ServerMessage,
    fds: Vec<OwnedFd>,
    socket: &Arc<MessageSocket>,
) -> Option<ClientLaneParts> {
    let ServerMessage::LaneOpened { process, lane, geometry, trusted, payload_bytes_max, workers_max, .. } = opened
    else {
        return None;
    };
    let [segment, control, doorbell] = <[OwnedFd; 3]>::try_from(fds).expect("three descriptors");
    let socket = Arc::clone(socket);
    let ring = encode(&ClientMessage::Ring { lane: *lane, process: *process }).expect("it is small");
    Some(ClientLaneParts {
        lane: *lane,
        geometry: *geometry,
        trusted: *trusted,
        payload_bytes_max: *payload_bytes_max,
        workers_max: *workers_max,
        segment,
        control,
        doorbell,
        ring_server: Box::new(move || drop(socket.try_send(&ring, &[]))),
    })
}

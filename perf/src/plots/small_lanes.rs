//! A client that keeps many lanes open at once. A lane is counted with the payloads that it may carry, 64 MiB each way unless a
//! client asks for less, so a host grants a client with default settings some 180 of them.

use praas_benches::subject::{RunningServer, SubjectError};
use praas_client::{Client, ConnectOptions};

/// Bytes of the largest payload over such a lane.
pub(super) const PAYLOAD_BYTES_MAX: u32 = 64 << 10;

/// A trusted client of this server, with lanes for payloads of [`PAYLOAD_BYTES_MAX`].
pub(super) fn connect(server: &RunningServer) -> Result<Client, SubjectError> {
    let options = ConnectOptions::new().data_directory(server.data_directory()).payload_bytes_max(PAYLOAD_BYTES_MAX);
    Ok(Client::connect(options)?)
}

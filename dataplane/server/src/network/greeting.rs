//! The hello: versions, token, welcome.
//!
//! The token is verified here, so that whoever has none costs the server's loop nothing. What the token allows is that
//! loop's to say, on every question: see [`super::control_session`].

use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use praas_protocol::control::ControlError;
use praas_protocol::token::Claims;
use praas_protocol::wire::{GoawayReason, Hello, WIRE_VERSION, Welcome, WindowLimits, encode_control_error};

use super::connection::{ConnectionKey, Identity, Stage};
use super::shard::{Course, NetworkShard};
use super::timers::Timer;
use crate::limits::{
    HANDLES_MAX, IN_FLIGHT_MAX, REPLY_WINDOW_BYTES_DEFAULT, REPLY_WINDOW_BYTES_MAX, REPLY_WINDOW_BYTES_MIN,
};

impl NetworkShard {
    /// A client says who it is.
    pub(super) fn hello_came(&mut self, key: ConnectionKey, hello: &Hello<'_>) {
        match self.check_hello(hello) {
            Ok(claims) => self.welcome(key, hello, &claims),
            Err(error) => {
                self.log().info(format_args!("a network connection is refused: {error}"));
                self.counters.hello_refused();
                self.refuse_hello(key, &error);
                self.say_no_more(key);
            }
        }
    }

    fn check_hello(&self, hello: &Hello<'_>) -> Result<Claims, ControlError> {
        if self.course != Course::Serving {
            return Err(ControlError::ShuttingDown);
        }
        if hello.version().is_none() {
            let (server, client) = (u32::from(WIRE_VERSION), u32::from(hello.version_max));
            return Err(ControlError::WrongVersion { server, client });
        }
        let verified = self.plan.secret.verify(hello.token, unix_s());
        verified.map_err(|error| ControlError::TokenRefused { reason: error.to_string() })
    }

    fn welcome(&mut self, key: ConnectionKey, hello: &Hello<'_>, claims: &Claims) {
        let plan = std::sync::Arc::clone(&self.plan);
        let Some(connection) = self.connections.get_mut(key) else { return };
        if let Stage::Fresh { hello_due } = connection.stage {
            self.timers.forget(hello_due, Timer::Hello(key));
        }
        let reply_window_bytes = match hello.reply_window_bytes {
            0 => REPLY_WINDOW_BYTES_DEFAULT,
            wish => wish.clamp(REPLY_WINDOW_BYTES_MIN, REPLY_WINDOW_BYTES_MAX),
        };
        connection.stage = Stage::Open;
        connection.identity = Some(Rc::new(Identity { token: hello.token.trim().into(), claims: claims.clone() }));
        connection.reply_window_bytes = reply_window_bytes;
        connection.decoder.set_payload_bytes_max(plan.payload_bytes_max);
        connection.rules.set_limits(WindowLimits { calls: IN_FLIGHT_MAX, bytes: plan.window_bytes() });
        let welcome = Welcome {
            version: WIRE_VERSION,
            features: 0,
            connection_id: connection.id,
            incarnation: plan.incarnation,
            host_id: plan.host_id,
            payload_bytes_max: plan.payload_bytes_max,
            in_flight_max: IN_FLIGHT_MAX,
            handles_max: HANDLES_MAX,
            window_bytes: plan.window_bytes(),
            reply_window_bytes,
            socket_path: plan.socket_path.to_str().unwrap_or(""),
        };
        self.push(key, |out| {
            // Refused only for a path that is longer than a socket's can be.
            let _ = welcome.encode(out);
        });
        if let Some(end_unix_s) = claims.expires_unix_s {
            let left = Duration::from_secs(end_unix_s.saturating_sub(unix_s()));
            if let Some(end) = self.now.checked_add(left)
                && let Some(connection) = self.connections.get_mut(key)
            {
                connection.token_end = Some(end);
                self.timers.at(end, Timer::Token(key));
            }
        }
    }

    /// Says why there is no welcome.
    pub(super) fn refuse_hello(&mut self, key: ConnectionKey, error: &ControlError) {
        self.push_unruled(key, |out| encode_control_error(error, 0, out));
    }

    /// Timer: the token of a connection has ended.
    pub(super) fn token_ended(&mut self, key: ConnectionKey) {
        self.send_away(key, GoawayReason::TokenEnded, "the token has expired");
    }
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

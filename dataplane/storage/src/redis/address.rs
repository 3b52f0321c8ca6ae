//! Where a Redis server is, and below which prefix our keys lie.

use ::redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};

use crate::error::StorageError;

/// How the addresses of Redis servers begin.
pub const SCHEMES: [&str; 3] = ["redis://", "redis+unix://", "unix://"];
/// The prefix of addresses that name none.
const PREFIX_DEFAULT: &str = "praas";
const PREFIX_OPTION: &str = "prefix=";

/// What an address says, but who we are there.
#[derive(Debug, Clone)]
pub(super) struct Address {
    server: String,
    database: i64,
    pub(super) prefix: String,
}

impl Address {
    /// Reads `redis://[USER:PASSWORD@]HOST:PORT[/DATABASE][?prefix=TEXT]`, or the same of a Unix socket.
    pub(super) fn parse(text: &str) -> Result<(Self, ConnectionInfo), StorageError> {
        let (url, options) = text.split_once('?').unwrap_or((text, ""));
        let mut prefix = PREFIX_DEFAULT;
        let mut others = Vec::new();
        for option in options.split('&').filter(|option| !option.is_empty()) {
            match option.strip_prefix(PREFIX_OPTION) {
                Some(text) => prefix = text,
                None => others.push(option),
            }
        }
        let url = if others.is_empty() { url.to_owned() } else { format!("{url}?{}", others.join("&")) };
        // The text may hold a password: it is not shown.
        let unusable = |reason: String| StorageError::Unusable {
            place: "the Redis that was named".to_owned(),
            reason,
            advice: "write it as redis://[USER:PASSWORD@]HOST:PORT[/DATABASE][?prefix=TEXT]",
        };
        let info = url.as_str().into_connection_info().map_err(|error| unusable(error.category().to_owned()))?;
        let server = match info.addr() {
            ConnectionAddr::Tcp(host, port) => format!("redis://{host}:{port}"),
            ConnectionAddr::Unix(path) => format!("redis+unix://{}", path.display()),
            _ => return Err(unusable("TLS is not supported".to_owned())),
        };
        let address = Self { server, database: info.redis_settings().db(), prefix: prefix.to_owned() };
        Ok((address, info))
    }

    /// As errors and lists show it.
    pub(super) fn place(&self) -> String {
        format!("{}/{}?{PREFIX_OPTION}{}", self.server, self.database, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_its_password() {
        let (address, info) = Address::parse("redis://alice:hidden@10.0.0.1:7000/3?prefix=tests").unwrap();
        assert_eq!(address.place(), "redis://10.0.0.1:7000/3?prefix=tests");
        assert_eq!(info.redis_settings().password(), Some("hidden"));
        let (address, _) = Address::parse("redis://localhost").unwrap();
        assert_eq!(address.place(), "redis://localhost:6379/0?prefix=praas");
        let (address, _) = Address::parse("redis+unix:///run/redis.sock?db=2").unwrap();
        assert_eq!(address.place(), "redis+unix:///run/redis.sock/2?prefix=praas");
    }

    #[test]
    fn what_is_no_address_is_refused_with_how_to_write_one() {
        for text in ["", "redis", "http://hidden@host", "redis://alice:hidden@host/no-number", "rediss://hidden@host"] {
            let error = Address::parse(text).unwrap_err().to_string();
            assert!(error.contains("HOST:PORT") && !error.contains("hidden"), "{text}: {error}");
        }
    }
}

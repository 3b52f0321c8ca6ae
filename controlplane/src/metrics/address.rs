//! Where metrics are answered: a loopback address or the path of a Unix socket.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// Where metrics are answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetricsAddress {
    /// A port of this host that other hosts do not reach.
    Loopback(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl FromStr for MetricsAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err("write unix:PATH") } else { Ok(Self::Unix(PathBuf::from(path))) };
        }
        match text.parse::<SocketAddr>() {
            Ok(address) if address.ip().is_loopback() => Ok(Self::Loopback(address)),
            Ok(_) => Err("metrics are answered on loopback only: write 127.0.0.1:PORT, [::1]:PORT or unix:PATH"),
            Err(_) => Err("write 127.0.0.1:PORT, [::1]:PORT or unix:PATH"),
        }
    }
}

impl fmt::Display for MetricsAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loopback(address) => write!(formatter, "http://{address}/metrics"),
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_other_hosts_could_reach_are_refused() {
        assert_eq!("127.0.0.1:9100".parse(), Ok(MetricsAddress::Loopback(([127, 0, 0, 1], 9100).into())));
        assert!(matches!("[::1]:0".parse(), Ok(MetricsAddress::Loopback(_))));
        assert_eq!("unix:/run/m".parse(), Ok(MetricsAddress::Unix("/run/m".into())));
        for text in ["0.0.0.0:9100", "[::]:9100", "192.0.2.1:1", "9100", "localhost:9100", "unix:", ""] {
            assert!(text.parse::<MetricsAddress>().is_err(), "{text}");
        }
    }
}

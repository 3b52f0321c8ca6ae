//! How commands that call functions make their calls.

use clap::{Args, ValueEnum};
use praas_client::{ConnectOptions, Transport, WaitMode};

/// How calls are made.
#[derive(Debug, Clone, Args)]
pub struct CallingArguments {
    /// How to wait for answers; the application's own way unless given
    #[arg(long, value_name = "MODE")]
    pub wait_mode: Option<WaitModeArgument>,
    /// The way to a server that is named by --server
    #[arg(long, value_name = "WAY", default_value = "automatic")]
    pub transport: TransportArgument,
    /// Over the network, ask for a connection that a worker reads itself: one hop less a call
    #[arg(long)]
    pub dedicated: bool,
}

impl CallingArguments {
    /// Options that call in this way.
    #[must_use]
    pub fn options(&self) -> ConnectOptions {
        let options = ConnectOptions::new().transport(self.transport.into()).dedicated(self.dedicated);
        match self.wait_mode {
            Some(mode) => options.wait_mode(mode.into()),
            None => options,
        }
    }
}

/// How to wait for answers.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum WaitModeArgument {
    /// Never sleep: shortest latency, takes a whole core
    Spin,
    /// Poll while it pays, then sleep
    Adaptive,
    /// Sleep at once: takes no core while waiting
    Park,
}

impl From<WaitModeArgument> for WaitMode {
    fn from(mode: WaitModeArgument) -> Self {
        match mode {
            WaitModeArgument::Spin => Self::Spin,
            WaitModeArgument::Adaptive => Self::Adaptive,
            WaitModeArgument::Park => Self::Park,
        }
    }
}

/// The way to a server that is named by its address.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum TransportArgument {
    /// Shared memory when it turns out to be on this host, else the network
    Automatic,
    /// The network, wherever it is
    Network,
}

impl From<TransportArgument> for Transport {
    fn from(argument: TransportArgument) -> Self {
        match argument {
            TransportArgument::Automatic => Self::Automatic,
            TransportArgument::Network => Self::Network,
        }
    }
}

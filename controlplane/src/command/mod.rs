//! The commands, one file each. A command is a function of a [`Context`] and its own arguments; it writes results to the
//! context's output and returns how it failed.

pub mod calling;
pub mod check;
pub mod completions;
pub mod demo;
pub mod doctor;
pub mod invoke;
pub mod message;
pub mod new;
pub mod ping;
pub mod process;
pub mod serve;
pub mod state;
pub mod stats;
pub mod storage;
pub mod token;

use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use praas_client::{Client, ConnectError, ConnectOptions};
use praas_sys::data_directory::{self, SOCKET_FILE};

use crate::arguments::{Command, CommonArguments};
use crate::failure::{Failure, ServerFailure};
use crate::output::Output;

/// Name of a manifest within its directory.
pub const MANIFEST_FILE: &str = "praas.toml";

/// What all commands share: where results go and which server is meant.
#[derive(Debug)]
pub struct Context {
    output: Output,
    data_directory: Option<PathBuf>,
    servers: Vec<String>,
    token_file: Option<PathBuf>,
}

impl Context {
    /// From what every command takes.
    #[must_use]
    pub fn new(common: CommonArguments) -> Self {
        // A variable that is set to nothing names no directory.
        let named = |path: Option<PathBuf>| path.filter(|path| !path.as_os_str().is_empty());
        Self {
            output: Output::new(common.json),
            data_directory: named(common.data),
            servers: common.server.into_iter().filter(|address| !address.is_empty()).collect(),
            token_file: named(common.token_file),
        }
    }

    /// Where results go.
    #[must_use]
    pub fn output(&self) -> Output {
        self.output
    }

    /// The data directory that was named, or this user's own one.
    ///
    /// # Errors
    /// [`Failure::Connect`] when none can be chosen safely.
    pub fn data_directory(&self) -> Result<PathBuf, Failure> {
        match &self.data_directory {
            Some(path) => Ok(path.clone()),
            None => data_directory::default_path().map_err(|error| Failure::Connect(error.into())),
        }
    }

    /// A client of the server.
    ///
    /// # Errors
    /// [`Failure::Connect`] when no server answers or it refuses.
    pub fn client(&self) -> Result<Client, Failure> {
        self.client_with(ConnectOptions::new())
    }

    /// A client of the server with options of its own.
    ///
    /// # Errors
    /// As [`Self::client`].
    pub fn client_with(&self, options: ConnectOptions) -> Result<Client, Failure> {
        let mut options = options;
        if let Some(path) = &self.token_file {
            options = options.token(read_token(path)?);
        }
        if !self.servers.is_empty() {
            if self.token_file.is_none() {
                options = options.data_directory(self.data_directory()?);
            }
            let options = self.servers.iter().fold(options, |options, address| options.address(address));
            return Ok(Client::connect(options)?);
        }
        let directory = self.data_directory()?;
        let refused = match Client::connect(options.data_directory(&directory)) {
            Ok(client) => return Ok(client),
            Err(refused) => refused,
        };
        Err(Failure::Connect(match refused {
            // The token is looked for first, and where no server ever ran there is none.
            ConnectError::TokenUnreadable { source, .. } if source.kind() == ErrorKind::NotFound => {
                ConnectError::NoServer { path: directory.join(SOCKET_FILE), source }
            }
            other => other,
        }))
    }
}

/// Carries a command out.
///
/// # Errors
/// [`Failure`], which the caller reports.
pub fn carry_out(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Demo(arguments) => demo::demo(context, &arguments),
        Command::New(arguments) => new::new(context, &arguments),
        Command::Check(arguments) => check::check(context, &arguments),
        Command::Serve(arguments) => serve::serve(context, &arguments),
        Command::Process(command) => process::process(context, command),
        Command::Invoke(arguments) => invoke::invoke(context, &arguments),
        Command::Message(command) => message::message(context, &command),
        Command::Ping(arguments) => ping::ping(context, &arguments),
        Command::State(command) => state::state(context, &command),
        Command::Stats(arguments) => stats::stats(context, &arguments),
        Command::Storage(command) => storage::storage(context, &command),
        Command::Token(command) => token::token(context, command),
        Command::Doctor => doctor::doctor(context),
        Command::Completions(arguments) => completions::completions(&arguments),
        Command::Keeper => praas_server::keeper::run().map_err(|error| ServerFailure::from(error).into()),
        Command::DemoWorker => crate::demo::application::application().run(),
    }
}

/// A token from its file, without the line end that tools leave behind it.
pub(crate) fn read_token(path: &Path) -> Result<String, Failure> {
    let file = std::fs::File::open(path).map_err(Failure::file("opening", path))?;
    let mut text = String::new();
    let limit = praas_protocol::limits::TOKEN_BYTES_MAX as u64 + 2;
    file.take(limit).read_to_string(&mut text).map_err(Failure::file("reading", path))?;
    Ok(text.trim().to_owned())
}

/// The manifest that a path means: itself, or the one in it.
pub(crate) fn manifest_path(path: &Path) -> PathBuf {
    if path.is_dir() { path.join(MANIFEST_FILE) } else { path.to_owned() }
}

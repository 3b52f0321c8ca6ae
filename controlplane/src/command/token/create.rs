//! `praas token create`: signs claims with the secret of a server's data directory. The server need not run.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{ArgGroup, Args, ValueEnum};
use praas_protocol::token::{Claims, Rights, Scope};
use praas_protocol::{Name, ProcessId};
use praas_server::read_secret;
use serde_json::json;

use crate::command::Context;
use crate::failure::Failure;
use crate::limits::TOKEN_VALIDITY_MAX;

/// What its help begins with.
pub(crate) const LONG_ABOUT: &str = "\
Makes a token and prints it. A client shows it when it connects; the server checks it once. It is a bearer's token: whoever \
holds it has its rights until it expires, so keep it in a file of mode 0600. It is signed with the secret in the server's \
data directory, so only the user that the server runs as can make one.";

const EXAMPLES: &str = "\
Examples:
  praas token create --process hello/alice --expires 12h           call hello/alice for half a day
  praas token create --application hello --rights invoke,manage --expires 30d
  praas token create --any --rights invoke --expires never --principal monitor > monitor.token
  praas token create --application shop --rights invoke,messages --expires 12h    call, and exchange messages
  praas token create --any --rights invoke,trusted,state,messages --expires never --principal host-b > for-host-b.token

The last one is for another server, which shows it when it is started with `praas serve --peer ADDRESS=for-host-b.token`: its \
processes call those of this server and exchange messages with them as if they were here. Without the right trusted it would speak \
for itself alone and not for its processes.";

/// Arguments of `praas token create`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
#[command(group = ArgGroup::new("scope").required(true).args(["process", "application", "any"]))]
pub struct TokenCreateArguments {
    /// For one process, such as hello/alice
    #[arg(long, value_name = "APPLICATION/PROCESS")]
    pub process: Option<ProcessId>,
    /// For every process of an application
    #[arg(long, value_name = "APPLICATION")]
    pub application: Option<Name>,
    /// For every process of every application
    #[arg(long)]
    pub any: bool,
    /// What it allows, separated by commas
    #[arg(long, value_name = "RIGHTS", value_delimiter = ',', default_value = "invoke")]
    pub rights: Vec<Right>,
    /// How long it is valid, such as 30m, 12h or 30d; or never
    #[arg(long, value_name = "TIME", value_parser = validity)]
    pub expires: Validity,
    /// Who holds it, for logs and for functions that ask who calls
    #[arg(long, value_name = "NAME", default_value = "client")]
    pub principal: Name,
}

/// One right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Right {
    /// Call functions
    Invoke,
    /// Create, list, stop and restart processes, and read their output
    Manage,
    /// On the same host, share memory with functions without copies, and as a server speak for processes: only for programs and
    /// servers that you trust as the application
    Trusted,
    /// Read and write the state of processes from outside, past their functions
    State,
    /// Send messages to processes, and receive theirs
    Messages,
}

impl From<Right> for Rights {
    fn from(right: Right) -> Self {
        match right {
            Right::Invoke => Self::INVOKE,
            Right::Manage => Self::MANAGE,
            Right::Trusted => Self::TRUSTED,
            Right::State => Self::STATE,
            Right::Messages => Self::MESSAGES,
        }
    }
}

/// How long a token is valid; `None` for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity(pub Option<Duration>);

fn validity(text: &str) -> Result<Validity, &'static str> {
    const ADVICE: &str =
        "write a whole number with its unit, such as 90s, 30m, 12h or 30d, at most ten years; or never";
    if text == "never" {
        return Ok(Validity(None));
    }
    let unit_start = text.find(|c: char| !c.is_ascii_digit()).ok_or(ADVICE)?;
    let (number, unit) = text.split_at(unit_start);
    let unit_seconds = match unit {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(ADVICE),
    };
    let seconds = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit_seconds)).ok_or(ADVICE)?;
    let duration = Duration::from_secs(seconds);
    if duration.is_zero() || duration > TOKEN_VALIDITY_MAX { Err(ADVICE) } else { Ok(Validity(Some(duration))) }
}

/// Makes a token.
///
/// # Errors
/// [`Failure::Secret`] when the data directory has no secret that can be used.
pub fn create(context: &Context, arguments: &TokenCreateArguments) -> Result<(), Failure> {
    let secret = read_secret(&context.data_directory()?)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let claims = Claims {
        principal: arguments.principal,
        scope: scope(arguments),
        rights: arguments.rights.iter().fold(Rights::NONE, |rights, &right| rights.with(right.into())),
        expires_unix_s: arguments.expires.0.map(|validity| now.saturating_add(validity).as_secs()),
    };
    let token = secret.sign(&claims);
    let output = context.output();
    output.value(&json!({
        "token": token,
        "principal": claims.principal.to_string(),
        "expires_unix_s": claims.expires_unix_s,
    }))?;
    output.line(token)
}

fn scope(arguments: &TokenCreateArguments) -> Scope {
    match (arguments.process, arguments.application) {
        (Some(process), _) => Scope::Process(process),
        (None, Some(application)) => Scope::Application(application),
        (None, None) => Scope::Any,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn validities_read_as_written_and_anything_else_is_refused() {
        let seconds = |text| validity(text).map(|Validity(validity)| validity.map(|validity| validity.as_secs()));
        assert_eq!(seconds("90s"), Ok(Some(90)));
        assert_eq!(seconds("30m"), Ok(Some(1800)));
        assert_eq!(seconds("12h"), Ok(Some(43_200)));
        assert_eq!(seconds("30d"), Ok(Some(2_592_000)));
        assert_eq!(seconds("never"), Ok(None));
        for text in ["", "5", "0s", "1.5h", "-1h", "1w", "99999999999999999999d", "4000d", "Never"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}

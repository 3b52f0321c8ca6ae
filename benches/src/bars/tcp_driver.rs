//! `tcp-driver`: the same echo on many connections by either of the project's network drivers, by tokio-uring and by a
//! bare epoll loop, all with the same load. The driver that is chosen by default has to be the better one.

use praas_sys::driver::{DriverKind, IoUringRefusal, probe};

use super::{Bar, BarError, Settings};
use crate::floors::{Config, Crowd, EchoServer, FloorError, Placement, TcpCrowd};
use crate::interleave::{Outcome, Turn};
use crate::report::{Case, Condition, Row};

pub(super) const BAR: Bar =
    Bar { id: "tcp-driver", summary: "an echo by io_uring, by epoll and by tokio-uring, at 1 to 512 connections", run };

/// Connections, each with one frame in flight, and samples that take about a tenth of a second.
const CROWDS: [(usize, u64); 3] = [(1, 1_000), (64, 80), (512, 12)];

fn run(settings: Settings) -> Result<Vec<Row>, BarError> {
    let granted = probe();
    let mut rows = Vec::new();
    for (connections, samples) in CROWDS {
        rows.extend(at(Crowd { connections, in_flight: 1 }, samples, granted.err(), settings)?);
    }
    Ok(rows)
}

/// The rows for one number of connections; `refused` is why there is no io_uring.
fn at(crowd: Crowd, samples: u64, refused: Option<IoUringRefusal>, settings: Settings) -> Result<Vec<Row>, BarError> {
    let config = Config::new(Placement::two_cores()?);
    let servers = servers(refused);
    let open = |server: &EchoServer| TcpCrowd::open(*server, crowd, &config);
    let mut series = servers.iter().map(open).collect::<Result<Vec<_>, FloorError>>()?;
    let batch = settings.batch(samples);
    let mut turns: Vec<Turn<'_>> = series.iter_mut().map(|series| Turn::new(series, batch)).collect();
    let outcomes = settings.interleave(BAR.id, &mut turns)?;
    let outcome = |server| servers.iter().position(|other| *other == server).map(|index| &outcomes[index]);

    // What a server takes unless told otherwise.
    let (default, default_server) = (DriverKind::Epoll, EchoServer::EpollDriver);
    let other = refused.map_or(Ok(EchoServer::IoUringDriver), Err);
    let figure = per_second(outcome(default_server));
    let placement = config.placement_label();
    let judge = |what: &str, floor: Option<&Outcome>, absent: &str, condition| {
        let case = format!("{} connection(s), default driver ({default}); floor: {what}", crowd.connections);
        let case = Case { id: BAR.id, case: &case, placement: &placement, unit: "echoes/s" };
        match floor {
            Some(floor) => case.judge_rounds(&figure, &per_second(Some(floor)), condition),
            None => case.without_floor(&figure, condition, absent),
        }
    };
    let better = Condition::AtLeastTimesFloor(1.0);
    let against_other = match other {
        Ok(server) => judge("io_uring driver", outcome(server), "", better),
        Err(refusal) => judge("io_uring driver", None, &refusal.to_string(), better),
    };
    Ok(vec![
        against_other,
        judge("tokio-uring", tokio_uring().and_then(outcome), "build with `--features tokio-uring`", better),
        judge("bare epoll loop", outcome(EchoServer::Epoll), "", Condition::Reported),
    ])
}

fn servers(refused: Option<IoUringRefusal>) -> Vec<EchoServer> {
    let mut servers = vec![EchoServer::Epoll, EchoServer::EpollDriver];
    if refused.is_none() {
        servers.push(EchoServer::IoUringDriver);
        servers.extend(tokio_uring());
    }
    servers
}

#[cfg(feature = "tokio-uring")]
fn tokio_uring() -> Option<EchoServer> {
    Some(EchoServer::TokioUring)
}

#[cfg(not(feature = "tokio-uring"))]
fn tokio_uring() -> Option<EchoServer> {
    None
}

fn per_second(outcome: Option<&Outcome>) -> Vec<f64> {
    outcome.map(|outcome| outcome.of_rounds(|round| 1e9 / round.p50_ns)).unwrap_or_default()
}

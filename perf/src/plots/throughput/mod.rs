//! `throughput`: calls a second by connections and by calls in flight, over TCP and over a lane; and how long calls take at a
//! given rate.

mod closed;
mod lane;
mod open;

use super::Plot;
use crate::harness::Run;
use crate::report::build::{Axes, lines_by_x};
use crate::report::drawing::Drawing;
use crate::report::readable;
use crate::row::Rows;

const ID: &str = "throughput";

/// The plot.
pub(super) const PLOT: Plot =
    Plot { id: ID, title: "Calls a second, and latency at a given rate", method: METHOD, measure, drawings, meaning };

const METHOD: &str = "No-op calls of 64 B, each answer checked. Over TCP of loopback, one thread on one core loads 1 to 64 \
    connections: as many calls as the depth says leave in one write, and the next ones when all are answered; server and \
    worker have the other core and wait as they do by default. The same thread loads Redis with GETs of a value of 64 B, and a \
    raw echo of frames as long as a call. Over shared memory, one thread keeps calls in flight in a Pipeline and both sides \
    spin, beside a bare ring with as many in flight. A figure is the median over the rounds of operations a second. Latency \
    at a given rate: one caller calls at fixed instants, and each call counts from the instant at which it was due, not from \
    when the caller came to it; what was not begun some time after the end counts with the time that it had waited.";

fn measure(run: &mut Run) {
    let network = closed::Network::open();
    closed::measure(run, &network);
    lane::measure(run);
    open::measure(run, &network);
}

fn drawings(rows: &Rows) -> Vec<Drawing> {
    let axes = |x_label, y_label| Axes { x_label, y_label, x_logarithmic: true, y_logarithmic: true };
    let by_connections = |depth: u32| {
        let names = closed::NAMES.map(|name| closed::series(name, depth));
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let title = match depth {
            1 => "One call in flight on each connection".to_owned(),
            _ => format!("{depth} calls in flight on each connection"),
        };
        lines_by_x(rows, ID, &title, &axes("TCP connections", "Calls a second"), &names)
    };
    let lane = lines_by_x(
        rows,
        ID,
        "One thread over shared memory",
        &axes("Calls in flight", "Calls a second"),
        &[lane::SERIES, lane::FLOOR],
    );
    let open = lines_by_x(
        rows,
        ID,
        "Latency at a given rate, counted from when a call was due (medians)",
        &axes("Calls a second asked for", "From due to done"),
        &open::SERIES,
    );
    [closed::DEPTHS.map(by_connections).concat(), lane, open].concat()
}

fn meaning(rows: &Rows) -> Option<String> {
    let many = closed::CONNECTIONS[closed::CONNECTIONS.len() - 1];
    let depth = closed::DEPTHS[closed::DEPTHS.len() - 1];
    let at = |series: &str, x: f64| rows.at(ID, series, x, None).and_then(|row| row.p50);
    let rate = |name| at(&closed::series(name, depth), many as f64);
    let (dedicated, brokered) = (rate(closed::DEDICATED)?, rate(closed::BROKERED)?);
    let mut words = format!(
        "Over {many} connections with {depth} calls in flight each, one core answers at {} ({} through the server)",
        readable::figure(dedicated, "1/s"),
        readable::figure(brokered, "1/s"),
    );
    if let Some(redis) = rate(closed::REDIS) {
        words += &format!(", where Redis answers at {}", readable::figure(redis, "1/s"));
    }
    let deepest = f64::from(lane::DEPTHS[lane::DEPTHS.len() - 1]);
    if let Some(lane) = at(lane::SERIES, deepest) {
        words += &format!("; one thread over shared memory calls at {}", readable::figure(lane, "1/s"));
    }
    Some(words + ".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_series_have_one_name() {
        let closed = closed::DEPTHS.map(|depth| closed::NAMES.map(|name| closed::series(name, depth))).concat();
        let others = [lane::SERIES, lane::FLOOR].into_iter().chain(open::SERIES).map(str::to_owned);
        let mut all: Vec<String> = closed.into_iter().chain(others).collect();
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}

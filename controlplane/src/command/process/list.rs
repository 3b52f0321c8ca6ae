//! `praas process list`.

use std::time::{Duration, UNIX_EPOCH};

use praas_client::ProcessStatus;
use serde_json::{Value, json};

use crate::command::Context;
use crate::failure::Failure;
use crate::size::readable_bytes;
use crate::table::Columns;

/// Lists the processes that the token covers.
///
/// # Errors
/// [`Failure`] when the server does not answer.
pub fn list(context: &Context) -> Result<(), Failure> {
    let client = context.client()?;
    let processes = client.list()?;
    let output = context.output();
    output.value(&json!({ "processes": processes.iter().map(as_json).collect::<Vec<Value>>() }))?;
    if !processes.is_empty() || output.is_json() {
        return output.line(as_text(&processes));
    }
    let applications: Vec<String> = client.applications()?.iter().map(ToString::to_string).collect();
    output.line(match applications.first() {
        None => "there are no processes, and this server serves no application".to_owned(),
        Some(first) => format!(
            "there are no processes; create one, such as `praas process create {first}/alice` (applications: {})",
            applications.join(", ")
        ),
    })
}

fn as_json(status: &ProcessStatus) -> Value {
    json!({
        "process": status.process.to_string(),
        "state": status.state,
        "workers": status.workers,
        "worker_pids": status.worker_pids,
        "lanes": status.lanes,
        "worker_restarts": status.worker_restarts,
        "last_exit": status.last_exit,
        "calls_reported": status.calls_reported,
        "stored_bytes": status.stored_bytes,
        "last_swap_unix_ms": status.last_swap_unix_ms,
    })
}

fn as_text(processes: &[ProcessStatus]) -> String {
    let mut columns = Columns::new(&[
        "PROCESS",
        "STATE",
        ">WORKERS",
        ">CLIENT LANES",
        ">CALLS",
        ">REPLACED",
        ">STORED",
        "LAST SWAP",
        "LAST EXIT",
    ]);
    for status in processes {
        columns.row(vec![
            status.process.to_string(),
            status.state.to_string(),
            status.workers.to_string(),
            status.lanes.to_string(),
            status.calls_reported.to_string(),
            status.worker_restarts.to_string(),
            stored(status),
            status.last_swap_unix_ms.map_or_else(|| "-".to_owned(), readable_time),
            status.last_exit.as_deref().unwrap_or("-").lines().next().unwrap_or("-").to_owned(),
        ]);
    }
    columns.render("")
}

fn stored(status: &ProcessStatus) -> String {
    match (status.stored_bytes, status.last_swap_unix_ms) {
        (0, None) => "-".to_owned(),
        (bytes, _) => readable_bytes(bytes),
    }
}

fn readable_time(unix_ms: u64) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(unix_ms)).to_string()
}

#[cfg(test)]
mod tests {
    use praas_client::ProcessState;

    use super::*;

    fn status() -> ProcessStatus {
        ProcessStatus {
            process: "hello/alice".parse().unwrap(),
            state: ProcessState::Active,
            workers: 1,
            worker_pids: vec![7],
            lanes: 2,
            worker_restarts: 3,
            last_exit: Some("killed by signal 9".into()),
            calls_reported: 4,
            stored_bytes: 3 << 19,
            last_swap_unix_ms: Some(1_763_800_000_000),
        }
    }

    #[test]
    fn programs_get_ids_as_people_write_them() {
        let value = as_json(&status());
        assert_eq!((&value["process"], &value["state"]), (&json!("hello/alice"), &json!("active")));
    }

    #[test]
    fn people_get_one_line_a_process() {
        let text = as_text(&[status()]);
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.contains("hello/alice") && text.contains("killed by signal 9"), "{text}");
        assert!(text.contains("1.5 MiB") && text.contains("2025-11-22T"), "{text}");
        let never = ProcessStatus { stored_bytes: 0, last_swap_unix_ms: None, ..status() };
        assert!(!as_text(&[never]).contains("MiB"));
    }
}

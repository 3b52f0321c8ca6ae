//! `praas process list`.

use praas_client::ProcessStatus;
use serde_json::{Value, json};

use crate::command::Context;
use crate::failure::Failure;
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
    })
}

fn as_text(processes: &[ProcessStatus]) -> String {
    let mut columns =
        Columns::new(&["PROCESS", "STATE", ">WORKERS", ">CLIENT LANES", ">CALLS", ">REPLACED", "LAST EXIT"]);
    for status in processes {
        columns.row(vec![
            status.process.to_string(),
            status.state.to_string(),
            status.workers.to_string(),
            status.lanes.to_string(),
            status.calls_reported.to_string(),
            status.worker_restarts.to_string(),
            status.last_exit.as_deref().unwrap_or("-").lines().next().unwrap_or("-").to_owned(),
        ]);
    }
    columns.render("")
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
    }
}

//! `praas storage usage`.

use praas_client::{StoragePage, StoredFolder};
use serde_json::{Value, json};

use crate::command::Context;
use crate::failure::Failure;
use crate::size::readable_bytes;
use crate::table::Columns;

/// Shows how much is stored of which process.
///
/// # Errors
/// [`Failure`], mostly the server's refusal.
pub fn usage(context: &Context) -> Result<(), Failure> {
    let usage = context.client()?.storage_usage()?;
    let output = context.output();
    output.value(&json!({
        "place": usage.place,
        "bytes": bytes_of(&usage),
        "processes": usage.folders.iter().map(as_json).collect::<Vec<_>>(),
    }))?;
    output.line(as_text(&usage))
}

fn bytes_of(usage: &StoragePage) -> u64 {
    usage.folders.iter().map(|folder| folder.bytes).fold(0, u64::saturating_add)
}

fn as_json(folder: &StoredFolder) -> Value {
    json!({
        "process": folder.process.to_string(),
        "incarnation": folder.incarnation,
        "state": folder.state,
        "blobs": folder.blobs,
        "bytes": folder.bytes,
        "leftover_bytes": folder.leftover_bytes,
    })
}

fn as_text(usage: &StoragePage) -> String {
    if usage.folders.is_empty() {
        return format!("nothing is stored in {}", usage.place);
    }
    let mut columns = Columns::new(&["PROCESS", "STATE", ">BLOBS", ">STORED", ">LEFT OVER"]);
    for folder in &usage.folders {
        columns.row(vec![
            folder.process.to_string(),
            // Of a life that is over, or of a process that another server has.
            folder.state.map_or_else(|| "not here".to_owned(), |state| state.to_string()),
            folder.blobs.to_string(),
            readable_bytes(folder.bytes),
            // Of swaps that failed or crashed; gone when the process sleeps again or is stopped.
            readable_bytes(folder.leftover_bytes),
        ]);
    }
    format!("{}\n\n{} in {}", columns.render(""), readable_bytes(bytes_of(usage)), usage.place)
}

#[cfg(test)]
mod tests {
    use praas_client::ProcessState;

    use super::*;

    #[test]
    fn people_see_a_line_a_process_and_the_sum() {
        let folder = |name: &str, state, bytes| StoredFolder {
            process: format!("notes/{name}").parse().unwrap(),
            incarnation: 7,
            state,
            blobs: 2,
            bytes,
            leftover_bytes: bytes / 4,
        };
        let folders = vec![folder("alice", Some(ProcessState::Swapped), 1 << 20), folder("bob", None, 1 << 19)];
        let text = as_text(&StoragePage { place: "/var/praas/swapped".to_owned(), folders });
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].contains("notes/alice") && lines[1].contains("swapped") && lines[1].contains("1.0 MiB"));
        assert!(lines[1].ends_with("256 KiB"), "{text}");
        assert!(lines[2].contains("notes/bob") && lines[2].contains("not here"), "{text}");
        assert_eq!(lines.last(), Some(&"1.5 MiB in /var/praas/swapped"));
        let empty = StoragePage { place: "s3://bucket".to_owned(), folders: Vec::new() };
        assert_eq!(as_text(&empty), "nothing is stored in s3://bucket");
    }
}

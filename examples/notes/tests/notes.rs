//! The functions, called over real lanes in this very process: no server is needed.

use std::time::{Duration, UNIX_EPOCH};

use notes::{NO_SUCH_NOTE, Page, Reminder};
use praas_client::CallError;
use praas_function::testing::{Harness, HarnessOptions};

fn page(title: &str, text: &str) -> Page {
    Page { title: title.to_owned(), text: text.to_owned() }
}

#[test]
fn notes_are_written_over_read_found_and_forgotten() {
    let harness = Harness::new(notes::application).unwrap();
    assert_eq!(harness.invoke("titles", b"").unwrap(), b"");
    assert_eq!(harness.invoke_typed::<u64>("write", &page("shopping", "bread")).unwrap(), 1);
    assert_eq!(harness.invoke_typed::<u64>("write", &page("shopping", "Bread and butter")).unwrap(), 2);
    assert_eq!(harness.invoke_typed::<u64>("write", &page("garden", "water the beans")).unwrap(), 1);
    assert_eq!(harness.invoke("read", b"shopping").unwrap(), b"Bread and butter");
    assert_eq!(harness.invoke("titles", b"").unwrap(), b"garden\nshopping");
    assert_eq!(harness.invoke("find", b"BUTTER").unwrap(), b"shopping");
    harness.invoke("forget", b"shopping").unwrap();
    let gone = harness.invoke("read", b"shopping").unwrap_err();
    assert!(matches!(gone, CallError::FunctionFailed { code: NO_SUCH_NOTE, .. }), "{gone}");
    assert_eq!(harness.invoke("titles", b"").unwrap(), b"garden");
}

#[test]
fn reminders_come_at_their_times_also_to_a_process_that_has_slept() {
    let harness = Harness::new(notes::application).unwrap();
    for (at_unix_s, text) in [(2_000, "second"), (1_000, "first"), (9_000, "last")] {
        harness.invoke_typed::<u64>("remind", &Reminder { at_unix_s, text: text.to_owned() }).unwrap();
    }
    let harness = harness.asleep_and_back(&[]).unwrap();
    let time_is = |unix_s| harness.time_is(UNIX_EPOCH + Duration::from_secs(unix_s)).unwrap();
    time_is(999);
    assert_eq!(harness.invoke("reminders", b"").unwrap(), b"");
    time_is(3_000);
    assert_eq!(harness.invoke("reminders", b"").unwrap(), b"first\nsecond");
    // A clock that is set back brings nothing twice.
    time_is(1_500);
    time_is(3_000);
    assert_eq!(harness.invoke("reminders", b"").unwrap(), b"");
    time_is(9_000);
    assert_eq!(harness.invoke("reminders", b"").unwrap(), b"last");
}

#[test]
fn an_export_is_a_file_that_sleeps_with_the_process() {
    let options = HarnessOptions { files_bytes_max: 1 << 20, ..HarnessOptions::default() };
    let harness = Harness::with_options(options, notes::application).unwrap();
    assert!(harness.invoke("exported", b"").is_err(), "there is none yet");
    for title in ["garden", "shopping"] {
        harness.invoke_typed::<u64>("write", &page(title, "beans")).unwrap();
    }
    assert_eq!(harness.invoke("export", b"").unwrap(), b"36");
    let harness = harness.asleep_and_back(&[]).unwrap();
    assert_eq!(harness.invoke("exported", b"").unwrap(), b"# garden\n\nbeans\n\n# shopping\n\nbeans\n\n");
    harness.invoke_typed::<u64>("write", &page("long", &"x".repeat(1 << 20))).unwrap();
    let full = harness.invoke("export", b"").unwrap_err().to_string();
    assert!(full.contains("36 bytes") && full.contains("do not fit 1048576"), "{full}");
}

#[test]
fn many_notes_are_listed_page_by_page() {
    let harness = Harness::new(notes::application).unwrap();
    let titles: Vec<String> = (0..2500).map(|number| format!("note {number:04}")).collect();
    for title in &titles {
        harness.invoke_typed::<u64>("write", &page(title, title)).unwrap();
    }
    assert_eq!(harness.invoke("titles", b"").unwrap(), titles.join("\n").as_bytes());
    assert_eq!(harness.invoke("find", b"note 123").unwrap().split(|&byte| byte == b'\n').count(), 10);
}

//! The functions, called over real lanes in this very process: no server is needed.

use notes::{NO_SUCH_NOTE, Page};
use praas_client::CallError;
use praas_function::testing::Harness;

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
fn many_notes_are_listed_page_by_page() {
    let harness = Harness::new(notes::application).unwrap();
    let titles: Vec<String> = (0..2500).map(|number| format!("note {number:04}")).collect();
    for title in &titles {
        harness.invoke_typed::<u64>("write", &page(title, title)).unwrap();
    }
    assert_eq!(harness.invoke("titles", b"").unwrap(), titles.join("\n").as_bytes());
    assert_eq!(harness.invoke("find", b"note 123").unwrap().split(|&byte| byte == b'\n').count(), 10);
}

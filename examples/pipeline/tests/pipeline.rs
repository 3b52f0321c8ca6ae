//! The processes of a pipeline, over real lanes and mailboxes in this very process: no server is needed.

use std::thread;
use std::time::Duration;

use pipeline::{COLLECTOR, Job, SOURCE};
use praas_client::CallError;
use praas_function::testing::Harness;

fn job(stages: &[String], text: &str) -> Job {
    Job { stages: stages.to_vec(), text: text.to_owned() }
}

/// The parts of a pipeline with so many stages, called like their processes.
fn pipeline(stage_count: usize) -> (Harness, Harness, Vec<(String, Harness)>) {
    let any = Harness::new(pipeline::application).unwrap();
    let part = |name: &str| any.another(name).unwrap();
    let stages = (1..=stage_count).map(|number| format!("stage-{number}"));
    (part(SOURCE), part(COLLECTOR), stages.map(|name| (name.clone(), part(&name))).collect())
}

/// Runs the whole pipeline, its parts called in no particular order.
fn count_words(stage_count: usize, text: &str) -> Vec<u32> {
    let (source, collector, stages) = pipeline(stage_count);
    let names: Vec<String> = stages.iter().map(|(name, _)| name.clone()).collect();
    thread::scope(|scope| {
        let collecting = scope.spawn(|| collector.invoke_typed::<Vec<u32>>("collect", &names).unwrap());
        for (_, stage) in &stages {
            scope.spawn(|| stage.invoke_typed::<()>("work", &()).unwrap());
        }
        let lines = source.invoke_typed::<u32>("feed", &job(&names, text)).unwrap();
        assert_eq!(lines as usize, text.lines().count());
        collecting.join().unwrap()
    })
}

#[test]
fn the_words_of_each_line_are_counted_by_whatever_number_of_stages() {
    let text = "a line of five words\n\n  and  one of six,  spaced widely\nlast";
    for stages in 1..=5 {
        assert_eq!(count_words(stages, text), [5, 0, 6, 1], "{stages} stages");
    }
}

#[test]
fn a_long_text_waits_in_mailboxes_and_none_of_it_is_lost() {
    let text: Vec<String> = (0..5000).map(|number| vec!["word"; number % 17].join(" ")).collect();
    let expected: Vec<u32> = (0..5000).map(|number| number % 17).collect();
    assert_eq!(count_words(3, &text.join("\n")), expected);
}

#[test]
fn parts_that_are_called_later_find_what_was_sent_to_them() {
    let (source, collector, stages) = pipeline(2);
    let names: Vec<String> = stages.iter().map(|(name, _)| name.clone()).collect();
    source.invoke_typed::<u32>("feed", &job(&names, "one\ntwo words\nand three words")).unwrap();
    for (_, stage) in &stages {
        stage.invoke_typed::<()>("work", &()).unwrap();
    }
    assert_eq!(collector.invoke_typed::<Vec<u32>>("collect", &names).unwrap(), [1, 2, 3]);
}

#[test]
fn a_stage_hears_the_source_alone_and_gives_up_with_its_caller() {
    let (_, _, stages) = pipeline(1);
    let (name, stage) = &stages[0];
    let stranger = stage.correspondent("stranger").unwrap();
    stranger.send(name, "lines", b"\0\0\0\0not for you").unwrap();
    let working = stage.begin("work", b"", Some(Duration::from_millis(50))).unwrap();
    assert!(matches!(working.wait(), Err(CallError::DeadlineExceeded { .. })));
}

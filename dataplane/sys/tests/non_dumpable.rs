//! A server is non-dumpable, which closes its own `/proc` files: workers must start all the same. Alone in its program,
//! because it changes the whole process.

mod common;

use common::{Scratch, finish, script, shell_plan};
use praas_sys::{Spawner, process_self};

#[test]
fn a_non_dumpable_server_starts_workers() {
    process_self::set_non_dumpable().expect("prctl");
    let scratch = Scratch::new();
    let sandbox = shell_plan(&scratch).prepare(None).expect("prepare");
    let spawner = Spawner::start().expect("spawner");
    let text = "read line < /proc/self/status && echo $line; echo data > file && cat file";
    let ended = finish(spawner.spawn(script(&sandbox, text)).expect("spawn"));
    assert!(ended.exit.is_success(), "{ended:?}");
    assert!(ended.stdout.ends_with("data\n") && ended.stdout.starts_with("Name:"), "{ended:?}");
}

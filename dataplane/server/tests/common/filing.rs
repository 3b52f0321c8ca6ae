//! Processes that keep files: functions that write, look at and misuse them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use praas_function::{Call, FunctionResult};
use praas_server::Application;

use crate::common::sleeping::{scattered, sleeping, sum_of};

/// Bytes of files that each process may sleep with.
pub(crate) const FILES_BYTES_MAX: u64 = 64 << 20;

/// Serves as a worker: functions of files, beside those of processes that sleep.
pub(crate) fn serve() {
    functions(crate::common::sleeping::functions(praas_function::Application::new())).run()
}

fn text(call: &Call<'_>) -> String {
    String::from_utf8_lossy(call.input()).into_owned()
}

/// Adds these functions.
fn functions(application: praas_function::Application) -> praas_function::Application {
    application
        .function("file-put", |call: &mut Call<'_>| {
            let text = text(call);
            let words: Vec<_> = text.split(' ').collect();
            let path = call.context().files()?.join(words[0]);
            fs::create_dir_all(path.parent().expect("a path within the directory"))?;
            fs::write(path, scattered(words[1].parse()?, words[2].parse()?))?;
            FunctionResult::Ok(())
        })
        .function("file-told", |call: &mut Call<'_>| {
            let path = call.context().files()?.join(text(call));
            FunctionResult::Ok(match fs::read(path) {
                Ok(bytes) => format!("{} {:016x}", bytes.len(), sum_of(&bytes)),
                Err(error) => error.kind().to_string(),
            })
        })
        .function("file-list", |call: &mut Call<'_>| {
            let mut names = Vec::new();
            list(&call.context().files()?, "", &mut names)?;
            names.sort();
            FunctionResult::Ok(names.join(" "))
        })
        .function("file-remove", |call: &mut Call<'_>| {
            fs::remove_file(call.context().files()?.join(text(call)))?;
            FunctionResult::Ok(())
        })
        .function("file-room", |call: &mut Call<'_>| {
            let asked = text(call).parse()?;
            let files = call.context().files();
            let room = files.and_then(|files| files.ensure_room(asked));
            FunctionResult::Ok(room.map_or_else(|error| error.to_string(), |()| "room".into()))
        })
        .function("file-misuse", |call: &mut Call<'_>| {
            let text = text(call);
            let words: Vec<_> = text.split(' ').collect();
            let path = call.context().files()?.join(words[1]);
            let done = match words[0] {
                "symbolic" => symlink(words[2], path),
                "hard" => fs::hard_link(words[2], path),
                "write" => fs::write(path, words[2]),
                "read" => fs::read(path).map(drop),
                "pipe" => rustix::fs::mkfifoat(rustix::fs::CWD, path, rustix::fs::Mode::RWXU).map_err(Into::into),
                other => panic!("{other}"),
            };
            FunctionResult::Ok(done.map_or_else(|error| error.kind().to_string(), |()| "done".into()))
        })
        .function("file-shell", |call: &mut Call<'_>| {
            let output = std::process::Command::new("/bin/sh")
                .arg("-c")
                .arg("cat \"$0/text\" && printf more > \"$0/by-shell\"")
                .arg(&*call.context().files()?)
                .output()?;
            FunctionResult::Ok(format!("{}{:?}", String::from_utf8_lossy(&output.stderr), output.stdout.len()))
        })
}

fn list(directory: &Path, above: &str, names: &mut Vec<String>) -> FunctionResult<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = format!("{above}{}", entry.file_name().display());
        if entry.file_type()?.is_dir() {
            list(&entry.path(), &format!("{name}/"), names)?;
        }
        names.push(name);
    }
    Ok(())
}

/// An application of such processes.
pub(crate) fn filing() -> Application {
    let mut application = sleeping();
    application.limits.files_bytes_max = FILES_BYTES_MAX;
    application
}

/// Files directories that a server has.
pub(crate) fn directories(data: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(data.join("files")) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

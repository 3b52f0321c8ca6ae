//! The functions of the application `notes`: each user has a process of their own, which sleeps while they are away.
//!
//! Nothing here knows of that. A note is an object of the process; when nobody has called for a while, the server stores all of
//! them and gives the process's memory and worker up, and the first call afterwards finds every note where it was. A reminder wakes the
//! process at its time. Exports are files of the process, which sleep with it too.
#![forbid(unsafe_code)]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use praas_function::{Application, Call, Context, FunctionError, FunctionResult, SELF, StateType};
use rkyv::{Archive, Deserialize, Serialize};

/// What is kept under a note's title.
#[derive(Debug, Clone, PartialEq, Eq, Default, Archive, Serialize, Deserialize)]
pub struct Note {
    /// What it says.
    pub text: String,
    /// How often it was written.
    pub revision: u64,
    /// When it was written last, in seconds since 1970.
    pub written_unix_s: u64,
}

impl StateType for Note {
    const NAME: &'static str = "note";
}

/// What `write` takes.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Page {
    /// The note's title.
    pub title: String,
    /// What it is to say.
    pub text: String,
}

/// What `remind` takes.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Reminder {
    /// When it is to come, in seconds since 1970.
    pub at_unix_s: u64,
    /// What it is to say.
    pub text: String,
}

/// Reminders come as messages of the process to itself, under this key.
const REMINDERS: &str = "reminders";

/// Keys of notes begin so: an application may keep other objects beside them.
const PREFIX: &str = "note/";

/// The file that `export` writes, in the files directory of the process.
const EXPORT: &str = "notes.md";

/// `read` fails with this code where there is no such note.
pub const NO_SUCH_NOTE: u32 = 1;

/// The application: every worker of its processes makes one.
#[must_use]
pub fn application() -> Application {
    Application::new()
        .function("export", export)
        .function("exported", exported)
        .function("find", find)
        .function("forget", forget)
        .function("read", read)
        .function("reminders", reminders)
        .function("titles", titles)
        .typed("remind", remind)
        .typed("write", write)
}

/// Writes a note, over what it said before; answers with its revision.
fn write(context: &Context, page: &ArchivedPage) -> FunctionResult<u64> {
    let written_unix_s = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let mut revision = 0;
    context.update(&key_of(&page.title), |note: Option<Note>| {
        revision = note.map_or(0, |note| note.revision) + 1;
        Note { text: page.text.to_string(), revision, written_unix_s }
    })?;
    Ok(revision)
}

/// The text of the note whose title is the input.
fn read(call: &mut Call) -> FunctionResult<String> {
    let title = std::str::from_utf8(call.input())?;
    let note = call.context().state::<Note>(&key_of(title))?;
    let note = note.ok_or_else(|| FunctionError::new(NO_SUCH_NOTE, format!("there is no note {title:?}")))?;
    Ok(note.text.to_string())
}

/// Removes the note whose title is the input.
fn forget(call: &mut Call) -> FunctionResult {
    let title = std::str::from_utf8(call.input())?;
    call.context().delete(&key_of(title))?;
    Ok(())
}

/// Writes all notes into a file, whole or not at all; answers with its bytes. The file sleeps with the process.
fn export(call: &mut Call) -> FunctionResult<String> {
    let context = call.context();
    let mut text = String::new();
    for title in all(&context)? {
        let note = context.state::<Note>(&key_of(&title))?;
        text += &format!("# {title}\n\n{}\n\n", note.map_or_else(String::new, |note| note.text.to_string()));
    }
    let files = context.files()?;
    files.ensure_room(text.len() as u64)?;
    let partial = files.join("notes.md.new");
    std::fs::write(&partial, &text)?;
    std::fs::rename(partial, files.join(EXPORT))?;
    Ok(text.len().to_string())
}

/// What was exported last.
fn exported(call: &mut Call) -> FunctionResult<Vec<u8>> {
    Ok(std::fs::read(call.context().files()?.join(EXPORT))?)
}

/// Has a reminder come at its time, whether the process sleeps then or not; answers with its number.
fn remind(context: &Context, reminder: &ArchivedReminder) -> FunctionResult<u64> {
    let at = UNIX_EPOCH + Duration::from_secs(reminder.at_unix_s.to_native());
    Ok(context.wake_at(at, REMINDERS, reminder.text.as_bytes())?.0)
}

/// The reminders that have come since this was asked last, one a line.
fn reminders(call: &mut Call) -> FunctionResult<String> {
    let context = call.context();
    let mut texts = Vec::new();
    while let Some(message) = context.try_recv(SELF, REMINDERS)? {
        texts.push(String::from_utf8_lossy(message.bytes()).into_owned());
    }
    Ok(texts.join("\n"))
}

/// The titles of all notes, one a line, in order.
fn titles(call: &mut Call) -> FunctionResult<String> {
    Ok(all(&call.context())?.join("\n"))
}

/// The titles of the notes that contain the input, whatever its case.
fn find(call: &mut Call) -> FunctionResult<String> {
    let wanted = std::str::from_utf8(call.input())?.to_lowercase();
    let context = call.context();
    let mut found = Vec::new();
    for title in all(&context)? {
        let note = context.state::<Note>(&key_of(&title))?;
        if note.is_some_and(|note| note.text.to_lowercase().contains(&wanted)) {
            found.push(title);
        }
    }
    Ok(found.join("\n"))
}

fn key_of(title: &str) -> String {
    format!("{PREFIX}{title}")
}

/// The titles of all notes, in order.
fn all(context: &Context) -> FunctionResult<Vec<String>> {
    let mut titles: Vec<String> = Vec::new();
    let mut after = None;
    loop {
        let page = context.list(PREFIX, after.as_deref())?;
        titles.extend(page.objects.iter().filter_map(|object| Some(object.key.strip_prefix(PREFIX)?.to_owned())));
        after = page.objects.into_iter().next_back().map(|last| last.key);
        if !page.more || after.is_none() {
            return Ok(titles);
        }
    }
}

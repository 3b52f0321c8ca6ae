//! A process that is put to sleep and woken: its state has objects of one size whose bytes nothing makes less of, and what it
//! answers is checked by them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use praas_client::{Client, Function, Process, ProcessId};

use super::sleeper_functions::{Content, FILL, LOOK, LOOK_AT_ENDS};
use super::{RunningServer, SubjectError, Trust};

/// The longest that one call may take; waking is part of it.
const CALL_PATIENCE: Duration = Duration::from_secs(120);
/// Bytes that one call puts at most: calls have a limit, large states do not.
const FILL_BYTES: u64 = 256 << 20;
/// Objects that one call puts at most.
const FILL_OBJECTS: u64 = 100_000;
/// What the first content of a process follows from.
const SEED_FIRST: u64 = 1;

/// What a state consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SleeperState {
    /// How many objects.
    pub objects: u64,
    /// Bytes of the value of each, a multiple of 8.
    pub value_bytes: u64,
}

impl SleeperState {
    /// All values together.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.objects * self.value_bytes
    }
}

/// The process; it is stopped when dropped, unless it was [left](Sleeper::leave).
#[derive(Debug)]
pub struct Sleeper {
    // Before the client, over whose connection a lane says goodbye.
    process: Process,
    client: Client,
    id: ProcessId,
    state: SleeperState,
    /// What objects follow from that were changed.
    changed: BTreeMap<u64, u64>,
    seed: u64,
    random: u64,
    is_left: bool,
}

impl Sleeper {
    /// Creates one on this server and fills its state.
    ///
    /// # Errors
    /// Any [`SubjectError`].
    pub fn create(server: &RunningServer, state: SleeperState) -> Result<Self, SubjectError> {
        Self::create_by(&server.connect(Trust::Trusted)?, server.new_sleeper_id(), state)
    }

    /// The same by a client that does more.
    ///
    /// # Errors
    /// Any [`SubjectError`].
    pub fn create_by(client: &Client, id: ProcessId, state: SleeperState) -> Result<Self, SubjectError> {
        client.create(id)?;
        let sleeper = Self::open(client, id, state)?;
        let at_once = (FILL_BYTES / state.value_bytes.max(1)).clamp(1, FILL_OBJECTS);
        let mut first = 0;
        while first < state.objects {
            let objects = at_once.min(state.objects - first);
            sleeper.call(FILL, Content { first, objects, ..sleeper.content() })?;
            first += objects;
        }
        Ok(sleeper)
    }

    /// One that was created before with such a state; it is woken if it sleeps.
    ///
    /// # Errors
    /// [`SubjectError::Request`].
    pub fn open(client: &Client, id: ProcessId, state: SleeperState) -> Result<Self, SubjectError> {
        let (process, client) = (client.process(id)?, client.clone());
        let (changed, seed, random, is_left) = (BTreeMap::new(), SEED_FIRST, SEED_FIRST, false);
        Ok(Self { process, client, id, state, changed, seed, random, is_left })
    }

    /// Leaves it as it is; who opens it again finds what it was created with.
    pub fn leave(mut self) {
        self.is_left = true;
    }

    /// Bytes that are stored of it.
    ///
    /// # Errors
    /// [`SubjectError::Request`].
    pub fn stored_bytes(&self) -> Result<u64, SubjectError> {
        let found = self.client.list()?.into_iter().find(|status| status.process == self.id);
        Ok(found.map_or(0, |status| status.stored_bytes))
    }

    /// Puts it to sleep; how long until it slept.
    ///
    /// # Errors
    /// Any [`SubjectError`].
    pub fn fall_asleep(&self) -> Result<Duration, SubjectError> {
        let begun = Instant::now();
        self.client.swap(self.id)?;
        Ok(begun.elapsed())
    }

    /// Wakes it by a call that looks at every byte of an object drawn at random; how long until its reply.
    ///
    /// # Errors
    /// Any [`SubjectError`].
    pub fn wake(&mut self) -> Result<Duration, SubjectError> {
        let number = self.draw();
        self.look(number)
    }

    /// Wakes it by such a call and then has it look at the ends of all its objects; how long until the first reply, and until it
    /// had seen the last object.
    ///
    /// # Errors
    /// Any [`SubjectError`].
    pub fn wake_whole(&mut self) -> Result<(Duration, Duration), SubjectError> {
        let begun = Instant::now();
        let first = self.wake()?;
        let answer = self.call(LOOK_AT_ENDS, Content { objects: self.state.objects, ..self.content() })?;
        let whole = begun.elapsed();
        if answer != self.state.objects.to_le_bytes() {
            return Err(SubjectError::WrongAnswer {
                function: LOOK_AT_ENDS.name(),
                expected: format!("{} objects", self.state.objects),
                actual: format!("{} bytes", answer.len()),
            });
        }
        Ok((first, whole))
    }

    /// Puts other bytes into so many of its objects, drawn at random.
    ///
    /// # Errors
    /// Any [`SubjectError`].
    pub fn change(&mut self, objects: u64) -> Result<(), SubjectError> {
        let seed = self.seed + 1;
        let mut drawn = BTreeMap::new();
        while (drawn.len() as u64) < objects.min(self.state.objects) {
            drawn.insert(self.draw(), seed);
        }
        for number in drawn.keys() {
            self.call(FILL, Content { first: *number, objects: 1, seed, ..self.content() })?;
        }
        self.changed.append(&mut drawn);
        Ok(())
    }

    /// Looks at every byte of the objects that were changed.
    ///
    /// # Errors
    /// Any [`SubjectError`].
    pub fn check_changed(&self) -> Result<(), SubjectError> {
        self.changed.keys().try_for_each(|number| self.look(*number).map(drop))
    }

    fn look(&self, number: u64) -> Result<Duration, SubjectError> {
        let seed = self.changed.get(&number).copied().unwrap_or(self.seed);
        let begun = Instant::now();
        self.call(LOOK, Content { first: number, objects: 1, seed, ..self.content() })?;
        Ok(begun.elapsed())
    }

    fn content(&self) -> Content {
        Content { first: 0, objects: 0, value_bytes: self.state.value_bytes, seed: self.seed }
    }

    /// The number of an object (xorshift).
    fn draw(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % self.state.objects.max(1)
    }

    fn call(&self, function: Function<'static>, content: Content) -> Result<Vec<u8>, SubjectError> {
        let content = content.to_bytes();
        Ok(self.process.call(function).payload(&content[..]).deadline(CALL_PATIENCE).send()?.to_vec())
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        if !self.is_left {
            // The server ends it in any case, when it ends.
            let _ = self.client.stop(self.id);
        }
    }
}

//! A backend in a Redis server, or any that speaks its protocol and runs its scripts: the quickest place beside memory, and as
//! large as that server's memory.
//!
//! | file | what |
//! |---|---|
//! | `address.rs` | where the server is, and below which prefix our keys lie |
//! | `connections.rs` | connections, deadlines, repetitions, errors |
//! | `scripts.rs` | the keys, and what Redis does in one step |
//!
//! 1. What changes more than one key is one script: Redis runs it whole, beside nothing else. So publishing compares and
//!    stores at once.
//! 2. A revision is random, chosen by who publishes. A publish that is repeated because its answer was lost finds its own.
//! 3. Blobs travel in pieces, so that a long one does not keep others waiting; they are seen when they are whole.
//! 4. *What lasts* is up to the server. With `appendonly yes` and `appendfsync always` each acknowledged write lasts. From
//!    version 7.2 on [`Backend::flush`] and [`Backend::publish`] wait until the append-only file is synced, whatever
//!    `appendfsync` says. Otherwise a crash of that host loses the last second, or all: [`RedisBackend::lasting`] tells.
//! 5. A server that may drop our keys when its memory is full is refused when it is opened.
//!
//! One server, not a cluster: scripts need all keys of a folder in one place.

mod address;
mod connections;
mod scripts;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use ::redis::{Client, RedisResult, cmd};

use self::address::Address;
pub use self::address::SCHEMES;
use self::connections::{Connections, Limited};
use self::scripts::Scripts;
use crate::backend::{
    BLOB_BYTES_MAX, Backend, BlobEntry, LISTED_MAX, MANIFEST_BYTES_MAX, Published, Revision, check_bytes, random_bytes,
    remove_all_blobs,
};
use crate::error::StorageError;
use crate::name::{BlobName, Folder};

/// Time for one operation, unless it is set: a blob of 64 MiB over 20 Mbit/s.
const LIMIT_MS_DEFAULT: u64 = 30_000;
/// What travels in one command. Redis does nothing else meanwhile.
const PIECE_BYTES: usize = 4 << 20;
/// How long a part is kept that nobody goes on with: many times what an operation may take.
const PART_KEPT_S: u64 = 600;
/// Longest string that Redis has: nothing begins behind it.
const STRING_BYTES_MAX: u64 = 512 << 20;
/// Blobs that one script removes.
const REMOVED_AT_ONCE: usize = 500;
/// The version that can be asked to sync its append-only file.
const WAITS_FOR_FILE_FROM: (u32, u32) = (7, 2);
/// Time that it is given for that.
const SYNC_MS: u64 = 10_000;

/// How long what was acknowledged lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lasting {
    /// Until it is removed: the server syncs each write, or is waited for.
    Always,
    /// But for the last second before its host stops.
    LastSecond,
    /// As long as the server runs, or since its last snapshot.
    ServerOnly,
    /// It does not say: it does not let us ask.
    Unknown,
}

/// Blobs and manifests in a Redis server.
pub struct RedisBackend {
    connections: Connections,
    scripts: Scripts,
    prefix: String,
    lasting: Lasting,
    waits_for_file: bool,
}

impl fmt::Debug for RedisBackend {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = formatter.debug_struct("RedisBackend");
        shown.field("connections", &self.connections).field("lasting", &self.lasting).finish_non_exhaustive()
    }
}

impl RedisBackend {
    /// Opens the server of an address such as `redis://HOST:PORT/0?prefix=praas`.
    ///
    /// # Errors
    /// [`StorageError`], which says what to do.
    pub fn open(address: &str) -> Result<Self, StorageError> {
        Self::open_with_limit_ms(address, LIMIT_MS_DEFAULT)
    }

    /// The same with another time for each operation.
    ///
    /// # Errors
    /// [`StorageError`], which says what to do.
    pub fn open_with_limit_ms(address: &str, limit_ms: u64) -> Result<Self, StorageError> {
        let (address, info) = Address::parse(address)?;
        let (prefix, place) = (address.prefix.clone(), address.place());
        let client = Client::open(info).map_err(|error| StorageError::Unusable {
            place: place.clone(),
            reason: error.category().to_owned(),
            advice: "see that the address is right",
        })?;
        let connections = Connections::new(client, address, Duration::from_millis(limit_ms));
        let about = connections
            .run("asking how it is set", |limited| cmd("INFO").arg("everything").query::<String>(limited.now()?))?;
        let evicts = field(&about, "maxmemory_policy").is_some_and(|policy| policy.starts_with("allkeys"));
        if evicts && field(&about, "maxmemory") != Some("0") {
            return Err(StorageError::Unusable {
                place,
                reason: "it drops keys when its memory is full".to_owned(),
                advice: "set its maxmemory-policy to noeviction, or use a server that is not a cache",
            });
        }
        let has_file = field(&about, "aof_enabled") == Some("1");
        let waits_for_file = has_file && version(&about) >= WAITS_FOR_FILE_FROM;
        // Not everybody may ask.
        let fsync = connections.run("asking how it is set", |limited| {
            cmd("CONFIG").arg("GET").arg("appendfsync").query::<BTreeMap<String, String>>(limited.now()?)
        });
        let fsync = fsync.ok().and_then(|mut answer| answer.remove("appendfsync"));
        let lasting = match (has_file, fsync.as_deref()) {
            (false, _) => Lasting::ServerOnly,
            _ if waits_for_file => Lasting::Always,
            (true, Some("always")) => Lasting::Always,
            (true, Some("everysec")) => Lasting::LastSecond,
            (true, Some(_)) => Lasting::ServerOnly,
            (true, None) => Lasting::Unknown,
        };
        Ok(Self { connections, scripts: Scripts::new(), prefix, lasting, waits_for_file })
    }

    /// How long what it acknowledges lasts.
    #[must_use]
    pub fn lasting(&self) -> Lasting {
        self.lasting
    }

    fn folders_key(&self) -> String {
        format!("{}:folders", self.prefix)
    }

    fn index_key(&self, folder: &Folder) -> String {
        format!("{}:index:{}", self.prefix, member(folder))
    }

    fn manifest_key(&self, folder: &Folder) -> String {
        format!("{}:manifest:{}", self.prefix, member(folder))
    }

    fn blob_key(&self, blob: &BlobName) -> String {
        format!("{}{}", self.blob_keys(&blob.folder), number(blob))
    }

    /// What the keys of a folder's blobs begin with.
    fn blob_keys(&self, folder: &Folder) -> String {
        format!("{}:blob:{}:", self.prefix, member(folder))
    }

    /// Sends a blob in pieces to a part of this try's own, then makes it the blob. A try whose connection broke may still have
    /// pieces on their way: they must not get into the part of the next one. Whether the part became the blob; it does not
    /// when it is not as long.
    fn send(&self, blob: &BlobName, bytes: &[u8], try_of: u128, limited: &mut Limited<'_>) -> RedisResult<bool> {
        let part = format!("{}:part:{}:{}:{try_of:032x}", self.prefix, member(&blob.folder), number(blob));
        let (first, rest) = bytes.split_at(bytes.len().min(PIECE_BYTES));
        cmd("SET").arg(&part).arg(first).arg("EX").arg(PART_KEPT_S).exec(limited.now()?)?;
        for piece in rest.chunks(PIECE_BYTES) {
            cmd("APPEND").arg(&part).arg(piece).exec(limited.now()?)?;
        }
        let mut finish = self.scripts.finish.key(part);
        finish.key(self.blob_key(blob)).key(self.index_key(&blob.folder)).key(self.folders_key());
        finish.arg(number(blob)).arg(member(&blob.folder)).arg(bytes.len()).invoke(limited.now()?)
    }

    /// Fills `into`; or says how long the blob is, or that there is none.
    fn receive(&self, key: &str, offset: u64, into: &mut [u8], limited: &mut Limited<'_>) -> RedisResult<Found> {
        let fits = offset.checked_add(into.len() as u64).is_some_and(|end| end <= STRING_BYTES_MAX);
        let mut filled = 0;
        loop {
            while fits && filled < into.len() {
                let from = offset + filled as u64;
                let wanted = PIECE_BYTES.min(into.len() - filled);
                let last = from + wanted as u64 - 1;
                let piece: Vec<u8> = cmd("GETRANGE").arg(key).arg(from).arg(last).query(limited.now()?)?;
                if piece.len() != wanted {
                    break;
                }
                into[filled..filled + wanted].copy_from_slice(&piece);
                filled += wanted;
            }
            if fits && filled == into.len() && filled > 0 {
                return Ok(Found::Read);
            }
            let mut both = ::redis::pipe();
            both.atomic().cmd("EXISTS").arg(key).cmd("STRLEN").arg(key);
            let (exists, length): (bool, u64) = both.query(limited.now()?)?;
            let is_long_enough = fits && offset + into.len() as u64 <= length;
            match (exists, is_long_enough) {
                (false, _) => return Ok(Found::Nothing),
                (true, false) => return Ok(Found::Ended(length)),
                (true, true) if into.is_empty() => return Ok(Found::Read),
                // It was not there when it was read, and is now.
                (true, true) => {}
            }
        }
    }

    /// Waits until what was written is synced, where the server can be asked to.
    fn sync(&self, what: &'static str) -> Result<(), StorageError> {
        if !self.waits_for_file {
            return Ok(());
        }
        let synced: Vec<i64> = self.connections.run(what, |limited| {
            // Of all connections: a write on this one is behind all that were acknowledged before.
            let connection = limited.now()?;
            cmd("PERSIST").arg(self.folders_key()).exec(connection)?;
            cmd("WAITAOF").arg(1).arg(0).arg(SYNC_MS).query(connection)
        })?;
        if synced.first().is_some_and(|&local| local >= 1) {
            return Ok(());
        }
        Err(StorageError::Late { place: self.place(), what, limit_ms: SYNC_MS })
    }
}

/// How a read went.
enum Found {
    Read,
    Ended(u64),
    Nothing,
}

/// A folder in sets and keys.
fn member(folder: &Folder) -> String {
    format!("{}!{}!{:016x}", folder.process.application, folder.process.process, folder.incarnation)
}

fn folder_of(member: &str) -> Option<Folder> {
    Folder::parse(&member.replace('!', "/"))
}

fn number(blob: &BlobName) -> String {
    format!("{:032x}", blob.number)
}

/// A line of what `INFO` says.
fn field<'a>(about: &'a str, name: &str) -> Option<&'a str> {
    about.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

fn version(about: &str) -> (u32, u32) {
    let mut parts = field(about, "redis_version").unwrap_or_default().split('.').map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

/// The beginning of a range of a sorted set: behind this, or at its start.
fn behind(after: Option<String>) -> String {
    after.map_or_else(|| "-".to_owned(), |after| format!("({after}"))
}

impl Backend for RedisBackend {
    fn place(&self) -> String {
        self.connections.place()
    }

    fn put(&self, blob: &BlobName, bytes: &[u8]) -> Result<(), StorageError> {
        const WHAT: &str = "writing a blob";
        check_bytes(&self.place(), WHAT, bytes, BLOB_BYTES_MAX)?;
        let mut try_of = u128::from_le_bytes(random_bytes(&self.place())?);
        let is_whole = self.connections.run(WHAT, |limited| {
            try_of = try_of.wrapping_add(1);
            self.send(blob, bytes, try_of, limited)
        })?;
        if is_whole {
            return Ok(());
        }
        let reason = format!("{blob} was not {} bytes long when all of it was sent", bytes.len());
        Err(StorageError::Failed { place: self.place(), what: WHAT, reason })
    }

    fn read(&self, blob: &BlobName, offset: u64, into: &mut [u8]) -> Result<(), StorageError> {
        let (key, wanted) = (self.blob_key(blob), into.len());
        match self.connections.run("reading a blob", |limited| self.receive(&key, offset, into, limited))? {
            Found::Read => Ok(()),
            Found::Ended(actual) => Err(StorageError::truncated(blob, self.place(), offset, wanted, actual)),
            Found::Nothing => Err(StorageError::missing(blob, self.place())),
        }
    }

    fn flush(&self, _folder: &Folder) -> Result<(), StorageError> {
        self.sync("making blobs last")
    }

    fn manifest(&self, folder: &Folder) -> Result<Option<Published>, StorageError> {
        let (revision, bytes) = self.connections.run("reading a manifest", |limited| {
            let mut both = cmd("HMGET");
            both.arg(self.manifest_key(folder)).arg("r").arg("b");
            both.query::<(Option<String>, Option<Vec<u8>>)>(limited.now()?)
        })?;
        Ok(revision.zip(bytes).map(|(revision, bytes)| Published { revision: Revision(revision), bytes }))
    }

    fn publish(&self, folder: &Folder, replaces: Option<&Revision>, bytes: &[u8]) -> Result<Revision, StorageError> {
        const WHAT: &str = "publishing a manifest";
        check_bytes(&self.place(), WHAT, bytes, MANIFEST_BYTES_MAX)?;
        let revision = Revision(format!("{:032x}", u128::from_le_bytes(random_bytes(&self.place())?)));
        let replaced = replaces.map_or("", |replaces| replaces.0.as_str());
        let published = self.connections.run(WHAT, |limited| {
            let mut publish = self.scripts.publish.key(self.manifest_key(folder));
            publish.key(self.folders_key()).arg(replaced).arg(&revision.0).arg(bytes).arg(member(folder));
            publish.invoke::<bool>(limited.now()?)
        })?;
        // An empty revision is none that was published.
        if !published || replaces.is_some_and(|replaces| replaces.0.is_empty()) {
            return Err(StorageError::conflict(folder, self.place()));
        }
        self.sync(WHAT)?;
        Ok(revision)
    }

    fn blobs(&self, folder: &Folder, after: Option<&BlobName>) -> Result<Vec<BlobEntry>, StorageError> {
        let listed: Vec<(String, u64)> = self.connections.run("listing blobs", |limited| {
            let mut list = self.scripts.list.key(self.index_key(folder));
            list.arg(self.blob_keys(folder)).arg(behind(after.map(number))).arg(LISTED_MAX);
            list.invoke(limited.now()?)
        })?;
        let entry = |(number, bytes): (String, u64)| {
            let blob = BlobName { folder: *folder, number: u128::from_str_radix(&number, 16).ok()? };
            Some(BlobEntry { blob, bytes })
        };
        Ok(listed.into_iter().filter_map(entry).collect())
    }

    fn folders(&self, after: Option<&Folder>) -> Result<Vec<Folder>, StorageError> {
        let listed: Vec<String> = self.connections.run("listing folders", |limited| {
            let mut list = cmd("ZRANGEBYLEX");
            list.arg(self.folders_key()).arg(behind(after.map(member))).arg("+").arg("LIMIT").arg(0).arg(LISTED_MAX);
            list.query(limited.now()?)
        })?;
        Ok(listed.iter().filter_map(|member| folder_of(member)).collect())
    }

    fn remove(&self, blobs: &[BlobName]) -> Result<(), StorageError> {
        let mut by_folder: BTreeMap<Folder, Vec<&BlobName>> = BTreeMap::new();
        for blob in blobs {
            by_folder.entry(blob.folder).or_default().push(blob);
        }
        for (folder, blobs) in by_folder {
            for blobs in blobs.chunks(REMOVED_AT_ONCE) {
                self.connections.run("removing blobs", |limited| {
                    let mut remove = self.scripts.remove.key(self.index_key(&folder));
                    remove.key(self.manifest_key(&folder)).key(self.folders_key()).arg(member(&folder));
                    for blob in blobs {
                        remove.key(self.blob_key(blob)).arg(number(blob));
                    }
                    remove.invoke::<i64>(limited.now()?)
                })?;
            }
        }
        Ok(())
    }

    fn remove_folder(&self, folder: &Folder) -> Result<(), StorageError> {
        self.connections
            .run("removing a folder", |limited| cmd("DEL").arg(self.manifest_key(folder)).exec(limited.now()?))?;
        remove_all_blobs(self, folder)?;
        // Without blobs it forgets the folder, if that is empty.
        self.connections.run("removing a folder", |limited| {
            let mut forget = self.scripts.remove.key(self.index_key(folder));
            forget.key(self.manifest_key(folder)).key(self.folders_key()).arg(member(folder));
            forget.invoke::<i64>(limited.now()?).map(drop)
        })
    }
}

//! Manifests: objects that are replaced under a condition.
//!
//! ```text
//! 0   8 bytes   magic, with the version of this layout
//! 8  16 bytes   random, anew for each publish
//! 24            what was published
//! ```
//!
//! The revision is the object's ETag, a sum of its bytes: the random ones make it one that never was before. When an answer
//! is lost, or the client has tried again by itself and met its own first try, reading the random bytes back tells whether it
//! was us.

use super::errors::Refused;
use super::objects::{body, whole_body};
use super::{ATTEMPTS_MAX, S3Backend};
use crate::backend::{MANIFEST_BYTES_MAX, Revision, random_bytes};
use crate::error::StorageError;
use crate::name::Folder;

const MAGIC: &[u8; 8] = b"praasmf1";
const NONCE_BYTES: usize = 16;
const HEAD_BYTES: usize = MAGIC.len() + NONCE_BYTES;
/// An object that is only there to find out how the server treats conditions; removed at once.
const PROBE: &str = "praas-probe-";
/// An ETag that no object has.
const NO_ETAG: &str = "\"00000000000000000000000000000000\"";

type Nonce = [u8; NONCE_BYTES];

/// A manifest as it was read.
pub(super) struct ReadManifest {
    pub(super) revision: Revision,
    pub(super) bytes: Vec<u8>,
    nonce: Nonce,
}

/// Under which condition an object is written.
#[derive(Clone, Copy)]
enum Condition<'a> {
    IsAbsent,
    Is(&'a str),
}

impl S3Backend {
    pub(super) async fn read_manifest(&self, folder: &Folder) -> Result<Option<ReadManifest>, StorageError> {
        const WHAT: &str = "reading a manifest";
        let mut tried = 0;
        let (revision, mut bytes) = loop {
            tried += 1;
            let request = self.client.get_object().bucket(&self.settings.bucket).key(self.keys.manifest(folder));
            let answer = match request.send().await.map_err(|error| Refused::by(&error)) {
                Ok(answer) => answer,
                Err(refused) if refused.is_absent() => return Ok(None),
                Err(refused) => return Err(self.typed(WHAT, &refused)),
            };
            let etag = answer.e_tag().unwrap_or_default().to_owned();
            match whole_body(answer, MANIFEST_BYTES_MAX + HEAD_BYTES).await {
                Ok(Some(bytes)) => break (Revision(etag), bytes),
                Ok(None) => return Err(self.no_manifest(folder, "it is longer than any")),
                Err(refused) if tried >= ATTEMPTS_MAX => return Err(self.typed(WHAT, &refused)),
                Err(_) => {}
            }
        };
        let nonce = bytes.get(MAGIC.len()..HEAD_BYTES).and_then(|nonce| Nonce::try_from(nonce).ok());
        let Some(nonce) = nonce.filter(|_| bytes.starts_with(MAGIC)) else {
            return Err(self.no_manifest(folder, "its first bytes are others"));
        };
        bytes.drain(..HEAD_BYTES);
        Ok(Some(ReadManifest { revision, bytes, nonce }))
    }

    fn no_manifest(&self, folder: &Folder, why: &str) -> StorageError {
        let reason = format!("{} is no manifest of this version: {why}", self.keys.manifest(folder));
        StorageError::Failed { place: self.settings.place(), what: "reading a manifest", reason }
    }

    pub(super) async fn publish_manifest(
        &self,
        folder: &Folder,
        replaces: Option<&Revision>,
        bytes: &[u8],
    ) -> Result<Revision, StorageError> {
        const WHAT: &str = "publishing a manifest";
        let nonce = self.nonce()?;
        let object = [MAGIC.as_slice(), &nonce, bytes].concat();
        let condition = replaces.map_or(Condition::IsAbsent, |revision| Condition::Is(&revision.0));
        let key = self.keys.manifest(folder);
        let mut tried = 0;
        loop {
            tried += 1;
            let refused = match self.put_if(&key, condition, &object).await {
                Ok(etag) => return Ok(Revision(etag)),
                Err(refused) => refused,
            };
            // Two writes at once, neither of which S3 has judged yet.
            if refused.is_race() && tried < ATTEMPTS_MAX {
                continue;
            }
            let lost = refused.is_precondition() || (replaces.is_some() && refused.is_absent());
            if !lost && !refused.may_have_happened() {
                return Err(self.typed(WHAT, &refused));
            }
            // An answer that was lost may have been a yes; and a no may be to our own second try.
            let ours = match self.read_manifest(folder).await {
                Ok(present) => present.filter(|present| present.nonce == nonce),
                Err(_) if !lost => None,
                Err(error) => return Err(error),
            };
            return match ours {
                Some(present) => Ok(present.revision),
                None if lost => Err(StorageError::conflict(folder, self.settings.place())),
                // It may still be on its way.
                None => {
                    let (place, limit_ms) = (self.settings.place(), self.settings.operation_limit_ms);
                    Err(StorageError::Late { place, what: WHAT, limit_ms })
                }
            };
        }
    }

    async fn put_if(&self, key: &str, condition: Condition<'_>, bytes: &[u8]) -> Result<String, Refused> {
        let request = self.client.put_object().bucket(&self.settings.bucket).key(key).body(body(bytes));
        let request = match condition {
            Condition::IsAbsent => request.if_none_match("*"),
            Condition::Is(etag) => request.if_match(etag),
        };
        let answer = request.send().await.map_err(|error| Refused::by(&error))?;
        Ok(answer.e_tag().unwrap_or_default().to_owned())
    }

    /// Whether the server is there, lets us write, and refuses what it should refuse.
    pub(super) fn check_conditions(&self) -> Result<(), StorageError> {
        const WHAT: &str = "trying a conditional write";
        let nonce = self.nonce()?;
        let key = format!("{}{PROBE}{:032x}", self.keys.prefix(), u128::from_le_bytes(nonce));
        self.run(WHAT, async {
            // Before anything is written: some servers make a bucket for whoever writes to it.
            let bucket = self.client.head_bucket().bucket(&self.settings.bucket).send().await;
            bucket.map_err(|error| {
                let refused = Refused::by(&error);
                if refused.is_absent() { self.no_bucket() } else { self.typed(WHAT, &refused) }
            })?;
            self.put_if(&key, Condition::IsAbsent, MAGIC).await.map_err(|refused| self.typed(WHAT, &refused))?;
            let again = self.put_if(&key, Condition::IsAbsent, MAGIC).await;
            let other = self.put_if(&key, Condition::Is(NO_ETAG), MAGIC).await;
            let is_refused = |outcome: &Result<String, Refused>| outcome.as_ref().is_err_and(Refused::is_precondition);
            let honoured = is_refused(&again) && is_refused(&other);
            self.remove_keys(&[key]).await?;
            if honoured {
                return Ok(());
            }
            for outcome in [again, other] {
                if let Err(refused) = outcome
                    && !refused.is_precondition()
                {
                    return Err(self.typed(WHAT, &refused));
                }
            }
            Err(StorageError::Unusable {
                place: self.settings.place(),
                reason: "it wrote an object whose If-None-Match or If-Match did not hold".to_owned(),
                advice: "use a server that honours conditional writes, as AWS and SeaweedFS do: \
                         without them two servers could own one process",
            })
        })
    }

    fn no_bucket(&self) -> StorageError {
        StorageError::Unusable {
            place: self.settings.place(),
            reason: format!("there is no bucket {}", self.settings.bucket),
            advice: "make the bucket, or name another one",
        }
    }

    fn nonce(&self) -> Result<Nonce, StorageError> {
        random_bytes(&self.settings.place())
    }
}

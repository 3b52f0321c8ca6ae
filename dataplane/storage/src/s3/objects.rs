//! Objects: written whole or in parts, read in ranges, several of them on their way at once.
//!
//! What is cut into parts is so because one connection does not fill a network, and because what broke off is repeated from
//! its part's beginning. An upload in parts becomes an object only when it is completed; one that fails is given up, and one
//! whose writer died stays invisible until the folder is removed.
//!
//! Bytes come and go in pieces of a few KiB to some hundred. Who waits for each of them is a task on the threads that serve the
//! connections, so that the calling thread is woken once for a part and not for each piece.

use std::future::Future;

use aws_sdk_s3::Client;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use tokio::task::JoinSet;

use super::S3Backend;
use super::errors::Refused;
use crate::name::Folder;

/// Objects longer than this are uploaded in parts: below, the two requests more cost more than they give.
const WHOLE_BYTES_MAX: usize = 16 << 20;
/// Length of a part, but of the last one. S3 wants 5 MiB or more.
const PART_BYTES: usize = 8 << 20;
/// Parts of one blob that are on their way at once.
const PARTS_IN_FLIGHT: usize = 4;
/// Pages of uploads, of up to 1000 each, that are given up at once: each was left by a server that died in one.
const UPLOAD_PAGES_MAX: usize = 16;
/// Times that a range is read in all when its body breaks off.
const BODIES_TRIED: u32 = 3;

/// Bytes of an object, as they are asked for.
struct Range {
    client: Client,
    bucket: String,
    key: String,
    from: u64,
    bytes: u64,
}

/// What there is of a range.
enum Found {
    /// All of it, in pieces.
    All(Vec<Bytes>),
    /// The object ends before it does, after so many bytes.
    Ended(u64),
}

impl S3Backend {
    /// Writes an object.
    pub(super) async fn put_object(&self, key: &str, bytes: &[u8]) -> Result<(), Refused> {
        if bytes.len() > WHOLE_BYTES_MAX {
            return self.put_in_parts(key, bytes).await;
        }
        let request = self.client.put_object().bucket(&self.settings.bucket).key(key).body(body(bytes));
        let sending = async {
            let sent = request.customize().disable_payload_signing().send().await;
            sent.map(drop).map_err(|error| Refused::by(&error))
        };
        beside_connections(sending).await
    }

    async fn put_in_parts(&self, key: &str, bytes: &[u8]) -> Result<(), Refused> {
        let bucket = &self.settings.bucket;
        let begun = self.client.create_multipart_upload().bucket(bucket).key(key).send().await;
        let begun = begun.map_err(|error| Refused::by(&error))?;
        let upload = begun.upload_id().unwrap_or_default();
        let done = self.put_parts(key, upload, bytes).await;
        if done.is_err() {
            // What was sent takes room until then. That it failed is told already, if this fails too.
            let _ = self.client.abort_multipart_upload().bucket(bucket).key(key).upload_id(upload).send().await;
        }
        done
    }

    async fn put_parts(&self, key: &str, upload: &str, bytes: &[u8]) -> Result<(), Refused> {
        let bucket = &self.settings.bucket;
        let parts = bytes.chunks(PART_BYTES).zip(1..).map(|(part, number)| async move {
            let request = self.client.upload_part().bucket(bucket).key(key).upload_id(upload).part_number(number);
            let request = request.body(body(part));
            let sending = async {
                let sent = request.customize().disable_payload_signing().send().await;
                sent.map_err(|error| Refused::by(&error))
            };
            let sent = beside_connections(sending).await?;
            Ok(CompletedPart::builder().part_number(number).set_e_tag(sent.e_tag).build())
        });
        let parts: Vec<_> = stream::iter(parts).buffered(PARTS_IN_FLIGHT).try_collect().await?;
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let request = self.client.complete_multipart_upload().bucket(bucket).key(key).upload_id(upload);
        request.multipart_upload(parts).send().await.map(drop).map_err(|error| Refused::by(&error))
    }

    /// Gives up uploads in parts that somebody left in a folder.
    pub(super) async fn abort_uploads(&self, folder: &Folder) -> Result<(), Refused> {
        let bucket = &self.settings.bucket;
        // Those of a page are gone when the next one is asked for, so each begins at the first that is left.
        for _ in 0..UPLOAD_PAGES_MAX {
            let listed = self.client.list_multipart_uploads().bucket(bucket).prefix(self.keys.folder(folder));
            let listed = listed.send().await.map_err(|error| Refused::by(&error))?;
            for upload in listed.uploads() {
                let (Some(key), Some(id)) = (upload.key(), upload.upload_id()) else { continue };
                let given_up = self.client.abort_multipart_upload().bucket(bucket).key(key).upload_id(id).send().await;
                // Somebody else may have been faster.
                if let Err(refused) = given_up.map_err(|error| Refused::by(&error))
                    && refused.status != Some(404)
                {
                    return Err(refused);
                }
            }
            if listed.is_truncated() != Some(true) {
                return Ok(());
            }
        }
        let words = format!("more than {UPLOAD_PAGES_MAX} pages of uploads were left in {folder}: remove it once more");
        Err(Refused::body(&std::io::Error::other(words)))
    }

    /// Fills `into` from `offset` on; or says how long the object is, when it is too short for that.
    pub(super) async fn read_object(&self, key: &str, offset: u64, into: &mut [u8]) -> Result<Option<u64>, Refused> {
        let fits = offset.checked_add(into.len() as u64).is_some();
        if into.is_empty() || !fits {
            let length = self.length(key).await?;
            return Ok((!fits || offset > length).then_some(length));
        }
        let ranges = into.chunks_mut(PART_BYTES).zip((0..).map(|number: u64| offset + number * PART_BYTES as u64));
        let ranges = ranges.map(|(part, from)| self.read_range(key, from, part));
        let ended: Vec<Option<u64>> = stream::iter(ranges).buffer_unordered(PARTS_IN_FLIGHT).try_collect().await?;
        Ok(ended.into_iter().flatten().next())
    }

    /// Fills `into` from `from` on; or says how long the object is.
    async fn read_range(&self, key: &str, from: u64, into: &mut [u8]) -> Result<Option<u64>, Refused> {
        let (client, bucket) = (self.client.clone(), self.settings.bucket.clone());
        let range = Range { client, bucket, key: key.to_owned(), from, bytes: into.len() as u64 };
        match beside_connections(range.read()).await? {
            Found::Ended(length) => Ok(Some(length)),
            Found::All(pieces) => {
                let mut rest = into;
                for piece in pieces {
                    // As many bytes as were asked for: whoever read them has counted.
                    let (place, behind) = rest.split_at_mut(piece.len().min(rest.len()));
                    place.copy_from_slice(&piece[..place.len()]);
                    rest = behind;
                }
                Ok(None)
            }
        }
    }

    async fn length(&self, key: &str) -> Result<u64, Refused> {
        length(&self.client, &self.settings.bucket, key).await
    }
}

impl Range {
    async fn read(self) -> Result<Found, Refused> {
        let last = self.from + self.bytes - 1;
        let mut tried = 0;
        loop {
            tried += 1;
            let request = self.client.get_object().bucket(&self.bucket).key(&self.key);
            match request.range(format!("bytes={}-{last}", self.from)).send().await.map_err(|error| Refused::by(&error))
            {
                // A server that does not say how long its answer is is believed when that is over.
                Ok(answer) if answer.content_length().is_none_or(|it| it.unsigned_abs() == self.bytes) => {
                    match pieces(answer, self.bytes).await {
                        Err(_) if tried < BODIES_TRIED => {}
                        outcome => return outcome.map(Found::All),
                    }
                }
                Ok(_) => return self.ended().await,
                Err(refused) if refused.is_past_the_end() => return self.ended().await,
                Err(refused) => return Err(refused),
            }
        }
    }

    async fn ended(&self) -> Result<Found, Refused> {
        length(&self.client, &self.bucket, &self.key).await.map(Found::Ended)
    }
}

async fn length(client: &Client, bucket: &str, key: &str) -> Result<u64, Refused> {
    let head = client.head_object().bucket(bucket).key(key).send().await;
    let length = head.map_err(|error| Refused::by(&error))?.content_length();
    let untold = || Refused::body(&std::io::Error::other("the server does not say how long the object is"));
    length.map(i64::unsigned_abs).ok_or_else(untold)
}

/// Has a task on the threads that serve the connections do it, which ends when nobody waits for it any more.
async fn beside_connections<T: Send + 'static>(
    work: impl Future<Output = Result<T, Refused>> + Send + 'static,
) -> Result<T, Refused> {
    let mut task = JoinSet::new();
    task.spawn(work);
    match task.join_next().await {
        Some(Ok(done)) => done,
        Some(Err(error)) => Err(Refused::body(&error)),
        None => Err(Refused::body(&std::io::Error::other("its task was taken away"))),
    }
}

/// A copy: the client keeps bodies for as long as it may have to send them again.
pub(super) fn body(bytes: &[u8]) -> ByteStream {
    ByteStream::new(SdkBody::from(bytes.to_vec()))
}

/// The body of an answer; `None` when it is longer than that, of which no more is taken then.
pub(super) async fn whole_body(answer: GetObjectOutput, limit_bytes: usize) -> Result<Option<Vec<u8>>, Refused> {
    let told = answer.content_length().map(|told| usize::try_from(told).unwrap_or(usize::MAX));
    if told.is_some_and(|told| told > limit_bytes) {
        return Ok(None);
    }
    let (mut body, mut bytes) = (answer.body, Vec::with_capacity(told.unwrap_or_default()));
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|error| Refused::body(&error))?;
        if bytes.len() + chunk.len() > limit_bytes {
            return Ok(None);
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(Some(bytes))
}

/// The body of an answer, which is to have so many bytes.
async fn pieces(answer: GetObjectOutput, bytes: u64) -> Result<Vec<Bytes>, Refused> {
    let (mut body, mut pieces, mut found) = (answer.body, Vec::new(), 0);
    while let Some(piece) = body.next().await {
        let piece = piece.map_err(|error| Refused::body(&error))?;
        found += piece.len() as u64;
        if found > bytes {
            return Err(Refused::body(&std::io::Error::other("the body is longer than the server said")));
        }
        pieces.push(piece);
    }
    if found < bytes {
        let words = format!("the body ended after {found} of {bytes} bytes");
        return Err(Refused::body(&std::io::Error::other(words)));
    }
    Ok(pieces)
}

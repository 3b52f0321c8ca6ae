//! A backend in a bucket of S3, or of any server that speaks its protocol and honours conditional writes.
//!
//! | file | what |
//! |---|---|
//! | `settings.rs` | which bucket, where, and who we are there |
//! | `keys.rs` | how folders and blobs are named in it |
//! | `objects.rs` | objects as a whole and in parts, several on their way at once |
//! | `manifests.rs` | publishing under a condition, and whether the server honours conditions at all |
//! | `errors.rs` | what S3 says, as our errors |
//!
//! The client is the vendor's own. Its connections live on two threads of this backend's; each operation runs on the thread
//! that calls, which waits no longer than the limit of the settings. What the server or the network fails at for a moment
//! (5xx, broken connections) is tried again within that limit.
//!
//! 1. S3 acknowledges what it has stored lastingly: [`Backend::flush`] has nothing left to do.
//! 2. An object is seen when it is whole, also one that is uploaded in parts.
//! 3. A server that ignores conditions is refused when it is opened: on such a one two owners would overwrite each other.
//! 4. A manifest carries random bytes of its own, so its ETag never comes again, and a publish whose answer was lost is told
//!    from another's by reading it back.
//! 5. Bodies of blobs are not signed, as is usual with TLS. Whoever stores them checks their sums.

mod errors;
mod keys;
mod manifests;
mod objects;
mod settings;

use std::fmt;
use std::future::Future;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::{RetryConfig, RetryPartition, TokenBucket};
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation, SharedHttpClient,
    StalledStreamProtectionConfig,
};
use aws_sdk_s3::types::{Delete, ObjectIdentifier};
use tokio::runtime::{Builder, Runtime};

use self::errors::Refused;
use self::keys::Keys;
pub use self::settings::{S3Settings, SCHEME};
use crate::backend::{
    BLOB_BYTES_MAX, Backend, BlobEntry, LISTED_MAX, MANIFEST_BYTES_MAX, Published, Revision, check_bytes,
    remove_all_blobs,
};
use crate::error::StorageError;
use crate::name::{BlobName, Folder};

/// Threads that connections are served by.
const CONNECTION_THREADS: usize = 2;
/// Blobs on their way at once: each waits for the other end most of its time.
const TRANSFERS_AT_ONCE: usize = 8;
/// Times that a request is made in all, as long as the limit of its operation allows.
const ATTEMPTS_MAX: u32 = 6;
/// The wait before the second; each further one is twice as long.
const BACKOFF_FIRST: Duration = Duration::from_millis(50);
/// The longest.
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// Time to connect: a server that is up answers in milliseconds, one across an ocean in a few hundred.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// Keys that one request removes, as S3 has it.
const REMOVED_AT_ONCE: usize = 1000;
/// Keys that one request lists, as S3 has it.
const LISTED_AT_ONCE: i32 = 1000;
const _: () = assert!(LISTED_MAX == 1000);

/// Blobs and manifests in a bucket.
pub struct S3Backend {
    client: Client,
    runtime: Option<Runtime>,
    settings: S3Settings,
    keys: Keys,
}

impl fmt::Debug for S3Backend {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("S3Backend").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Drop for S3Backend {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Nothing runs on it by now but connections that are idle.
            runtime.shutdown_background();
        }
    }
}

impl S3Backend {
    /// Opens a bucket: finds out that it is there, that we may write to it, and that conditions of writes are honoured.
    ///
    /// # Errors
    /// [`StorageError`], which says what to do.
    pub fn open(settings: S3Settings) -> Result<Self, StorageError> {
        let place = settings.place();
        let runtime = Builder::new_multi_thread()
            .worker_threads(CONNECTION_THREADS)
            .thread_name("praas-s3")
            .enable_all()
            .build()
            .map_err(|error| StorageError::Unusable {
                place,
                reason: format!("no threads for its connections: {error}"),
                advice: "raise the limits of threads and open files",
            })?;
        let client = Client::from_conf(config(&settings));
        let backend = Self { client, keys: Keys::below(&settings.prefix), runtime: Some(runtime), settings };
        backend.check_conditions()?;
        Ok(backend)
    }

    /// Runs an operation on this thread, to its limit.
    fn run<T>(
        &self,
        what: &'static str,
        operation: impl Future<Output = Result<T, StorageError>>,
    ) -> Result<T, StorageError> {
        let limit_ms = self.settings.operation_limit_ms;
        let late = || StorageError::Late { place: self.place(), what, limit_ms };
        // It is there until the backend is dropped.
        let runtime = self.runtime.as_ref().ok_or_else(late)?;
        let limited = async { tokio::time::timeout(Duration::from_millis(limit_ms), operation).await };
        runtime.block_on(limited).unwrap_or_else(|_| Err(late()))
    }

    fn typed(&self, what: &'static str, refused: &Refused) -> StorageError {
        refused.typed(self.place(), what, self.settings.operation_limit_ms)
    }

    /// Keys and lengths below a folder, those after a key if one is given, at most [`LISTED_MAX`] of blobs.
    async fn list_blobs(&self, folder: &Folder, after: Option<String>) -> Result<Vec<BlobEntry>, Refused> {
        let (mut found, mut after) = (Vec::new(), after);
        loop {
            let request = self.client.list_objects_v2().bucket(&self.settings.bucket).max_keys(LISTED_AT_ONCE);
            let request = request.prefix(self.keys.folder(folder)).set_start_after(after.take());
            let page = request.send().await.map_err(|error| Refused::by(&error))?;
            for object in page.contents() {
                let key = object.key().unwrap_or_default();
                if let Some(blob) = self.keys.blob_of(folder, key) {
                    found.push(BlobEntry { blob, bytes: object.size().unwrap_or_default().unsigned_abs() });
                }
            }
            after = page.contents().last().and_then(|last| last.key()).map(str::to_owned);
            // A page may be short of a blob, by the manifest.
            if found.len() >= LISTED_MAX || page.is_truncated() != Some(true) || after.is_none() {
                found.truncate(LISTED_MAX);
                return Ok(found);
            }
        }
    }

    /// Folders after one, at most [`LISTED_MAX`].
    async fn list_folders(&self, after: Option<&Folder>) -> Result<Vec<Folder>, Refused> {
        let mut found: Vec<Folder> = Vec::new();
        // The first text after all keys of that folder: `0` follows `/`.
        let mut start = after.map(|after| self.keys.folder(after).trim_end_matches('/').to_owned() + "0");
        loop {
            let request = self.client.list_objects_v2().bucket(&self.settings.bucket).max_keys(LISTED_AT_ONCE);
            let request = request.prefix(self.keys.prefix()).delimiter("/").set_start_after(start.take());
            let page = request.send().await.map_err(|error| Refused::by(&error))?;
            let prefixes = page.common_prefixes().iter().filter_map(|common| common.prefix());
            let mut last = page.contents().last().and_then(|last| last.key()).map(str::to_owned);
            for prefix in prefixes {
                let end = prefix.trim_end_matches('/').to_owned() + "0";
                last = last.max(Some(end));
                let newer = |folder: &Folder| after.is_none_or(|after| folder > after);
                found.extend(self.keys.folder_of(prefix).filter(newer));
            }
            if found.len() >= LISTED_MAX || page.is_truncated() != Some(true) || last.is_none() {
                found.truncate(LISTED_MAX);
                return Ok(found);
            }
            start = last;
        }
    }

    async fn remove_keys(&self, keys: &[String]) -> Result<(), StorageError> {
        const WHAT: &str = "removing blobs";
        for keys in keys.chunks(REMOVED_AT_ONCE) {
            // A builder fails only without a key.
            let named = keys.iter().filter_map(|key| ObjectIdentifier::builder().key(key).build().ok());
            let Ok(these) = Delete::builder().set_objects(Some(named.collect())).quiet(true).build() else { continue };
            let answer = self.client.delete_objects().bucket(&self.settings.bucket).delete(these).send().await;
            let answer = answer.map_err(|error| self.typed(WHAT, &Refused::by(&error)))?;
            if let Some(first) = answer.errors().iter().find(|error| error.code() != Some("NoSuchKey")) {
                let (code, key) = (first.code().unwrap_or("no code"), first.key().unwrap_or_default());
                let reason = format!("{} of {} are left, {key} for {code}", answer.errors().len(), keys.len());
                return Err(match code {
                    "AccessDenied" => StorageError::Denied { place: self.place(), what: WHAT, reason },
                    _ => StorageError::Failed { place: self.place(), what: WHAT, reason },
                });
            }
        }
        Ok(())
    }
}

impl S3Settings {
    /// Makes the bucket, on a server that has none yet; of AWS it is asked for by other means.
    ///
    /// # Errors
    /// [`StorageError`], also when there is one already.
    pub fn create_bucket(&self) -> Result<(), StorageError> {
        const WHAT: &str = "making a bucket";
        let typed = |refused: &Refused| refused.typed(self.place(), WHAT, self.operation_limit_ms);
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| typed(&Refused::body(&error)))?;
        let request = Client::from_conf(config(self)).create_bucket().bucket(&self.bucket).send();
        runtime.block_on(request).map(drop).map_err(|error| typed(&Refused::by(&error)))
    }
}

fn config(settings: &S3Settings) -> aws_sdk_s3::Config {
    let S3Settings { endpoint, region, access_key, secret_key, session_token, .. } = settings.clone();
    let limit = Duration::from_millis(settings.operation_limit_ms);
    let request_limit = Duration::from_millis(settings.request_limit_ms).min(limit);
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT_LIMIT.min(request_limit))
        .operation_attempt_timeout(request_limit)
        .operation_timeout(limit);
    let retries = RetryConfig::standard()
        .with_max_attempts(ATTEMPTS_MAX)
        .with_initial_backoff(BACKOFF_FIRST)
        .with_max_backoff(BACKOFF_MAX);
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(http_client())
        .region(Region::new(region))
        .credentials_provider(Credentials::new(access_key, secret_key, session_token, None, "praas"))
        .timeout_config(timeouts.build())
        .retry_config(retries)
        // By itself all clients of a program share a budget of repetitions: one that meets a server in trouble would leave
        // none to the others. Attempts and limits bound ours.
        .retry_partition(RetryPartition::custom("praas").token_bucket(TokenBucket::unlimited()).build())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    match endpoint {
        // Servers of one's own have no names for buckets.
        Some(endpoint) => config.endpoint_url(endpoint).force_path_style(true).build(),
        None => config.build(),
    }
}

#[cfg(not(feature = "s3-tls"))]
fn http_client() -> SharedHttpClient {
    aws_smithy_http_client::Builder::new().build_http()
}

#[cfg(feature = "s3-tls")]
fn http_client() -> SharedHttpClient {
    use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
    aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https()
}

impl Backend for S3Backend {
    fn place(&self) -> String {
        self.settings.place()
    }

    fn transfers_at_once(&self) -> usize {
        TRANSFERS_AT_ONCE
    }

    fn put(&self, blob: &BlobName, bytes: &[u8]) -> Result<(), StorageError> {
        const WHAT: &str = "writing a blob";
        check_bytes(&self.place(), WHAT, bytes, BLOB_BYTES_MAX)?;
        let key = self.keys.blob(blob);
        self.run(WHAT, async { self.put_object(&key, bytes).await.map_err(|refused| self.typed(WHAT, &refused)) })
    }

    fn read(&self, blob: &BlobName, offset: u64, into: &mut [u8]) -> Result<(), StorageError> {
        const WHAT: &str = "reading a blob";
        let (key, wanted) = (self.keys.blob(blob), into.len());
        let read = async {
            match self.read_object(&key, offset, into).await {
                Ok(None) => Ok(()),
                Ok(Some(actual)) => Err(StorageError::truncated(blob, self.place(), offset, wanted, actual)),
                Err(refused) if refused.is_absent() => Err(StorageError::missing(blob, self.place())),
                Err(refused) => Err(self.typed(WHAT, &refused)),
            }
        };
        self.run(WHAT, read)
    }

    fn flush(&self, _folder: &Folder) -> Result<(), StorageError> {
        Ok(())
    }

    fn manifest(&self, folder: &Folder) -> Result<Option<Published>, StorageError> {
        self.run("reading a manifest", async {
            Ok(self.read_manifest(folder).await?.map(|read| Published { revision: read.revision, bytes: read.bytes }))
        })
    }

    fn publish(&self, folder: &Folder, replaces: Option<&Revision>, bytes: &[u8]) -> Result<Revision, StorageError> {
        const WHAT: &str = "publishing a manifest";
        check_bytes(&self.place(), WHAT, bytes, MANIFEST_BYTES_MAX)?;
        self.run(WHAT, self.publish_manifest(folder, replaces, bytes))
    }

    fn blobs(&self, folder: &Folder, after: Option<&BlobName>) -> Result<Vec<BlobEntry>, StorageError> {
        const WHAT: &str = "listing blobs";
        let after = after.map(|after| self.keys.blob(after));
        self.run(WHAT, async { self.list_blobs(folder, after).await.map_err(|refused| self.typed(WHAT, &refused)) })
    }

    fn folders(&self, after: Option<&Folder>) -> Result<Vec<Folder>, StorageError> {
        const WHAT: &str = "listing folders";
        self.run(WHAT, async { self.list_folders(after).await.map_err(|refused| self.typed(WHAT, &refused)) })
    }

    fn remove(&self, blobs: &[BlobName]) -> Result<(), StorageError> {
        let keys: Vec<_> = blobs.iter().map(|blob| self.keys.blob(blob)).collect();
        self.run("removing blobs", self.remove_keys(&keys))
    }

    fn remove_folder(&self, folder: &Folder) -> Result<(), StorageError> {
        const WHAT: &str = "removing a folder";
        self.run(WHAT, self.remove_keys(&[self.keys.manifest(folder)]))?;
        // Each page has a limit of its own: there may be many.
        remove_all_blobs(self, folder)?;
        // Servers that keep keys in directories list an empty one until it is removed by this name. Elsewhere there is none.
        self.run(WHAT, self.remove_keys(&[self.keys.folder(folder)]))?;
        self.run(WHAT, async { self.abort_uploads(folder).await.map_err(|refused| self.typed(WHAT, &refused)) })
    }
}

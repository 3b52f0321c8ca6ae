//! A client of S3 for one caller: `aws-sdk-s3` on a runtime of the calling thread, with one kept connection.

use std::fmt;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation, SharedHttpClient,
    StalledStreamProtectionConfig,
};
use aws_sdk_s3::error::DisplayErrorContext;
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::runtime::{Builder, Runtime};

use super::super::BaselineError;
use super::SYSTEM;

/// The longest that a request may take: far longer than any that is measured.
const PATIENCE: Duration = Duration::from_secs(20);

/// An S3 with a bucket in it, and who we are there.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct S3Endpoint {
    /// `http://HOST:PORT`, or with `https`.
    pub url: String,
    /// Its region.
    pub region: String,
    /// The bucket.
    pub bucket: String,
    /// Who we are.
    pub access_key: String,
    /// What proves it.
    pub secret_key: String,
    /// Goes with keys that expire.
    pub session_token: Option<String>,
}

impl fmt::Debug for S3Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without what is secret.
        let Self { url, region, bucket, access_key, .. } = self;
        let mut shown = formatter.debug_struct("S3Endpoint");
        shown.field("url", url).field("region", region).field("bucket", bucket).field("access_key", access_key);
        shown.finish_non_exhaustive()
    }
}

/// A connection to an S3 server, for the calling thread.
pub struct S3Client {
    runtime: Runtime,
    client: Client,
    bucket: String,
}

impl fmt::Debug for S3Client {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("S3Client").field("bucket", &self.bucket).finish_non_exhaustive()
    }
}

impl S3Client {
    /// A client; it connects with its first request.
    ///
    /// # Errors
    /// [`BaselineError::System`] if the system gives it no event queue.
    pub fn new(endpoint: &S3Endpoint) -> Result<Self, BaselineError> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(BaselineError::system("make a runtime"))?;
        Ok(Self { runtime, client: client_of(endpoint.clone()), bucket: endpoint.bucket.clone() })
    }

    /// Makes the bucket.
    ///
    /// # Errors
    /// [`BaselineError::S3`], also if there is one already.
    pub fn create_bucket(&self) -> Result<(), BaselineError> {
        let request = self.client.create_bucket().bucket(&self.bucket).send();
        self.runtime.block_on(request).map(drop).map_err(|error| failed("CreateBucket", &self.bucket, &error))
    }

    /// `PutObject`.
    ///
    /// # Errors
    /// [`BaselineError::S3`].
    pub fn put(&self, key: &str, value: Bytes) -> Result<(), BaselineError> {
        let request = self.client.put_object().bucket(&self.bucket).key(key).body(ByteStream::from(value));
        let request = request.customize().disable_payload_signing().send();
        self.runtime.block_on(request).map(drop).map_err(|error| failed("PutObject", key, &error))
    }

    /// `GetObject`: reads an object into the beginning of `room`, and says how many bytes it has; `None` if there is none.
    ///
    /// # Errors
    /// [`BaselineError::S3`], or [`BaselineError::WrongAnswer`] if it does not fit.
    pub fn get_into(&self, key: &str, room: &mut [u8]) -> Result<Option<usize>, BaselineError> {
        self.runtime.block_on(async {
            let answer = self.client.get_object().bucket(&self.bucket).key(key).send().await;
            let mut answer = match answer {
                Ok(answer) => answer,
                Err(error) if error.as_service_error().is_some_and(|error| error.is_no_such_key()) => return Ok(None),
                Err(error) => return Err(failed("GetObject", key, &error)),
            };
            let mut filled = 0;
            while let Some(chunk) = answer.body.next().await {
                let chunk = chunk.map_err(|error| failed("GetObject", key, &error))?;
                let end = filled + chunk.len();
                let room_bytes = room.len();
                let part = room.get_mut(filled..end).ok_or_else(|| BaselineError::WrongAnswer {
                    system: SYSTEM,
                    expected: format!("an object of at most {room_bytes} bytes"),
                    actual: format!("{end} and more"),
                })?;
                part.copy_from_slice(&chunk);
                filled = end;
            }
            Ok(Some(filled))
        })
    }

    /// The same into memory of its own.
    ///
    /// # Errors
    /// [`BaselineError::S3`].
    pub fn get(&self, key: &str) -> Result<Option<Bytes>, BaselineError> {
        self.runtime.block_on(async {
            let answer = self.client.get_object().bucket(&self.bucket).key(key).send().await;
            let body = match answer {
                Ok(answer) => answer.body,
                Err(error) if error.as_service_error().is_some_and(|error| error.is_no_such_key()) => return Ok(None),
                Err(error) => return Err(failed("GetObject", key, &error)),
            };
            let bytes = body.collect().await.map_err(|error| failed("GetObject", key, &error))?;
            Ok(Some(bytes.into_bytes()))
        })
    }

    /// `DeleteObject`.
    ///
    /// # Errors
    /// [`BaselineError::S3`].
    pub fn delete(&self, key: &str) -> Result<(), BaselineError> {
        let request = self.client.delete_object().bucket(&self.bucket).key(key).send();
        self.runtime.block_on(request).map(drop).map_err(|error| failed("DeleteObject", key, &error))
    }
}

/// The vendor's client, which connects with its first request.
pub(super) fn client_of(endpoint: S3Endpoint) -> Client {
    let S3Endpoint { url, region, bucket: _, access_key, secret_key, session_token } = endpoint;
    let timeouts = TimeoutConfig::builder().operation_timeout(PATIENCE).connect_timeout(PATIENCE).build();
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(http_client())
        .endpoint_url(url)
        .region(Region::new(region))
        .credentials_provider(Credentials::new(access_key, secret_key, session_token, None, "praas-perf"))
        .force_path_style(true)
        .timeout_config(timeouts)
        .retry_config(RetryConfig::disabled())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .build();
    Client::from_conf(config)
}

#[cfg(not(feature = "tls"))]
fn http_client() -> SharedHttpClient {
    aws_smithy_http_client::Builder::new().build_http()
}

#[cfg(feature = "tls")]
fn http_client() -> SharedHttpClient {
    use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
    aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https()
}

#[cold]
fn failed<E: std::error::Error>(operation: &'static str, key: &str, error: &E) -> BaselineError {
    BaselineError::S3 { operation, key: key.to_owned(), reason: DisplayErrorContext(error).to_string() }
}

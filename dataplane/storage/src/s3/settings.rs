//! Which bucket, where, and who we are there.

use std::env;
use std::fmt;

use crate::error::StorageError;

/// How the addresses of buckets begin.
pub const SCHEME: &str = "s3://";

/// Time for one operation with all that is tried again, unless it is set: a blob of 64 MiB over 20 Mbit/s.
const OPERATION_LIMIT_MS_DEFAULT: u64 = 30_000;
/// Time for one request of it, after which it is made anew: a part of 8 MiB over 10 Mbit/s.
const REQUEST_LIMIT_MS_DEFAULT: u64 = 8_000;
/// Region of servers that have none.
const REGION_DEFAULT: &str = "us-east-1";

/// The variables that every AWS program reads.
const REGION_VARIABLES: [&str; 2] = ["AWS_REGION", "AWS_DEFAULT_REGION"];
const ENDPOINT_VARIABLES: [&str; 2] = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"];
const KEY_VARIABLE: &str = "AWS_ACCESS_KEY_ID";
const SECRET_VARIABLE: &str = "AWS_SECRET_ACCESS_KEY";
const TOKEN_VARIABLE: &str = "AWS_SESSION_TOKEN";

/// A bucket, and who we are there.
#[derive(Clone, PartialEq, Eq)]
pub struct S3Settings {
    /// The bucket; it must exist.
    pub bucket: String,
    /// What all keys begin with: empty, or text that ends with `/`.
    pub prefix: String,
    /// `http://HOST:PORT` or `https://HOST`; `None` is AWS.
    pub endpoint: Option<String>,
    /// Its region.
    pub region: String,
    /// Who we are.
    pub access_key: String,
    /// What proves it.
    pub secret_key: String,
    /// Goes with keys that expire.
    pub session_token: Option<String>,
    /// Time for one operation with all that is tried again.
    pub operation_limit_ms: u64,
    /// Time for one request, after which it is made anew.
    pub request_limit_ms: u64,
}

impl fmt::Debug for S3Settings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without what is secret.
        let Self { endpoint, region, .. } = self;
        let mut shown = formatter.debug_struct("S3Settings");
        shown.field("place", &self.place()).field("endpoint", endpoint).field("region", region).finish_non_exhaustive()
    }
}

impl S3Settings {
    /// What an address such as `s3://bucket/prefix` names, with endpoint, region and credentials of the environment's
    /// `AWS_…` variables.
    ///
    /// # Errors
    /// [`StorageError::Unusable`], which says what is missing.
    pub fn from_environment(address: &str) -> Result<Self, StorageError> {
        Self::from(address, |variable| env::var(variable).ok().filter(|value| !value.is_empty()))
    }

    fn from(address: &str, value: impl Fn(&str) -> Option<String>) -> Result<Self, StorageError> {
        let unusable = |reason: String, advice| StorageError::Unusable { place: address.to_owned(), reason, advice };
        let (bucket, prefix) = split(address).ok_or_else(|| {
            unusable("it names no bucket".to_owned(), "write it as s3://BUCKET or s3://BUCKET/PREFIX")
        })?;
        let first = |names: [&str; 2]| names.into_iter().find_map(&value);
        let needed = |name: &str| {
            let missing = || unusable(format!("{name} is not set"), "set it in the environment of the server");
            value(name).ok_or_else(missing)
        };
        let endpoint = first(ENDPOINT_VARIABLES);
        if !cfg!(feature = "s3-tls") && endpoint.as_ref().is_none_or(|it| !it.starts_with("http://")) {
            let reason = format!("{} needs TLS", endpoint.as_deref().unwrap_or("AWS"));
            return Err(unusable(
                reason,
                "build with the feature `s3-tls`, or name an endpoint that begins with http://",
            ));
        }
        let region = match first(REGION_VARIABLES) {
            Some(region) => region,
            None if endpoint.is_some() => REGION_DEFAULT.to_owned(),
            None => return Err(unusable("AWS_REGION is not set".to_owned(), "set it to the region of the bucket")),
        };
        Ok(Self {
            bucket,
            prefix,
            endpoint,
            region,
            access_key: needed(KEY_VARIABLE)?,
            secret_key: needed(SECRET_VARIABLE)?,
            session_token: value(TOKEN_VARIABLE),
            operation_limit_ms: OPERATION_LIMIT_MS_DEFAULT,
            request_limit_ms: REQUEST_LIMIT_MS_DEFAULT,
        })
    }

    /// A bucket of a server that is given by its address, such as one of a test.
    #[must_use]
    pub fn of_server(endpoint: &str, bucket: &str, prefix: &str, access_key: &str, secret_key: &str) -> Self {
        Self {
            bucket: bucket.to_owned(),
            prefix: with_slash(prefix),
            endpoint: Some(endpoint.to_owned()),
            region: REGION_DEFAULT.to_owned(),
            access_key: access_key.to_owned(),
            secret_key: secret_key.to_owned(),
            session_token: None,
            operation_limit_ms: OPERATION_LIMIT_MS_DEFAULT,
            request_limit_ms: REQUEST_LIMIT_MS_DEFAULT,
        }
    }

    /// Its address, as errors and lists show it.
    #[must_use]
    pub fn place(&self) -> String {
        let at = self.endpoint.as_ref().map(|endpoint| format!(" at {endpoint}")).unwrap_or_default();
        format!("{SCHEME}{}/{}{at}", self.bucket, self.prefix)
    }
}

/// Bucket and prefix of an address.
fn split(address: &str) -> Option<(String, String)> {
    let rest = address.strip_prefix(SCHEME)?;
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    (!bucket.is_empty()).then(|| (bucket.to_owned(), with_slash(prefix)))
}

fn with_slash(prefix: &str) -> String {
    let prefix = prefix.trim_matches('/');
    if prefix.is_empty() { String::new() } else { format!("{prefix}/") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [(&str, &str); 4] = [
        ("AWS_ENDPOINT_URL", "http://10.0.0.1:9000"),
        ("AWS_REGION", "eu-central-1"),
        (KEY_VARIABLE, "a key"),
        (SECRET_VARIABLE, "hidden"),
    ];

    fn read(address: &str, without: &str) -> Result<S3Settings, StorageError> {
        S3Settings::from(address, |name| {
            ALL.iter().find(|(known, _)| *known == name && name != without).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn an_address_and_the_environment_name_a_bucket() {
        let settings = read("s3://notes/of/all/", "").unwrap();
        assert_eq!((settings.bucket.as_str(), settings.prefix.as_str()), ("notes", "of/all/"));
        assert_eq!((settings.region.as_str(), settings.access_key.as_str()), ("eu-central-1", "a key"));
        assert_eq!(settings.place(), "s3://notes/of/all/ at http://10.0.0.1:9000");
        assert!(!format!("{settings:?}").contains("hidden"), "{settings:?}");
        assert_eq!(read("s3://notes", "AWS_REGION").unwrap().region, REGION_DEFAULT);
        assert_eq!(read("s3://notes", "").unwrap().prefix, "");
    }

    #[test]
    fn what_is_missing_is_named() {
        for address in ["", "s3://", "s3:///prefix", "notes", "http://notes"] {
            let error = read(address, "").unwrap_err().to_string();
            assert!(error.contains("s3://BUCKET"), "{address}: {error}");
        }
        for name in [KEY_VARIABLE, SECRET_VARIABLE] {
            let error = read("s3://notes", name).unwrap_err().to_string();
            assert!(error.contains(name) && !error.contains("hidden"), "{error}");
        }
        if !cfg!(feature = "s3-tls") {
            let error = read("s3://notes", "AWS_ENDPOINT_URL").unwrap_err().to_string();
            assert!(error.contains("s3-tls"), "{error}");
        }
    }
}

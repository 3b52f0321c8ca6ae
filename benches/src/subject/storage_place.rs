//! Where a measured server keeps what sleeps, and how that is told to the server's own process: by a variable of its environment,
//! which only its own user reads.

use std::env;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use praas_storage::{Backend, DiskBackend};

/// The variable.
pub(super) const STORAGE_VARIABLE: &str = "PRAAS_BENCH_STORAGE";
/// The directory of a server's data directory that processes sleep in.
pub(super) const DISK_DIRECTORY: &str = "asleep";

/// Where processes sleep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoragePlace {
    /// In a directory within the server's own, which is made where temporary files are (`TMPDIR`).
    Disk,
    /// In a bucket of S3.
    S3 {
        /// `http://HOST:PORT`.
        url: String,
        /// The bucket.
        bucket: String,
        /// What all keys begin with.
        prefix: String,
        /// Who we are there.
        access_key: String,
        /// What proves it.
        secret_key: String,
        /// Its region.
        region: String,
        /// Goes with keys that expire; empty with others.
        session_token: String,
    },
    /// In a Redis server.
    Redis {
        /// `redis://HOST:PORT`.
        address: String,
    },
}

impl StoragePlace {
    /// A line for each part: none of them has one.
    pub(super) fn to_variable(&self) -> String {
        match self {
            Self::Disk => "disk".to_owned(),
            Self::S3 { url, bucket, prefix, access_key, secret_key, region, session_token } => {
                ["s3", url, bucket, prefix, access_key, secret_key, region, session_token].join("\n")
            }
            Self::Redis { address } => ["redis", address].join("\n"),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let lines: Vec<String> = text.split('\n').map(str::to_owned).collect();
        match (lines[0].as_str(), &lines[1..]) {
            ("disk", []) => Some(Self::Disk),
            ("s3", [url, bucket, prefix, access_key, secret_key, region, session_token]) => Some(Self::S3 {
                url: url.clone(),
                bucket: bucket.clone(),
                prefix: prefix.clone(),
                access_key: access_key.clone(),
                secret_key: secret_key.clone(),
                region: region.clone(),
                session_token: session_token.clone(),
            }),
            ("redis", [address]) => Some(Self::Redis { address: address.clone() }),
            _ => None,
        }
    }

    fn open(&self, data_directory: &Path) -> Result<Arc<dyn Backend>, Box<dyn Error>> {
        match self {
            Self::Disk => Ok(Arc::new(DiskBackend::open(&data_directory.join(DISK_DIRECTORY))?)),
            #[cfg(feature = "remote-storage")]
            Self::S3 { url, bucket, prefix, access_key, secret_key, region, session_token } => {
                use praas_storage::s3::{S3Backend, S3Settings};
                let mut settings = S3Settings::of_server(url, bucket, prefix, access_key, secret_key);
                settings.region.clone_from(region);
                settings.session_token = Some(session_token.clone()).filter(|token| !token.is_empty());
                Ok(Arc::new(S3Backend::open(settings)?))
            }
            #[cfg(feature = "remote-storage")]
            Self::Redis { address } => Ok(Arc::new(praas_storage::redis::RedisBackend::open(address)?)),
            #[cfg(not(feature = "remote-storage"))]
            _ => Err("this program was built without the feature `remote-storage`".into()),
        }
    }
}

/// The storage that this process was told to have, if it was.
pub(super) fn told(data_directory: &Path) -> Result<Option<Arc<dyn Backend>>, Box<dyn Error>> {
    let Ok(text) = env::var(STORAGE_VARIABLE) else { return Ok(None) };
    let place = StoragePlace::parse(&text).ok_or("the storage that was named is none")?;
    place.open(data_directory).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_told_by_a_variable() {
        let s3 = StoragePlace::S3 {
            url: "http://127.0.0.1:1".to_owned(),
            bucket: "b".to_owned(),
            prefix: "p/".to_owned(),
            access_key: "a".to_owned(),
            secret_key: "s".to_owned(),
            region: "r".to_owned(),
            session_token: String::new(),
        };
        for place in [StoragePlace::Disk, s3, StoragePlace::Redis { address: "redis://127.0.0.1:1".to_owned() }] {
            assert_eq!(StoragePlace::parse(&place.to_variable()), Some(place));
        }
        for text in ["", "tape", "disk\nmore", "s3\nurl"] {
            assert_eq!(StoragePlace::parse(text), None, "{text}");
        }
    }
}

//! Where a server stores processes, as it is named on the command line.
//!
//! A directory is always understood. Buckets of S3 and Redis bring large clients with them, so this program has them only if it
//! was built with the features of their names; without, such a place is understood and refused with how to build it.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use praas_storage::{Backend, DiskBackend, StorageError};

/// Directory within the data directory that holds what is stored, unless another place is named.
pub const STORED_DIRECTORY: &str = "swapped";

/// Where processes are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoragePlace {
    /// In a directory of this host.
    Directory(PathBuf),
    /// In a bucket, `s3://BUCKET/PREFIX`; who we are there is told by the environment.
    S3(String),
    /// In a Redis server, `redis://HOST:PORT/DATABASE`.
    Redis(String),
}

impl FromStr for StoragePlace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once("://") {
            Some(("s3", _)) => Ok(Self::S3(text.to_owned())),
            Some(("redis", _)) => Ok(Self::Redis(text.to_owned())),
            Some((scheme, _)) => Err(format!(
                "processes cannot be stored in {scheme}://…: name a directory, s3://BUCKET/PREFIX or redis://HOST"
            )),
            None if text.is_empty() => Err("name a directory, s3://BUCKET/PREFIX or redis://HOST".to_owned()),
            None => Ok(Self::Directory(text.into())),
        }
    }
}

impl StoragePlace {
    /// The place that a server with this data directory has unless another one is named.
    #[must_use]
    pub fn within(data_directory: &Path) -> Self {
        Self::Directory(data_directory.join(STORED_DIRECTORY))
    }

    /// Opens it; a directory is made if it is missing.
    ///
    /// # Errors
    /// [`StorageError`] when it cannot be used.
    pub fn open(&self) -> Result<Arc<dyn Backend>, StorageError> {
        match self {
            Self::Directory(path) => Ok(Arc::new(DiskBackend::open(path)?)),
            Self::S3(address) => open_s3(address),
            Self::Redis(address) => open_redis(address),
        }
    }
}

#[cfg(feature = "s3")]
fn open_s3(address: &str) -> Result<Arc<dyn Backend>, StorageError> {
    use praas_storage::s3::{S3Backend, S3Settings};
    Ok(Arc::new(S3Backend::open(S3Settings::from_environment(address)?)?))
}

#[cfg(not(feature = "s3"))]
fn open_s3(address: &str) -> Result<Arc<dyn Backend>, StorageError> {
    Err(lacking(address, "build it with `--features s3`"))
}

#[cfg(feature = "redis")]
fn open_redis(address: &str) -> Result<Arc<dyn Backend>, StorageError> {
    Ok(Arc::new(praas_storage::redis::RedisBackend::open(address)?))
}

#[cfg(not(feature = "redis"))]
fn open_redis(address: &str) -> Result<Arc<dyn Backend>, StorageError> {
    Err(lacking(address, "build it with `--features redis`"))
}

#[cfg(not(all(feature = "s3", feature = "redis")))]
fn lacking(address: &str, advice: &'static str) -> StorageError {
    // Credentials that an address may have stay out of what is shown.
    let place = match address.rsplit_once('@') {
        Some((_, host)) => format!("…@{host}"),
        None => address.to_owned(),
    };
    StorageError::Unusable { place, reason: "this praas was built without a client for it".to_owned(), advice }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_buckets_and_redis_are_places_and_an_unknown_scheme_is_none() {
        assert_eq!("/srv/asleep".parse(), Ok(StoragePlace::Directory("/srv/asleep".into())));
        assert_eq!("s3://bucket/praas".parse(), Ok(StoragePlace::S3("s3://bucket/praas".into())));
        assert_eq!("redis://localhost/3".parse(), Ok(StoragePlace::Redis("redis://localhost/3".into())));
        assert!("ftp://host/x".parse::<StoragePlace>().unwrap_err().contains("ftp://"));
        assert!("".parse::<StoragePlace>().is_err());
    }

    #[cfg(not(feature = "redis"))]
    #[test]
    fn a_place_whose_client_was_not_built_says_how_to_get_it_and_no_password() {
        let place: StoragePlace = "redis://user:secret@host:6379/1".parse().unwrap();
        let refused = place.open().unwrap_err().to_string();
        assert!(refused.contains("--features redis") && !refused.contains("secret"), "{refused}");
    }
}

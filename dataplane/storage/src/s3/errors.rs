//! What S3 and the way to it say, as our errors.

use std::error::Error;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use crate::error::StorageError;

/// Something that went wrong with a request, and what it was about.
#[derive(Debug)]
pub(super) struct Refused {
    /// The HTTP status, when there was an answer.
    pub(super) status: Option<u16>,
    /// S3's name of it, when it gave one.
    pub(super) code: Option<String>,
    /// What was said, in words.
    reason: String,
    /// It took too long.
    late: bool,
    /// Nothing was sent: it cannot have happened.
    unsent: bool,
}

impl Refused {
    pub(super) fn by<E>(error: &SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        let (late, unsent) = match error {
            SdkError::TimeoutError(_) => (true, false),
            SdkError::ConstructionFailure(_) => (false, true),
            SdkError::DispatchFailure(failure) => {
                let cause = failure.as_connector_error().map(|error| error as &(dyn Error + 'static));
                (failure.is_timeout(), is_refused(cause))
            }
            _ => (false, false),
        };
        let reason = match (error.code(), error.message()) {
            (Some(code), Some(message)) => format!("{code}: {message}"),
            (Some(code), None) => code.to_owned(),
            _ => chain(error),
        };
        let status = error.raw_response().map(|response| response.status().as_u16());
        Self { status, code: error.code().map(str::to_owned), reason, late, unsent }
    }

    /// A body that broke off.
    pub(super) fn body(error: &dyn Error) -> Self {
        Self { status: None, code: None, reason: chain(error), late: false, unsent: false }
    }

    /// There is no such object, in a bucket that is there.
    pub(super) fn is_absent(&self) -> bool {
        match self.code.as_deref() {
            Some(code) => matches!(code, "NoSuchKey" | "NotFound"),
            None => self.status == Some(404),
        }
    }

    /// A condition of a write does not hold.
    pub(super) fn is_precondition(&self) -> bool {
        self.status == Some(412) || self.code.as_deref() == Some("PreconditionFailed")
    }

    /// Another write of the same object is under way.
    pub(super) fn is_race(&self) -> bool {
        self.status == Some(409) && self.code.as_deref() != Some("OperationAborted")
    }

    /// The range begins behind the object's end.
    pub(super) fn is_past_the_end(&self) -> bool {
        self.status == Some(416)
    }

    /// Whether what was asked for may have happened all the same.
    pub(super) fn may_have_happened(&self) -> bool {
        !self.unsent && self.status.is_none_or(|status| status >= 500)
    }

    /// As an error of storage.
    pub(super) fn typed(&self, place: String, what: &'static str, limit_ms: u64) -> StorageError {
        let reason = self.reason.clone();
        let unusable = |reason, advice| StorageError::Unusable { place: place.clone(), reason, advice };
        if self.late {
            return StorageError::Late { place, what, limit_ms };
        }
        match (self.code.as_deref().unwrap_or_default(), self.status) {
            ("NoSuchBucket", _) => unusable(reason, "make the bucket, or name another one"),
            ("RequestTimeTooSkewed" | "RequestExpired", _) => {
                unusable(reason, "the clocks of this host and the server differ too much: set this host's clock")
            }
            ("PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException", _)
            | (_, Some(301 | 307)) => unusable(reason, "the bucket is in another region: set AWS_REGION to it"),
            ("QuotaExceeded" | "InsufficientStorage" | "XMinioStorageFull", _) | (_, Some(507)) => {
                StorageError::Full { place, what, reason }
            }
            ("ExpiredToken" | "TokenRefreshRequired" | "InvalidToken", _) | (_, Some(401 | 403)) => {
                StorageError::Denied { place, what, reason }
            }
            _ if self.unsent => unusable(reason, "see that the server runs and that the address is right"),
            _ => StorageError::Failed { place, what, reason },
        }
    }
}

/// Whether a connection was never made.
fn is_refused(error: Option<&(dyn Error + 'static)>) -> bool {
    let mut cause = error;
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return io.kind() == std::io::ErrorKind::ConnectionRefused;
        }
        cause = error.source();
    }
    false
}

/// An error's words and those of its causes.
fn chain(error: &dyn Error) -> String {
    let (mut words, mut cause) = (error.to_string(), error.source());
    while let Some(error) = cause {
        let next = error.to_string();
        if !words.ends_with(&next) {
            words = format!("{words}: {next}");
        }
        cause = error.source();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(status: u16, code: &str) -> StorageError {
        let refused = Refused {
            status: Some(status),
            code: (!code.is_empty()).then(|| code.to_owned()),
            reason: format!("{code}: as S3 puts it"),
            late: false,
            unsent: false,
        };
        refused.typed("s3://bucket/".to_owned(), "writing a blob", 1000)
    }

    #[test]
    fn what_can_be_done_about_is_told_apart() {
        let advice = |error: &StorageError| match error {
            StorageError::Unusable { advice, .. } => *advice,
            error => panic!("{error}"),
        };
        assert!(advice(&typed(404, "NoSuchBucket")).contains("bucket"));
        assert!(advice(&typed(403, "RequestTimeTooSkewed")).contains("clock"));
        assert!(advice(&typed(301, "PermanentRedirect")).contains("AWS_REGION"));
        assert!(advice(&typed(400, "AuthorizationHeaderMalformed")).contains("AWS_REGION"));
        let denied = [(400, "ExpiredToken"), (400, "InvalidToken"), (403, "AccessDenied"), (403, "InvalidAccessKeyId")];
        for (status, code) in denied.into_iter().chain([(403, "SignatureDoesNotMatch"), (403, ""), (401, "")]) {
            assert!(matches!(typed(status, code), StorageError::Denied { .. }), "{status} {code}");
        }
        for (status, code) in [(507, ""), (403, "QuotaExceeded"), (507, "XMinioStorageFull")] {
            assert!(matches!(typed(status, code), StorageError::Full { .. }), "{status} {code}");
        }
        for (status, code) in [(500, "InternalError"), (503, "SlowDown"), (400, "EntityTooLarge")] {
            assert!(matches!(typed(status, code), StorageError::Failed { .. }), "{status} {code}");
        }
    }
}

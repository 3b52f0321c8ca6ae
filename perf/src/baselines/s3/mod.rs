//! S3 at its best: servers that check signatures, and the vendor's own client on one kept connection.
//!
//! Two servers are started here, [`S3Kind::SeaweedFs`] and [`S3Kind::Rclone`], both with their files in memory. They stand for
//! real S3 from below: AWS answers in 10 to 30 ms. The environment adds the real one ([`S3Kind::Elsewhere`]):
//! `PRAAS_PERF_S3_BUCKET` names the bucket and switches it on, `PRAAS_PERF_S3_ENDPOINT` another place than AWS, and region and
//! credentials come from the variables that every AWS program reads.
//!
//! The client signs every request (version 4), but not the bytes of a body, as is usual with TLS; it computes no checksums
//! beside TCP's, tries nothing twice, and runs on the calling thread.

mod client;
mod elsewhere;
mod parallel;
mod servers;

pub use client::{S3Client, S3Endpoint};
pub use elsewhere::{BUCKET_VARIABLE, ENDPOINT_VARIABLE};
pub use parallel::{Direction, PLANS, ParallelPlan, ParallelS3};
pub use servers::{S3Kind, S3Server};

/// What errors call it.
pub const SYSTEM: &str = "S3";

//! The S3 that the environment names.

use std::env;

use super::super::BaselineError;
use super::S3Endpoint;

/// The bucket to measure in; it must exist. Without it only servers of our own are measured.
pub const BUCKET_VARIABLE: &str = "PRAAS_PERF_S3_BUCKET";
/// `http://HOST:PORT` or `https://HOST`, of another place than AWS.
pub const ENDPOINT_VARIABLE: &str = "PRAAS_PERF_S3_ENDPOINT";
const REGION_VARIABLE: &str = "AWS_REGION";
const KEY_VARIABLE: &str = "AWS_ACCESS_KEY_ID";
const SECRET_VARIABLE: &str = "AWS_SECRET_ACCESS_KEY";
const TOKEN_VARIABLE: &str = "AWS_SESSION_TOKEN";

/// What the environment names; `None` if it names no bucket.
pub(super) fn from_environment() -> Option<Result<S3Endpoint, BaselineError>> {
    from(|variable| env::var(variable).ok().filter(|value| !value.is_empty()))
}

fn from(value: impl Fn(&str) -> Option<String>) -> Option<Result<S3Endpoint, BaselineError>> {
    let bucket = value(BUCKET_VARIABLE)?;
    let needed = |variable: &'static str| {
        let problem = || format!("is not set, and {BUCKET_VARIABLE} is: set both or neither");
        value(variable).ok_or_else(|| BaselineError::Environment { variable, problem: problem() })
    };
    Some((|| {
        let region = needed(REGION_VARIABLE)?;
        let url = value(ENDPOINT_VARIABLE).unwrap_or_else(|| format!("https://s3.{region}.amazonaws.com"));
        if url.starts_with("https://") && !cfg!(feature = "tls") {
            let problem = format!("is {url}, which needs TLS: build with `--features tls`");
            return Err(BaselineError::Environment { variable: ENDPOINT_VARIABLE, problem });
        }
        Ok(S3Endpoint {
            url,
            region,
            bucket,
            access_key: needed(KEY_VARIABLE)?,
            secret_key: needed(SECRET_VARIABLE)?,
            session_token: value(TOKEN_VARIABLE),
        })
    })())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn among<'a>(variables: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
        |name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    }

    #[test]
    fn a_bucket_switches_it_on_and_then_the_rest_is_needed() {
        assert!(from(among(&[(REGION_VARIABLE, "us-east-1")])).is_none());
        let error = from(among(&[(BUCKET_VARIABLE, "b")])).expect("it is on").expect_err("the region is missing");
        assert!(error.to_string().contains(REGION_VARIABLE), "{error}");
    }

    #[test]
    fn an_endpoint_of_ones_own_needs_no_tls() {
        let variables = [
            (BUCKET_VARIABLE, "b"),
            (REGION_VARIABLE, "r"),
            (ENDPOINT_VARIABLE, "http://10.0.0.1:9000"),
            (KEY_VARIABLE, "k"),
            (SECRET_VARIABLE, "s"),
        ];
        let endpoint = from(among(&variables)).expect("it is on").expect("all is there");
        assert_eq!((endpoint.url.as_str(), endpoint.bucket.as_str()), ("http://10.0.0.1:9000", "b"));
        assert_eq!(endpoint.session_token, None);
    }

    #[test]
    fn without_tls_aws_itself_is_refused_and_says_what_to_do() {
        let variables = [(BUCKET_VARIABLE, "b"), (REGION_VARIABLE, "r"), (KEY_VARIABLE, "k"), (SECRET_VARIABLE, "s")];
        match from(among(&variables)).expect("it is on") {
            Ok(endpoint) => assert!(cfg!(feature = "tls") && endpoint.url == "https://s3.r.amazonaws.com"),
            Err(error) => assert!(error.to_string().contains("--features tls"), "{error}"),
        }
    }
}

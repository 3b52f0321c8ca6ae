//! `praas token create` makes tokens that the server of the same data directory believes, and no others.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{SystemTime, UNIX_EPOCH};

use praas_protocol::token::{Claims, Rights, Scope, Secret};
use support::{run_praas, scratch};

/// A data directory with a secret, as a server leaves it.
fn with_secret() -> (tempfile::TempDir, Secret) {
    let scratch = scratch();
    let secret = Secret::generate().unwrap();
    let file = scratch.path().join("secret");
    fs::write(&file, secret.as_bytes()).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    (scratch, secret)
}

fn now_unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

#[test]
fn a_token_says_what_was_asked_for() {
    let (scratch, secret) = with_secret();
    let made = |arguments: &[&str]| -> Claims {
        let ended = run_praas(scratch.path(), &[&["token", "create"], arguments].concat()).succeeded();
        secret.verify(ended.out().trim_end(), now_unix_s()).unwrap()
    };

    let before = now_unix_s();
    let claims = made(&["--process", "hello/alice", "--expires", "12h", "--principal", "editor"]);
    assert_eq!(claims.scope, Scope::Process("hello/alice".parse().unwrap()));
    assert_eq!(claims.rights, Rights::INVOKE);
    assert_eq!(claims.principal.as_str(), "editor");
    let expires = claims.expires_unix_s.unwrap();
    assert!((before + 43_200..=now_unix_s() + 43_200).contains(&expires), "{expires}");

    let claims = made(&["--application", "hello", "--rights", "invoke,manage", "--expires", "never"]);
    assert_eq!(claims.scope, Scope::Application("hello".parse().unwrap()));
    assert_eq!(claims.rights, Rights::INVOKE.with(Rights::MANAGE));
    assert_eq!(claims.expires_unix_s, None);

    let claims = made(&["--any", "--rights", "trusted", "--expires", "90s"]);
    assert_eq!((claims.scope, claims.rights), (Scope::Any, Rights::TRUSTED));
}

#[test]
fn programs_get_the_token_as_json() {
    let (scratch, secret) = with_secret();
    let ended = run_praas(scratch.path(), &["token", "create", "--any", "--expires", "never", "--json"]).succeeded();
    let token = ended.json()["token"].as_str().unwrap().to_owned();
    assert!(secret.verify(&token, now_unix_s()).is_ok());
    assert!(ended.json()["expires_unix_s"].is_null());
}

#[test]
fn without_a_secret_that_can_be_believed_there_is_no_token() {
    let scratch = scratch();
    let arguments = ["token", "create", "--any", "--expires", "1h", "--json"];
    let ended = run_praas(scratch.path(), &arguments);
    assert_eq!((ended.code(), &ended.failure()["kind"]), (1, &"no_secret".into()), "{ended:?}");

    let (scratch, _secret) = with_secret();
    let file = scratch.path().join("secret");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let ended = run_praas(scratch.path(), &arguments);
    assert_eq!((ended.code(), &ended.failure()["kind"]), (1, &"bad_secret".into()), "{ended:?}");
    assert!(ended.stdout.is_empty());
}

//! `praas new`: a function crate that is ready to build, the same as `examples/hello` under another name.
//!
//! The files are those of the example, embedded when this program was built; only names and the dependency table differ.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use praas_protocol::Name;
use serde_json::json;

use crate::command::Context;
use crate::failure::Failure;

const EXAMPLES: &str = "\
Examples:
  praas new shop                       the crate ./shop
  praas new shop --path /src/shop      the same elsewhere

It holds src/lib.rs (the functions), src/main.rs (the function binary), praas.toml (how they are run), examples/client.rs \
and tests/. Its tests call the functions without a server: cargo test.";

/// The example's files: where they go, and what is in them.
const FILES: [(&str, &str); 5] = [
    ("praas.toml", include_str!("../../../examples/hello/praas.toml")),
    ("src/lib.rs", include_str!("../../../examples/hello/src/lib.rs")),
    ("src/main.rs", include_str!("../../../examples/hello/src/main.rs")),
    ("examples/client.rs", include_str!("../../../examples/hello/examples/client.rs")),
    ("tests/hello.rs", include_str!("../../../examples/hello/tests/hello.rs")),
];

/// The example's name, which is replaced.
const EXAMPLE_NAME: &str = "hello";

/// The oldest rkyv whose checks of archives can be relied on; the workspace asks for the same.
const RKYV_VERSION: &str = "0.8.18";

/// The checkout that this program was built from.
const CHECKOUT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Arguments of `praas new`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct NewArguments {
    /// Name of the crate and of its application: letters, digits, - and _
    pub name: Name,
    /// Write to this directory instead of ./NAME
    #[arg(long, value_name = "DIR")]
    pub path: Option<PathBuf>,
}

/// Writes a function crate.
///
/// # Errors
/// [`Failure::CrateName`], [`Failure::Exists`] or [`Failure::File`].
pub fn new(context: &Context, arguments: &NewArguments) -> Result<(), Failure> {
    let name = arguments.name.as_str();
    check_crate_name(name)?;
    let directory = arguments.path.clone().unwrap_or_else(|| PathBuf::from(name));
    if directory.exists() {
        return Err(Failure::Exists { path: directory });
    }
    let files = files(name, checkout().as_deref());
    for (file, text) in &files {
        write(&directory.join(file), text)?;
    }
    let output = context.output();
    let names: Vec<&str> = files.iter().map(|(file, _)| file.as_str()).collect();
    output.value(&json!({ "name": name, "path": directory.display().to_string(), "files": names }))?;
    output.line(format_args!("wrote {} to {}\n{}", names.join(", "), directory.display(), next_steps(&directory, name)))
}

fn next_steps(directory: &Path, name: &str) -> String {
    format!(
        "\nNext:\n  cd {}\n  cargo test                           call the functions in a test, without a server\n  \
         cargo build --release\n  praas serve                          leave it running; then, in another terminal:\n  \
         praas process create {name}/alice\n  praas invoke {name}/alice greet World",
        directory.display()
    )
}

/// Cargo allows less than praas does.
fn check_crate_name(name: &str) -> Result<(), Failure> {
    let refused = |reason| Err(Failure::CrateName { name: name.to_owned(), reason });
    if name.starts_with(|first: char| first.is_ascii_digit()) {
        return refused("it starts with a digit");
    }
    if name.contains('.') {
        return refused("it contains a dot");
    }
    match name {
        "test" | "core" | "std" | "alloc" | "proc_macro" | "proc-macro" => refused("Rust has a crate of this name"),
        "build" | "deps" | "examples" | "incremental" => refused("Cargo keeps a directory of this name"),
        _ if KEYWORDS.contains(&name) => refused("it is a word of the Rust language"),
        _ => Ok(()),
    }
}

const KEYWORDS: [&str; 50] = [
    "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate", "do", "dyn", "else",
    "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl", "in", "let", "loop", "macro", "match", "mod",
    "move", "mut", "override", "priv", "pub", "ref", "return", "self", "static", "struct", "super", "trait", "true",
    "try", "type", "typeof", "unsafe", "unsized", "use", "virtual", "where", "while",
];

/// Every file of the crate, as its path and its text.
fn files(name: &str, checkout: Option<&Path>) -> Vec<(String, String)> {
    let mut files = vec![
        ("Cargo.toml".to_owned(), cargo_manifest(name, checkout)),
        (".gitignore".to_owned(), "/target\n".to_owned()),
    ];
    for (file, text) in FILES {
        let file = file.replace(EXAMPLE_NAME, name);
        files.push((file, renamed(text, name)));
    }
    files
}

/// The example's text under another name: as a crate in Rust paths, as written elsewhere.
fn renamed(text: &str, name: &str) -> String {
    // What the example says of its place in this repository.
    text.replace("examples/hello/praas.toml", "praas.toml")
        .replace("../../target/", "target/")
        .replace("hello::", &format!("{}::", name.replace('-', "_")))
        .replace(EXAMPLE_NAME, name)
}

fn cargo_manifest(name: &str, checkout: Option<&Path>) -> String {
    let dependency = |krate: &str, folder: &str| match checkout {
        Some(checkout) => format!("{krate} = {{ path = {:?} }}", checkout.join(folder)),
        None => format!("{krate} = {:?}", env!("CARGO_PKG_VERSION")),
    };
    format!(
        "[package]\n\
         name = \"{name}\"\n\
         version = \"0.1.0\"\n\
         edition = \"2024\"\n\
         publish = false\n\
         \n\
         [dependencies]\n\
         {}\n\
         rkyv = \"{RKYV_VERSION}\"\n\
         \n\
         [dev-dependencies]\n\
         {}\n\
         \n\
         # A workspace of its own, also below somebody else's.\n\
         [workspace]\n",
        dependency("praas-function", "dataplane/function"),
        dependency("praas-client", "dataplane/client"),
    )
}

/// The checkout that this program was built from, if it is still there.
pub(crate) fn checkout() -> Option<PathBuf> {
    let checkout = Path::new(CHECKOUT).canonicalize().ok()?;
    checkout.join("dataplane/function/Cargo.toml").is_file().then_some(checkout)
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(Failure::file("creating", parent))?;
    }
    fs::write(path, text).map_err(Failure::file("writing", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_of<'a>(files: &'a [(String, String)], path: &str) -> &'a str {
        &files.iter().find(|(file, _)| file == path).unwrap_or_else(|| panic!("{path} is missing in {files:?}")).1
    }

    #[test]
    fn nothing_of_the_examples_name_is_left() {
        for (file, text) in files("shop-2", None) {
            assert!(!file.contains("hello") && !text.contains("hello"), "{file}:\n{text}");
        }
    }

    #[test]
    fn a_crate_with_a_dash_is_imported_with_an_underscore() {
        let files = files("my-shop", None);
        assert!(text_of(&files, "src/main.rs").contains("my_shop::application"));
        assert!(text_of(&files, "praas.toml").contains("name = \"my-shop\""));
        assert!(text_of(&files, "praas.toml").contains("binary = \"target/release/my-shop\""));
        assert!(text_of(&files, "examples/client.rs").contains("my-shop/world"));
    }

    #[test]
    fn without_a_checkout_the_release_is_depended_on() {
        let manifest = cargo_manifest("shop", None);
        assert!(manifest.contains(&format!("praas-function = \"{}\"", env!("CARGO_PKG_VERSION"))), "{manifest}");
        let manifest = cargo_manifest("shop", Some(Path::new("/src/praas")));
        assert!(manifest.contains("praas-function = { path = \"/src/praas/dataplane/function\" }"), "{manifest}");
    }

    #[test]
    fn the_new_crate_asks_for_the_workspaces_rkyv() {
        let workspace = include_str!("../../../Cargo.toml");
        let line = workspace.lines().find(|line| line.starts_with("rkyv = ")).unwrap();
        assert!(line.contains(&format!("\"{RKYV_VERSION}\"")), "{line}");
    }

    #[test]
    fn names_that_cargo_refuses_are_refused_here() {
        for name in ["0shop", "a.b", "test", "fn", "async"] {
            assert!(matches!(check_crate_name(name), Err(Failure::CrateName { .. })), "{name}");
        }
        assert!(check_crate_name("shop_2-b").is_ok());
    }
}

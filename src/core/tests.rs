//! The rules stay plain data and functions: nothing in this folder does I/O, reads a clock, takes a lock, waits or throws
//! dice.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Crates that code here may name.
const CRATES: [&str; 10] =
    ["std", "super", "self", "crate", "blake3", "bytes", "http", "httpdate", "siphasher", "thiserror"];

/// Parts of `std` that it may not.
const MODULES: [&str; 8] = ["sync", "net", "fs", "io", "thread", "env", "process", "os"];

/// Words that it may not say.
const WORDS: [&str; 34] = [
    // Not here: the asynchronous, and other people's maps and locks.
    "async",
    "await",
    "Future",
    "tokio",
    "hyper",
    "hashbrown",
    "parking_lot",
    "Mutex",
    "RwLock",
    "Condvar",
    "Once",
    "OnceLock",
    "LazyLock",
    "thread_local",
    "RefCell",
    "UnsafeCell",
    "AtomicBool",
    "AtomicU32",
    "AtomicU64",
    "AtomicUsize",
    // A clock.
    "Instant",
    "SystemTime",
    // Chance.
    "rand",
    "getrandom",
    "RandomState",
    "DefaultHasher",
    // I/O.
    "File",
    "TcpStream",
    "UdpSocket",
    "print",
    "println",
    "eprintln",
    "tracing",
    "unsafe",
];

/// What of it the code of a file breaks, each with its line.
fn violations(source: &str) -> Vec<(usize, String)> {
    let code = source.lines().take_while(|line| line.trim() != "#[cfg(test)]");
    let mut found = Vec::new();
    let mut in_use = false;
    for (number, line) in (1..).zip(code).filter(|(_, line)| !line.trim_start().starts_with("//")) {
        let tokens = tokens(line);
        in_use |= tokens.contains(&"use");
        for (index, token) in tokens.iter().enumerate() {
            let before = index.checked_sub(1).map_or("", |index| tokens[index]);
            let after = tokens.get(index + 1).copied().unwrap_or_default();
            let ours = index >= 2 && before == "::" && tokens[index - 2] == "crate" && *token != "core";
            let stranger = before == "use" && !CRATES.contains(token);
            let module = MODULES.contains(token) && (in_use || after == "::");
            if WORDS.contains(token) || ours || stranger || module {
                found.push((number, (*token).to_owned()));
            }
        }
        in_use &= !line.contains(';');
    }
    found
}

/// The words of a line, and `::` between them.
fn tokens(line: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let length = match word {
            0 if rest.starts_with("::") => 2,
            0 => first.len_utf8(),
            word => word,
        };
        let (token, after) = rest.split_at(length);
        if word > 0 || token == "::" {
            tokens.push(token);
        }
        rest = after;
    }
    tokens
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|end| end == "rs") && path.file_name().is_some_and(|n| n != "tests.rs") {
            files.push(path);
        }
    }
    files
}

#[test]
fn the_rules_do_no_io_read_no_clock_take_no_lock_and_never_wait() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = rust_files(&src.join("core"));
    files.push(src.join("core.rs"));
    let all = ["core.rs", "etag.rs", "policy.rs", "precondition.rs", "record.rs", "resource.rs", "verdict.rs"];
    for name in all {
        assert!(files.iter().any(|file| file.ends_with(name)), "{name} was not looked at");
    }
    for file in files {
        let source = fs::read_to_string(&file).expect("a source file");
        assert_eq!(violations(&source), [], "{}", file.display());
    }
}

#[test]
fn a_breach_is_found() {
    let breaches = [
        ("use tokio::time::sleep;", "tokio"),
        ("use std::sync::Arc;", "sync"),
        ("use std::{fmt, sync::Arc};", "sync"),
        ("use std::{\n    fmt,\n    sync,\n};", "sync"),
        ("let shared = std::sync::Arc::new(1);", "sync"),
        ("lock: Mutex<u8>,", "Mutex"),
        ("lock: parking_lot::RwLock<u8>,", "parking_lot"),
        ("map: hashbrown::HashMap<u8, u8>,", "hashbrown"),
        ("let client = hyper::Client;", "hyper"),
        ("let now = std::time::Instant::now();", "Instant"),
        ("use std::time::{Duration, SystemTime};", "SystemTime"),
        ("pub async fn judge() {}", "async"),
        ("judge().await;", "await"),
        ("let socket = std::net::TcpListener::bind(a);", "net"),
        ("let text = fs::read(path);", "fs"),
        ("let n: u8 = rand::random();", "rand"),
        ("println!(\"{n}\");", "println"),
        ("use serde::Serialize;", "serde"),
        ("use crate::tracker::Tracker;", "tracker"),
        ("fn f(t: &crate::gateway::Gateway) {}", "gateway"),
    ];
    for (code, word) in breaches {
        let found = violations(&format!("//! A rule.\n{code}\n"));
        assert!(found.iter().any(|(line, token)| *line >= 2 && token == word), "{code}: {found:?}");
    }
    let found = violations("fn f() {}\n\nfn g() {\n    let t = Instant::now();\n}\n");
    assert_eq!(found, [(4, "Instant".to_owned())]);
}

#[test]
fn what_is_no_breach_is_let_pass() {
    for code in [
        "/// A Mutex is absent: nothing is async here.",
        "    // Not tokio.",
        "use std::{fmt, time::Duration};",
        "use super::etag::EntityTag;",
        "use crate::core::etag::EntityTag;",
        "let operand = instant_of(random, synchronised);",
        "let (fs, net) = (1, 2);",
        "fn f() {}\n\n#[cfg(test)]\nmod tests {\n    use std::sync::Mutex;\n}",
    ] {
        assert_eq!(violations(code), [], "{code}");
    }
}

//! What the program complains of says what it is about, why, and what comes of it or is to be done.
//!
//! The source text is read, not compiled: each literal that is handed to `error` and `warn` of the log, or is put among a stage's
//! alarms and messages. Its shape is `OBJECT: REASON; WHAT BECOMES OF IT OR WHAT TO DO`. Of a text whose end is a value (`{why}`)
//! the rest was written elsewhere.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)] // a test stops at the first surprise

use std::fs;
use std::path::{Path, PathBuf};

const CALLS: &[&str] =
    &[".error(", ".warn(", "alarms.push(", "messages.push((false, ", "warnings.push(", ".wrong.push("];

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("tests.rs") {
            found.push(path);
        }
    }
}

/// The literals between a call's parenthesis and the one that closes it.
fn literals(code: &str) -> Vec<String> {
    let (mut found, mut depth) = (Vec::new(), 1);
    let mut chars = code.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            '"' => {
                let mut text = String::new();
                while let Some(c) = chars.next().filter(|c| *c != '"') {
                    if c != '\\' {
                        text.push(c);
                    } else if chars.next() == Some('\n') {
                        while chars.next_if(|c| c.is_whitespace()).is_some() {}
                    }
                }
                found.push(text);
            }
            '/' if chars.peek() == Some(&'/') => while chars.next().is_some_and(|c| c != '\n') {},
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    found
}

/// What is wrong with a message, if anything.
fn wrong(text: &str) -> Option<&'static str> {
    let Some((object, rest)) = text.split_once(": ").or_else(|| text.split_once("; ")) else {
        return Some("no `: ` behind what it is about");
    };
    let names =
        object.contains('{') || object.chars().all(|c| c.is_ascii_alphanumeric() || "_ .-`".contains(c));
    match () {
        () if !names => Some("nothing in front says what it is about"),
        () if !text.contains("; ") && !rest.ends_with('}') => Some("no `; ` in front of what becomes of it"),
        () => None,
    }
}

#[test]
fn each_message_says_what_it_is_about_and_what_is_to_be_done() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    files(&root, &mut paths);
    paths.sort();
    let (mut seen, mut bad) = (0, Vec::new());
    for path in paths {
        // Problems of a configuration have a shape of their own, and its tests.
        if path.starts_with(root.join("config")) || path.ends_with("config.rs") || path.ends_with("log.rs") {
            continue;
        }
        let whole = fs::read_to_string(&path).unwrap();
        let code = whole.split("#[cfg(test)]\nmod tests").next().unwrap();
        for (at, call) in CALLS.iter().flat_map(|c| code.match_indices(c)) {
            // The longest is the message; others are parts of it.
            let Some(text) = literals(&code[at + call.len()..]).into_iter().max_by_key(String::len) else {
                continue;
            };
            seen += 1;
            if let Some(why) = wrong(&text) {
                let line = code[..at].lines().count() + 1;
                bad.push(format!("{}:{line}: {why}: {text:?}", path.strip_prefix(&root).unwrap().display()));
            }
        }
    }
    assert!(seen > 60, "only {seen} messages were found: has the way of logging changed?");
    assert!(bad.is_empty(), "{} of {seen}:\n{}", bad.len(), bad.join("\n"));
}

#[test]
fn a_message_without_object_reason_or_step_is_found() {
    assert_eq!(wrong("{key}: damaged: {why}; send the hour again"), None);
    assert_eq!(wrong("hb_port {listen}: {why}"), None);
    assert!(wrong("something went wrong").is_some());
    assert!(wrong("Oh no!: it went wrong; try again").is_some());
    assert!(wrong("{key}: it is damaged").is_some());
    let code = "&format!(\n    \"{key}: one \\\n     line (\\\")\", // )\n    other(\"x\")\n)) more(\"y\")";
    assert_eq!(literals(code), ["{key}: one line ()", "x"]);
}

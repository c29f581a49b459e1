//! The architecture's invariants, read from the source text.
//!
//! A module uses only modules of lower layers. So whoever changes a module knows who can be hurt (those above it) and
//! what it can rely on (those below), and the stages of layer 5 can be joined in a test as `roles` joins them.
//!
//! The text is scanned, not compiled: comments and literals are blanked, items under `#[cfg(test)]` are left out, and
//! every path that begins with `crate::` (or reaches the crate's root by `super::`) counts as a use.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)] // a test stops at the first surprise

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The layers, highest first. A module that is not here fails the test.
const LAYERS: &[(u8, &[&str])] = &[
    (10, &["main"]),
    // The command line.
    (9, &["cli"]),
    // Operators' commands.
    (8, &["ops"]),
    // Stages joined; threads.
    (7, &["roles"]),
    // What a monitor knows of all others; a store's lines in a database.
    (6, &["monitor", "documents"]),
    // Stages: they never use each other.
    (5, &["tail", "sender", "receiver", "output", "heartbeat", "http", "inventory", "etl"]),
    // What is durable. The packer is no state, but the part of `tail` that cuts; it needs nothing but `pack`.
    (4, &["spool", "journal", "footprint", "integrity", "packer"]),
    // What a running role has around it.
    (3, &["log", "state", "instance", "auth", "tls"]),
    // Formats and the configuration.
    (2, &["pack", "config", "record", "overview"]),
    // The machine.
    (1, &["disk", "clock", "shutdown", "name", "health"]),
    // Bugs that the proof plants anywhere, and what is counted anywhere.
    (0, &["planted", "metrics"]),
];

/// Modules that may use less than their layer allows: these know neither files nor sockets nor the configuration.
const ONLY: &[(&str, &[&str])] = &[("pack", &["clock", "name", "planted"]), ("packer", &["pack"])];

/// Modules that may start threads and sleep.
const THREADS: &[&str] = &["roles", "ops"];

/// What may be used of `std::fs` outside `disk`: nothing that writes.
const READING: &[&str] = &[
    "File",
    "canonicalize",
    "metadata",
    "read",
    "read_dir",
    "read_link",
    "read_to_string",
    "symlink_metadata",
];

/// What writes outside `disk` all the same, file by file. The demo's directory is scenery: nothing in it must survive a
/// crash, it is made with a mode of its own, removed as a whole, and a child's messages go straight into a file.
const SCENERY: &[(&str, &str)] = &[
    ("src/ops/demo.rs", "DirBuilder"),
    ("src/ops/demo.rs", "remove_dir_all"),
    ("src/ops/demo/child.rs", "File::create"),
];

const LINES_MAX: usize = 800;
const MAIN_LINES_MAX: usize = 40;

/// A source file without comments, literals and tests.
struct Source {
    /// Below the package's directory.
    path: PathBuf,
    /// The top-level module it belongs to.
    module: String,
    /// How many `super::` lead to the crate's root.
    depth: usize,
    code: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found.sort();
}

/// Every file of the program; those that only tests compile are left out.
fn sources() -> Vec<Source> {
    let src = root().join("src");
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    let mut tests = BTreeSet::new();
    let mut all = Vec::new();
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        let (code, test_modules) = without_tests(&blanked(&text));
        // `mod tests;` in `a/b.rs` is the file `a/b/tests.rs`.
        tests.extend(test_modules.iter().map(|m| path.with_extension("").join(format!("{m}.rs"))));
        let below = path.strip_prefix(&src).unwrap().with_extension("");
        let parts: Vec<String> = below.iter().map(|p| p.to_str().unwrap().to_owned()).collect();
        all.push(Source { module: parts[0].clone(), depth: parts.len(), code, path });
    }
    all.retain(|s| !tests.contains(&s.path));
    for s in &mut all {
        s.path = s.path.strip_prefix(root()).unwrap().to_owned();
    }
    all
}

/// The text with comments, strings and characters replaced by blanks; lines stay where they are.
fn blanked(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = chars.clone();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let mut i = 0;
    while i < chars.len() {
        let start = i;
        match (at(i), at(i + 1)) {
            ('/', '/') => {
                while i < chars.len() && at(i) != '\n' {
                    i += 1;
                }
            }
            ('/', '*') => {
                let mut open = 1;
                i += 2;
                while i < chars.len() && open > 0 {
                    match (at(i), at(i + 1)) {
                        ('/', '*') => (open, i) = (open + 1, i + 2),
                        ('*', '/') => (open, i) = (open - 1, i + 2),
                        _ => i += 1,
                    }
                }
            }
            ('r', '"' | '#') if i == 0 || !(at(i - 1).is_alphanumeric() || at(i - 1) == '_') => {
                let hashes = chars[i + 1..].iter().take_while(|c| **c == '#').count();
                if at(i + 1 + hashes) == '"' {
                    let end: Vec<char> =
                        std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
                    i += 2 + hashes;
                    while i < chars.len() && !chars[i..].starts_with(&end) {
                        i += 1;
                    }
                    i += end.len();
                } else {
                    i += 1;
                    continue;
                }
            }
            ('"', _) => {
                i += 1;
                while i < chars.len() && at(i) != '"' {
                    i += if at(i) == '\\' { 2 } else { 1 };
                }
                i += 1;
            }
            // A character, not a lifetime.
            ('\'', c) if c == '\\' || at(i + 2) == '\'' => {
                i += if c == '\\' { 3 } else { 2 };
                while i < chars.len() && at(i) != '\'' {
                    i += 1;
                }
                i += 1;
            }
            _ => {
                i += 1;
                continue;
            }
        }
        for c in out.iter_mut().take(i).skip(start).filter(|c| **c != '\n') {
            *c = ' ';
        }
    }
    out.into_iter().collect()
}

/// The code without the items under `#[cfg(test)]`, and the modules among them that are files.
fn without_tests(code: &str) -> (String, Vec<String>) {
    let (mut out, mut modules, mut rest) = (String::new(), Vec::new(), code);
    while let Some((before, item)) = rest.split_once("#[cfg(test)]") {
        out.push_str(before);
        let stop = item.find(['{', ';']).unwrap_or(item.len());
        if item[stop..].starts_with(';') {
            modules.extend(
                item[..stop].trim().trim_start_matches("pub(crate) ").strip_prefix("mod ").map(str::to_owned),
            );
            rest = &item[stop + 1..];
            continue;
        }
        let mut open = 0;
        let end = item.char_indices().find(|(_, c)| {
            open += i32::from(*c == '{') - i32::from(*c == '}');
            *c == '}' && open == 0
        });
        rest = end.map_or("", |(at, _)| &item[at + 1..]);
    }
    (out + rest, modules)
}

/// The names that a path or a `{…}` group begins with.
fn heads(path: &str) -> Vec<String> {
    let path = path.trim_start();
    let ident = |t: &str| t.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let Some(group) = path.strip_prefix('{') else { return vec![ident(path)] };
    let (mut open, mut names, mut fresh) = (0, Vec::new(), true);
    for (i, c) in group.char_indices() {
        match c {
            '{' => open += 1,
            '}' if open == 0 => break,
            '}' => open -= 1,
            ',' if open == 0 => fresh = true,
            c if fresh && !c.is_whitespace() => {
                names.push(ident(&group[i..]));
                fresh = false;
            }
            _ => {}
        }
    }
    names
}

/// The places where a path begins with `prefix`, not in the middle of a longer word: what follows each.
fn after<'c>(code: &'c str, prefix: &'c str) -> impl Iterator<Item = &'c str> {
    code.match_indices(prefix).filter_map(move |(at, _)| {
        let glued = code[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || "_:$".contains(c));
        (!glued).then(|| &code[at + prefix.len()..])
    })
}

/// The top-level modules that a file uses.
fn uses(s: &Source) -> BTreeSet<String> {
    let mut found: BTreeSet<String> = after(&s.code, "crate::").flat_map(heads).collect();
    let up = "super::".repeat(s.depth);
    found.extend(after(&s.code, &up).flat_map(heads));
    if s.module == "main" {
        found.extend(after(&s.code, "logd::").flat_map(heads));
    }
    found.remove(&s.module);
    // What does not begin with a small letter is a type, and `self` is the module itself.
    found.retain(|name| {
        name.starts_with(|c: char| c.is_ascii_lowercase()) && name != "self" && name != "super"
    });
    found
}

fn layers() -> BTreeMap<&'static str, u8> {
    LAYERS.iter().flat_map(|(layer, modules)| modules.iter().map(|m| (*m, *layer))).collect()
}

#[test]
fn a_module_uses_only_lower_layers() {
    let layers = layers();
    let mut wrong = Vec::new();
    for s in sources().iter().filter(|s| s.module != "lib") {
        let mine = layers.get(s.module.as_str()).unwrap_or_else(|| panic!("{}: no layer", s.path.display()));
        for used in uses(s) {
            match layers.get(used.as_str()) {
                Some(layer) if layer < mine => {}
                Some(layer) => wrong.push(format!(
                    "{} (layer {mine}) uses {used} (layer {layer}); move what it needs down, or join the two in roles",
                    s.path.display()
                )),
                None => wrong.push(format!("{} uses {used}, which has no layer", s.path.display())),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn formats_and_cuts_know_no_files() {
    for s in sources() {
        let Some((_, allowed)) = ONLY.iter().find(|(module, _)| *module == s.module) else { continue };
        for used in uses(&s) {
            assert!(allowed.contains(&used.as_str()), "{} uses {used}", s.path.display());
        }
        for word in ["std::fs", "std::net", "std::io", "std::path"] {
            assert!(after(&s.code, word).next().is_none(), "{} uses {word}", s.path.display());
        }
    }
}

#[test]
fn the_table_names_the_modules_there_are() {
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let declared: BTreeSet<String> = after(&blanked(&lib), "mod ").flat_map(heads).collect();
    let mut listed: BTreeSet<String> = layers().keys().map(|m| (*m).to_owned()).collect();
    assert!(listed.remove("main"));
    assert_eq!(declared, listed);
}

#[test]
fn only_disk_writes_files() {
    let mut found = BTreeSet::new();
    for s in sources().iter().filter(|s| s.module != "disk") {
        let path = s.path.display().to_string();
        let used = after(&s.code, "fs::").chain(after(&s.code, "std::fs::")).flat_map(heads);
        found.extend(
            used.filter(|n| n != "self" && !READING.contains(&n.as_str())).map(|n| (path.clone(), n)),
        );
        for word in ["OpenOptions", "File::create", "File::options", "rustix::fs"] {
            found.extend(after(&s.code, word).next().map(|_| (path.clone(), word.to_owned())));
        }
    }
    let allowed: BTreeSet<_> =
        SCENERY.iter().map(|(path, word)| ((*path).to_owned(), (*word).to_owned())).collect();
    let new: Vec<_> = found.difference(&allowed).collect();
    assert!(new.is_empty(), "use crate::disk instead: {new:?}");
    let gone: Vec<_> = allowed.difference(&found).collect();
    assert!(gone.is_empty(), "no longer needed in SCENERY: {gone:?}");
}

#[test]
fn only_roles_and_commands_have_threads_and_sleep() {
    for s in sources().iter().filter(|s| !THREADS.contains(&s.module.as_str())) {
        for word in ["thread::", "std::thread", "sleep("] {
            assert!(
                after(&s.code, word).next().is_none(),
                "{}: {word}: a stage takes a clock; threads are in roles",
                s.path.display()
            );
        }
    }
}

#[test]
fn nothing_is_unsafe() {
    for s in sources() {
        assert!(after(&s.code, "unsafe ").next().is_none(), "{}", s.path.display());
    }
}

#[test]
fn files_stay_small() {
    let mut files = Vec::new();
    for dir in ["src", "tests", "benches"].map(|d| root().join(d)).iter().filter(|d| d.is_dir()) {
        rust_files(dir, &mut files);
    }
    for path in files {
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        let most = if path.ends_with("src/main.rs") { MAIN_LINES_MAX } else { LINES_MAX };
        assert!(lines <= most, "{}: {lines} lines, at most {most}", path.display());
    }
}

/// The scanner must see what it is to find; else everything above passes for ever.
#[test]
fn the_scanner_sees() {
    let text = r##"
        use crate::{disk::{self, Disk}, tail};
        // crate::comment
        const A: &str = "crate::string \" crate::more"; const B: char = '"'; const C: &str = r#"crate::raw " "#;
        /* crate::block /* nested */ crate::still */
        fn f<'a>(x: &'a crate::spool::Spool) -> super::pack::Meta { '\'' ; crate::log::put() }
        #[cfg(test)] mod far;
        #[cfg(test)]
        mod tests { fn g() { crate::testing::x(); if true { } } }
        fn h() { thread::sleep(1); std::fs::write(2) }
    "##;
    let (code, modules) = without_tests(&blanked(text));
    assert_eq!(modules, ["far"]);
    let s = Source { path: "x.rs".into(), module: "x".into(), depth: 1, code };
    let found: Vec<String> = uses(&s).into_iter().collect();
    assert_eq!(found, ["disk", "log", "pack", "spool", "tail"]);
    assert!(after(&s.code, "thread::").next().is_some());
    assert_eq!(after(&s.code, "std::fs::").flat_map(heads).collect::<Vec<_>>(), ["write"]);
}

//! What the program is made of: crates of known licences, from one registry, each once, and each for a reason.
//!
//! `cargo metadata` tells what is built on this machine. It is not asked for other systems: their crates were never
//! downloaded, and the tests need no network. Crates that only tests use are not looked at, since no user gets them.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)] // a test stops at the first surprise

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Every crate must be usable under these alone. `deny.toml` has the same list.
const LICENCES: [&str; 3] = ["MIT", "Unicode-3.0", "Zlib"];

/// A Cargo feature that brings crates.
struct Feature {
    name: &'static str,
    /// Licences that are needed beside [`LICENCES`].
    licences: &'static [&'static str],
    /// Crates that it brings in a second version, which is argued here: the database's client signs in with SHA-2 of the
    /// generation before ours (`sha2` and what that is made of), and its parts agree on no `base64`. They are small, and
    /// whoever does not ask for the feature has none of them.
    twice: &'static [&'static str],
}

const FEATURES: [Feature; 4] = [
    Feature { name: "etl", licences: &[], twice: &[] },
    Feature { name: "tls", licences: &["Apache-2.0", "BSD-3-Clause", "ISC"], twice: &[] },
    Feature {
        name: "mongodb",
        licences: &["Apache-2.0", "BSD-3-Clause", "CC0-1.0", "CDLA-Permissive-2.0", "ISC"],
        twice: &["getrandom", "rand", "rand_core", "syn"],
    },
    Feature {
        name: "mysql",
        licences: &[],
        twice: &["base64", "block-buffer", "cpufeatures", "crypto-common", "digest", "sha2"],
    },
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
}

fn cargo(args: &[&str]) -> String {
    try_cargo(args).unwrap_or_else(|why| panic!("{why}"))
}

fn try_cargo(args: &[&str]) -> Result<String, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into());
    let out = Command::new(cargo).args(args).current_dir(root()).output().unwrap();
    if !out.status.success() {
        return Err(format!("cargo {args:?}: {}", String::from_utf8_lossy(&out.stderr)));
    }
    Ok(String::from_utf8(out.stdout).unwrap())
}

fn metadata() -> Value {
    metadata_with(&[]).unwrap_or_else(|why| panic!("{why}"))
}

/// An error if crates of these features were never downloaded.
fn metadata_with(features: &[&str]) -> Result<Value, String> {
    let version = cargo(&["-vV"]);
    let host = version.lines().find_map(|l| l.strip_prefix("host: ")).unwrap();
    let args = ["metadata", "--locked", "--offline", "--format-version", "1", "--filter-platform", host];
    let args: Vec<&str> = args.into_iter().chain(features.iter().flat_map(|f| ["--features", *f])).collect();
    try_cargo(&args).map(|text| serde_json::from_str(&text).unwrap())
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The packages that a build of the program compiles, by id: the program itself, what it uses, and what builds that.
fn built(all: &Value) -> BTreeMap<&str, &Value> {
    let packages: BTreeMap<&str, &Value> =
        list(&all["packages"]).iter().map(|p| (text(&p["id"]), p)).collect();
    let nodes: BTreeMap<&str, &Value> =
        list(&all["resolve"]["nodes"]).iter().map(|n| (text(&n["id"]), n)).collect();
    let (mut found, mut next) = (BTreeMap::new(), vec![text(&all["resolve"]["root"])]);
    while let Some(id) = next.pop() {
        if found.insert(id, packages[id]).is_none() {
            let used = list(&nodes[id]["deps"]).iter();
            let used = used.filter(|d| list(&d["dep_kinds"]).iter().any(|k| k["kind"] != "dev"));
            next.extend(used.map(|d| text(&d["pkg"])));
        }
    }
    assert!(found.len() > 20, "{} packages", found.len());
    found
}

/// What is wrong with the packages of a build, one complaint each.
fn complaints(
    built: &BTreeMap<&str, &Value>,
    (licences, twice): (&[&str], &[&str]),
    root: &str,
) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (id, package) in built {
        let name = text(&package["name"]);
        versions.entry(name).or_default().insert(text(&package["version"]));
        let licence = text(&package["license"]);
        if !permits(licence, licences) {
            wrong.push(format!("{name}: licence {licence:?}; is it one that we want?"));
        }
        // No source: a path. Only the program itself has that.
        let source = text(&package["source"]);
        if !source.starts_with("registry+") && *id != root {
            wrong.push(format!("{name}: from {source:?}, not from the registry"));
        }
    }
    for (name, v) in versions.iter().filter(|(name, v)| (v.len() > 1) != twice.contains(name)) {
        let more =
            if v.len() > 1 { "one is enough" } else { "take it off the list of those that are there twice" };
        wrong.push(format!("{name}: in {v:?}; {more}"));
    }
    wrong
}

#[test]
fn every_crate_has_a_known_licence_comes_from_the_registry_and_is_there_once() {
    let all = metadata();
    let wrong = complaints(&built(&all), (&LICENCES, &[]), text(&all["resolve"]["root"]));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for Feature { name: feature, licences, twice } in FEATURES {
        let all = match metadata_with(&[feature]) {
            Ok(all) => all,
            Err(why) if why.contains("--offline") => {
                println!("skipped: the crates of feature {feature}: they were never downloaded");
                continue;
            }
            Err(why) => panic!("{why}"),
        };
        let (built, allowed) = (built(&all), [&LICENCES, licences].concat());
        let wrong = complaints(&built, (&allowed, twice), text(&all["resolve"]["root"]));
        assert!(wrong.is_empty(), "{feature}: {}", wrong.join("\n"));
        for licence in licences {
            let others: Vec<&str> = allowed.iter().copied().filter(|l| l != licence).collect();
            let needed = built.values().any(|p| !permits(text(&p["license"]), &others));
            assert!(needed, "{feature}: {licence}: no crate needs it");
        }
    }
}

/// Else the test above might pass for ever.
#[test]
fn what_is_wrong_is_seen() {
    let package = |name: &str, version: &str, license: &str, source: &str| serde_json::json!({"name": name, "version": version, "license": license, "source": source});
    let (good, git) = ("registry+x", "git+x");
    let packages = [
        package("logd", "1.0.0", "MIT", ""),
        package("fine", "1.0.0", "MIT", good),
        package("twice", "1.0.0", "MIT", good),
        package("twice", "2.0.0", "MIT", good),
        package("copyleft", "1.0.0", "GPL-3.0", good),
        package("silent", "1.0.0", "", good),
        package("git", "1.0.0", "MIT", git),
        package("path", "1.0.0", "MIT", ""),
    ];
    let ids = ["0", "1", "2", "3", "4", "5", "6", "7"];
    let told = complaints(&ids.into_iter().zip(&packages).collect(), (&LICENCES, &["fine"]), "0");
    let named: Vec<&str> = told.iter().filter_map(|t| t.split(':').next()).collect();
    assert_eq!(named, ["copyleft", "silent", "git", "path", "fine", "twice"], "{told:?}");
}

// ---- licences -------------------------------------------------------------------------------------------------

/// May a crate with this SPDX expression be used under the `allowed` licences? `/` is an older way to write OR.
fn permits(expression: &str, allowed: &[&str]) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    any(&mut rest, allowed).unwrap_or(false) && rest.is_empty()
}

/// Takes a word off the front if it is this one.
fn take(rest: &mut &[&str], word: &str) -> bool {
    let found = rest.first() == Some(&word);
    if found {
        *rest = &rest[1..];
    }
    found
}

/// One side of an OR is enough. None: this is no expression.
fn any(rest: &mut &[&str], allowed: &[&str]) -> Option<bool> {
    let mut ok = every(rest, allowed)?;
    while take(rest, "OR") {
        ok |= every(rest, allowed)?;
    }
    Some(ok)
}

/// AND binds closer than OR, and needs both sides.
fn every(rest: &mut &[&str], allowed: &[&str]) -> Option<bool> {
    let mut ok = one(rest, allowed)?;
    while take(rest, "AND") {
        ok &= one(rest, allowed)?;
    }
    Some(ok)
}

fn one(rest: &mut &[&str], allowed: &[&str]) -> Option<bool> {
    if take(rest, "(") {
        let ok = any(rest, allowed)?;
        return take(rest, ")").then_some(ok);
    }
    let (licence, after) = rest.split_first()?;
    *rest = after;
    if take(rest, "WITH") {
        // A licence with an exception is another licence.
        *rest = rest.get(1..)?;
        return Some(false);
    }
    Some(allowed.contains(licence))
}

#[test]
fn expressions_are_read_as_spdx_means_them() {
    let allowed = ["MIT", "Zlib"];
    for good in ["MIT", "MIT OR GPL-3.0", "GPL-3.0/MIT", "MIT AND Zlib", "GPL-3.0 OR (Zlib AND MIT)"] {
        assert!(permits(good, &allowed), "{good}");
    }
    assert!(permits("Apache-2.0 WITH LLVM-exception OR Apache-2.0 OR MIT", &allowed));
    for bad in
        ["", "GPL-3.0", "MIT AND GPL-3.0", "MIT AND GPL-3.0 OR GPL-2.0", "(MIT OR GPL-3.0) AND GPL-2.0"]
    {
        assert!(!permits(bad, &allowed), "{bad}");
    }
    for broken in ["MIT OR", "(MIT", "MIT)", "MIT Zlib", "MIT WITH", "MIT WITH x"] {
        assert!(!permits(broken, &allowed), "{broken}");
    }
}

#[test]
fn cargo_deny_is_told_the_same_licences() {
    let file = read("deny.toml");
    let line = file.lines().find_map(|l| l.strip_prefix("allow = [")).unwrap();
    let told: Vec<&str> = line.split('"').skip(1).step_by(2).collect();
    assert_eq!(told, LICENCES);
    // None for nothing: a list that grows unnoticed allows what nobody decided.
    let all = metadata();
    for licence in LICENCES {
        let others: Vec<&str> = LICENCES.into_iter().filter(|l| *l != licence).collect();
        let needed = built(&all).values().any(|p| !permits(text(&p["license"]), &others));
        assert!(needed, "{licence}: no crate needs it");
    }
}

// ---- reasons --------------------------------------------------------------------------------------------------

/// A dependency as Cargo.toml has it, with the comment above it and behind it.
struct Wanted {
    name: String,
    dev: bool,
    line: String,
    reason: String,
}

fn wanted(manifest: &str) -> Vec<Wanted> {
    let (mut section, mut reason, mut found) = (String::new(), String::new(), Vec::new());
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            line.clone_into(&mut section);
        } else if let Some(comment) = line.strip_prefix('#') {
            reason += comment;
            continue;
        } else if let ("[dependencies]" | "[dev-dependencies]", Some((name, rest))) =
            (section.as_str(), line.split_once('='))
        {
            let (line, behind) = rest.split_once('#').unwrap_or((rest, ""));
            found.push(Wanted {
                name: name.trim().to_owned(),
                dev: section == "[dev-dependencies]",
                line: line.to_owned(),
                reason: (reason.clone() + behind).trim().to_owned(),
            });
        }
        reason.clear();
    }
    found
}

/// The words between backquotes.
fn quoted(text: &str) -> BTreeSet<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// What our manifest and code call it.
fn called(dependency: &Value) -> &str {
    dependency["rename"].as_str().unwrap_or(text(&dependency["name"]))
}

#[test]
fn every_dependency_and_feature_has_its_reason_in_the_manifest() {
    let file = read("Cargo.toml");
    let wanted = wanted(&file);
    let all = metadata();
    let ours = built(&all)[text(&all["resolve"]["root"])];
    // What cargo has read: so no way of writing a dependency, such as a table of its own, escapes.
    let real: BTreeSet<(String, bool)> =
        list(&ours["dependencies"]).iter().map(|d| (called(d).to_owned(), d["kind"] == "dev")).collect();
    let told: BTreeSet<_> = wanted.iter().map(|w| (w.name.clone(), w.dev)).collect();
    assert_eq!(told, real, "one line each, in [dependencies] and [dev-dependencies]");
    for d in list(&ours["dependencies"]) {
        let w = wanted.iter().find(|w| w.name == called(d) && w.dev == (d["kind"] == "dev")).unwrap();
        assert!(w.reason.len() > 10, "{}: a comment above it says why it is there", w.name);
        let features: BTreeSet<&str> = list(&d["features"]).iter().map(text).collect();
        assert_eq!(
            quoted(&w.reason),
            features,
            "{}: the features, in backquotes, with their reasons",
            w.name
        );
        assert!(!w.line.contains(['*', '>', '<']), "{}: {}", w.name, w.line);
    }
}

#[test]
fn every_dependency_is_used() {
    let mut code = String::new();
    let mut next = vec![root().join("src"), root().join("tests")];
    while let Some(path) = next.pop() {
        if path.is_dir() {
            next.extend(fs::read_dir(path).unwrap().map(|e| e.unwrap().path()));
        } else if path.extension().is_some_and(|e| e == "rs") {
            code += &fs::read_to_string(path).unwrap();
        }
    }
    for w in wanted(&read("Cargo.toml")) {
        assert!(code.contains(&format!("{}::", w.name.replace('-', "_"))), "{}: nothing uses it", w.name);
    }
}

#[test]
fn reasons_are_read_above_and_behind() {
    let found = wanted(
        "[dependencies]\n# Why a.\na = \"1\"\nb = \"1\" # why b\n\n# No reason for c.\n\nc = \"1\"\n[x]\nd = 1",
    );
    let told: Vec<_> = found.iter().map(|w| (w.name.as_str(), w.reason.as_str())).collect();
    assert_eq!(told, [("a", "Why a."), ("b", "why b"), ("c", "")]);
}

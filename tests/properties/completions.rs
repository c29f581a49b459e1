//! Goal: what bash, zsh and fish offer after `logd` are the commands, options and words of this very program. Only the
//! program says them, so a new command is completed without a line here or there.

use crate::support::{Temp, bin, run};
use logd::cli::COMMANDS;
use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/etc/completions");

/// A shell with the program as `logd` in its path and in `dir`; `None` where it is not installed.
fn shell(name: &str, dir: &Path) -> Option<Command> {
    let path = std::env::var("PATH").unwrap_or_default();
    if !path.split(':').any(|d| Path::new(d).join(name).exists()) {
        println!("skipped: completions: no {name}");
        return None;
    }
    let mut command = Command::new(name);
    command.env("PATH", format!("{}:{path}", dir.display())).env("HOME", dir).current_dir(dir);
    Some(command)
}

/// The directory that [`shell`] runs in: `logd`, and the one file that may be offered.
fn place(temp: &Temp) -> PathBuf {
    symlink(bin(), temp.path("logd")).unwrap();
    temp.file("tail.ini", "");
    temp.dir().to_owned()
}

fn set<T: AsRef<str>>(words: impl IntoIterator<Item = T>) -> BTreeSet<String> {
    words.into_iter().map(|w| w.as_ref().to_owned()).collect()
}

/// What must be offered for a command line, whose last word is being written: by the table of commands.
fn cases() -> Vec<(Vec<&'static str>, BTreeSet<String>)> {
    let names = set(COMMANDS.iter().flat_map(|c| [c.name, c.alias]).filter(|n| !n.is_empty()));
    let mut cases =
        vec![(vec![""], names.clone()), (vec!["help", ""], names), (vec!["fcol"], set(["fcollector"]))];
    for c in COMMANDS {
        let options = c.options.iter().map(|o| o.long).chain(["help"]).map(|o| format!("--{o}"));
        cases.push((vec![c.name, "--"], set(options)));
        let first = c.args.split_whitespace().next().unwrap_or_default();
        if !first.is_empty() && first.chars().all(|l| l.is_ascii_lowercase() || l == '|') {
            cases.push((vec![c.name, ""], set(first.split('|'))));
        } else if !first.is_empty() && c.name != "help" {
            // Nothing of the program's: a file.
            cases.push((vec![c.name, "ta"], set(["tail.ini"])));
        }
    }
    cases
}

/// All cases by one start of a shell: `ask` makes a line of its script for one, which prints the words and then `END`.
fn compare(
    name: &str,
    flags: &[&str],
    setup: &str,
    ask: impl Fn(&[&str]) -> String,
    files: impl Fn(&str) -> bool,
) {
    let temp = Temp::new(&format!("completions-{name}"));
    let dir = place(&temp);
    let Some(mut command) = shell(name, &dir) else { return };
    let all = cases();
    let asked: Vec<String> = all.iter().map(|(words, _)| format!("{}; echo END", ask(words))).collect();
    let script = temp.file("script", format!("{setup}\n{}\n", asked.join("\n")));
    let ran = run(command.args(flags).arg(&script), Duration::from_mins(2));
    assert_eq!(ran.err, "", "{name}");
    let told: Vec<&str> = ran.out.split("END\n").collect();
    assert_eq!(told.len(), all.len() + 1, "{name}: {}", ran.out);
    for ((words, wanted), told) in all.iter().zip(told) {
        let offered = set(told.split_whitespace());
        let ok = if wanted.contains("tail.ini") { files(told.trim()) } else { offered == *wanted };
        assert!(ok, "{name}: logd {words:?}: {offered:?}, not {wanted:?}");
    }
}

#[test]
fn bash_offers_what_the_program_has() {
    let ask = |words: &[&str]| {
        let quoted: Vec<String> = words.iter().map(|w| format!("'{w}'")).collect();
        format!(
            "COMP_WORDS=(logd {}); COMP_CWORD={}; _logd logd; echo \"${{COMPREPLY[*]}}\"",
            quoted.join(" "),
            words.len()
        )
    };
    // Where there is no word bash offers files by itself, as the last line of the script tells it.
    let setup = format!(
        "set -u; source {SOURCES}/logd.bash; [[ $(complete -p logd) = *'-o default'* ]] || echo wrong"
    );
    compare("bash", &["--norc"], &setup, ask, str::is_empty);
}

#[test]
fn zsh_offers_what_the_program_has() {
    // Completion needs a terminal: what it would show is printed instead.
    let setup = format!(
        "fpath=({SOURCES} $fpath); autoload -U compinit; compinit -u -D; [[ $_comps[logd] = _logd ]] || print wrong\n\
         compadd() {{ shift; print -r -- \"$@\" }}; _files() {{ print FILES }}"
    );
    let ask = |words: &[&str]| {
        let quoted: Vec<String> = words.iter().map(|w| format!("'{w}'")).collect();
        // zsh itself picks those that begin with PREFIX.
        let last = words.last().unwrap();
        format!(
            "words=(logd {}); CURRENT={}; PREFIX='{last}'; (source {SOURCES}/_logd) | tr ' ' '\\n' | grep -e '^FILES' -e '^{last}'",
            quoted.join(" "),
            words.len() + 1
        )
    };
    compare("zsh", &["-f"], &setup, ask, |told| told == "FILES");
}

#[test]
fn fish_offers_what_the_program_has() {
    let setup = format!("source {SOURCES}/logd.fish");
    // Beside words that a command takes fish goes on to offer files, those of this directory.
    let ask = |words: &[&str]| {
        let others = if words.last() == Some(&"ta") { "^$" } else { "^(logd|script|tail.ini)$" };
        format!("complete -C 'logd {}' | grep -Ev '{others}'", words.join(" "))
    };
    compare("fish", &["--no-config"], &setup, ask, |told| told == "tail.ini");
}

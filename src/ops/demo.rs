//! `logd demo [PATTERN]`: a newcomer's one command. A store, a relay and one follower per host run as processes of
//! their own on this machine, as they would on a fleet; hours travel, are certified, and are then compared with their
//! sources by code that shares nothing with the program's own proof (`judge`).
//!
//! Everything lies below one directory, which is removed at the end unless `--dir` names one: `tail-HOST.ini`,
//! `relay.ini`, `store.ini` and a `.log` for each, `state/` of each role, `store/` with the hour files, and `logs/` with
//! the hours that the demo made up. Real logs are read where they are. A directory whose hours were not all identical
//! is kept, since it is the evidence.

mod child;
mod judge;
mod source;

use super::out::{self, Out};
use super::{ERROR, NO, YES};
use crate::clock::{Clock, Zone};
use crate::disk::Disk;
use crate::shutdown::Shutdown;
use child::Child;
use judge::Progress;
use source::Host;
use std::fmt::Write as _;
use std::fs::DirBuilder;
use std::io::IsTerminal;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A pipeline in which nothing moves for so long will not come to an end.
const STILL: Duration = Duration::from_mins(1);
/// How long a child may take to serve, or to stop.
const PATIENCE: Duration = Duration::from_secs(30);
const TICK: Duration = Duration::from_millis(50);
/// Between two lines of progress for somebody who reads them later.
const LINE_EVERY: Duration = Duration::from_secs(2);
/// On a small laptop too there shall be room.
const MIN_FREE: &str = "1M";

/// Runs the demo with made-up hours, or with the files that match `pattern`; the exit code.
pub fn run(pattern: Option<&str>, dir: Option<&Path>) -> u8 {
    if let Some(failed) = child::take_role(pattern) {
        return failed;
    }
    Out::stdio(|out| {
        let stop = match Shutdown::on_signals() {
            Ok(stop) => stop,
            Err(why) => {
                out.complain(format_args!("logd: demo: {why}"));
                return ERROR;
            }
        };
        let mut files = match Files::new(dir) {
            Ok(files) => files,
            Err(why) => {
                out.complain(format_args!("logd: demo: {why}"));
                return ERROR;
            }
        };
        match show(pattern, &mut files, &stop, out) {
            Ok(code) => code,
            Err(why) => {
                out.complain(format_args!("logd: demo: {why}"));
                ERROR
            }
        }
    })
}

/// The directory of one run.
struct Files {
    dir: PathBuf,
    kept: bool,
}

impl Files {
    fn new(given: Option<&Path>) -> Result<Self, String> {
        let disk = Disk::real();
        let Some(dir) = given else {
            let name = format!("logd-demo-{}-{}", std::process::id(), Clock::real().now_ms());
            let dir = std::env::temp_dir().join(name);
            let dir = std::path::absolute(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
            // Made by us and not found there: in a directory that all may write, somebody else might have made it.
            let made = DirBuilder::new().mode(0o700).create(&dir);
            made.map_err(|e| format!("{}: {e}; name a directory by --dir", dir.display()))?;
            return Ok(Self { dir, kept: false });
        };
        let dir = std::path::absolute(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        disk.create_dir_all(&dir, 0o755).map_err(|e| format!("--dir: {e}"))?;
        if !disk.list(&dir).map_err(|e| format!("--dir: {e}"))?.is_empty() {
            return Err(format!("--dir {}: not empty; name a new directory, it is made", dir.display()));
        }
        Ok(Self { dir, kept: true })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Writes a role's config; the path.
    fn config(&self, name: &str, role: &str, keys: &[(&str, &str)]) -> Result<PathBuf, String> {
        let path = self.path(&format!("{name}.ini"));
        let state = self.dir.join("state").join(name).display().to_string();
        let mut text = format!("[{role}]\n");
        for (key, value) in [("state_dir", state.as_str()), ("min_free", MIN_FREE)].iter().chain(keys) {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{key} = {value}");
        }
        Disk::real().replace(&path, text.as_bytes(), 0o644).map_err(|e| e.to_string())?;
        Ok(path)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        if !self.kept {
            // What cannot be removed is in the system's temporary directory, which is cleaned.
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

/// All of it, step by step. On any error the children are killed by being dropped.
fn show(pattern: Option<&str>, files: &mut Files, stop: &Shutdown, out: &mut Out) -> Result<u8, String> {
    let zone = Zone::local()?;
    if files.kept {
        out.line(format_args!("files:     kept in {}", files.dir.display()));
    } else {
        out.line(format_args!("files:     in {}, removed at the end", files.dir.display()));
    }
    let hosts = match pattern {
        Some(p) => source::find(p, &zone, Clock::real().now_ms())?,
        None => source::make(&files.path("logs"), &zone, Clock::real().now_ms())?,
    };
    announce(pattern, &hosts, out);
    let total: u64 = hosts.iter().flat_map(|h| &h.hours).map(|h| h.bytes).sum();
    room(&files.dir, total)?;

    let save = files.path("store");
    let names: Vec<&str> = hosts.iter().map(|h| h.name.as_str()).collect();
    let hosts_file = files.path("hosts");
    Disk::real()
        .replace(&hosts_file, (names.join("\n") + "\n").as_bytes(), 0o644)
        .map_err(|e| e.to_string())?;
    let (save_text, hosts_text) = (save.display().to_string(), hosts_file.display().to_string());
    // Loopback and a port of the kernel's choice: nobody outside reaches it, nothing that runs here is in its way.
    let receiver = [("listen", "127.0.0.1:0"), ("allow", "127.0.0.1")];
    let mut keys = receiver.to_vec();
    // A checkpoint is when a store tells how far it is; by default it would do so after 30 s.
    keys.extend([("save_dir", save_text.as_str()), ("checkpoint", "500ms"), ("hosts_file", &hosts_text)]);
    let mut store = Child::start(&files.config("store", "fcollector", &keys)?, "fcollector")?;
    let addr = store.listens(PATIENCE, stop)?;
    out.line(format_args!(
        "store:     `logd fcollector store.ini` listens on {addr}; it writes hour files and certifies each hour that it \
         has read again and found whole"
    ));
    let mut keys = receiver.to_vec();
    keys.push(("send_to", &addr));
    let mut relay = Child::start(&files.config("relay", "collector", &keys)?, "collector")?;
    let addr = relay.listens(PATIENCE, stop)?;
    out.line(format_args!(
        "relay:     `logd collector relay.ini` listens on {addr}; it keeps every pack on disk until the store has it on \
         disk"
    ));
    let mut tails = Vec::new();
    for host in &hosts {
        let keys = [("log_file", host.log_file.as_str()), ("name", &host.name), ("send_to", &addr)];
        tails.push(Child::start(&files.config(&format!("tail-{}", host.name), "tail", &keys)?, "tail")?);
    }
    out.line(format_args!(
        "followers: `logd tail --once tail-HOST.ini` for {}; they cut the files into numbered packs, compress and send \
         them, and end when all is acknowledged; without --once they would go on following",
        names.join(", ")
    ));

    let mut roles = [relay, store];
    wait(&hosts, &save, &mut tails, &mut roles, stop, out)?;
    let n: usize = hosts.iter().map(|h| h.hours.len()).sum();
    out.line(format_args!(
        "certified: the store has judged {}; relay and store are told to stop",
        out::count(n, "hour")
    ));
    for role in &mut roles {
        role.stop(PATIENCE)?;
    }
    out.line("compare:   every stored file is compared with its source, byte by byte");
    let verdict = judge::judge(&hosts, &save, stop)?;
    finish(&hosts, &verdict, files, out);
    Ok(if verdict.good() { YES } else { NO })
}

fn announce(pattern: Option<&str>, hosts: &[Host], out: &mut Out) {
    let n: usize = hosts.iter().map(|h| h.hours.len()).sum();
    let total: u64 = hosts.iter().flat_map(|h| &h.hours).map(|h| h.bytes).sum();
    let names: Vec<&str> = hosts.iter().map(|h| h.name.as_str()).collect();
    let (hours, size) = (out::count(n, "hour file"), out::bytes(total));
    let hosts_text = out::count(hosts.len(), "host");
    match pattern {
        None => out.line(format_args!(
            "sources:   {hours} of {} were made up ({size} in all): {}",
            out::count(hosts.len(), "pretended host"),
            names.join(", ")
        )),
        Some(p) => out.line(format_args!("sources:   {hours} of {hosts_text} match {p} ({size} in all)")),
    }
    for host in hosts {
        if pattern.is_some() && !host.from.ends_with(&format!("/{}", host.name)) {
            out.line(format_args!("           {} is called {}", host.from, host.name));
        }
        for open in &host.open {
            out.line(format_args!("           left out: {} {open}: the hour is not over yet", host.name));
        }
    }
}

/// The copies and the compressed packs under way need room.
fn room(dir: &Path, total: u64) -> Result<(), String> {
    let need = total.saturating_add(total / 2).saturating_add(16 << 20);
    let free = Disk::real().free_bytes(dir).map_err(|e| e.to_string())?;
    if free >= need {
        return Ok(());
    }
    Err(format!(
        "{}: {} free, about {} needed for the copies; name a directory on a larger disk by --dir",
        dir.display(),
        out::bytes(free),
        out::bytes(need)
    ))
}

/// Shows how far it is until every hour is judged and every follower has ended.
fn wait(
    hosts: &[Host],
    save: &Path,
    tails: &mut [Child],
    roles: &mut [Child],
    stop: &Shutdown,
    out: &mut Out,
) -> Result<(), String> {
    let n: usize = hosts.iter().map(|h| h.hours.len()).sum();
    let total: u64 = hosts.iter().flat_map(|h| &h.hours).map(|h| h.bytes).sum();
    let watched = std::io::stdout().is_terminal();
    let started = Instant::now();
    let (mut moved, mut shown) = (started, started);
    let mut progress = Progress::default();
    loop {
        // What a child says by its end is asked first: then what it has done is seen below.
        let mut working = 0_usize;
        for tail in tails.iter_mut() {
            working = working.saturating_add(usize::from(!tail.ended_well(stop)?));
        }
        for role in roles.iter_mut() {
            role.must_run(stop)?;
        }
        let before = progress.mark();
        progress.look(hosts, save)?;
        let now = Instant::now();
        if progress.mark() != before {
            moved = now;
        }
        let done = working == 0 && progress.judged == n;
        if watched && !done {
            out.text(&format!("\r\x1b[K{}", progress.line(started.elapsed(), total, n)));
        } else if done || now.duration_since(shown) >= LINE_EVERY {
            shown = now;
            let clear = if watched { "\r\x1b[K" } else { "" };
            out.line(format_args!("{clear}progress:  {}", progress.line(started.elapsed(), total, n)));
        }
        if done {
            return Ok(());
        }
        if now.duration_since(moved) >= STILL {
            let rest = judge::missing(hosts, save);
            return Err(format!(
                "nothing has moved for {} s; without a certificate: {rest}{}",
                STILL.as_secs(),
                tails.iter().chain(roles.iter()).map(Child::last_words).collect::<String>()
            ));
        }
        if out.gone() || stop.wait(TICK) {
            return Err(child::INTERRUPTED.into());
        }
    }
}

fn finish(hosts: &[Host], verdict: &judge::Verdict, files: &mut Files, out: &mut Out) {
    out.line("");
    out.text(&verdict.table());
    out.line("");
    for extra in &verdict.without_source {
        out.line(format_args!("{extra}: stored, but no source has that name"));
    }
    if files.kept {
        let (dir, hour) = (files.dir.display(), hosts.first().and_then(|h| h.hours.last()));
        out.line("Look around:");
        out.line(format_args!("  logd status --all {dir}/store.ini"));
        out.line(format_args!("  logd verify {dir}/store"));
        if let Some(hour) = hour {
            out.line(format_args!("  logd ready {dir}/store.ini {}", hour.hour));
        }
    } else if !verdict.good() {
        files.kept = true;
        out.line(format_args!(
            "The files of this run are kept for whoever looks into it: {}",
            files.dir.display()
        ));
    }
    out.line(format_args!("identical: {} of {} hours", verdict.identical(), verdict.rows.len()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_removed_unless_it_was_named_and_never_when_it_was_not_empty() {
        let mine = Files::new(None).unwrap();
        let dir = mine.dir.clone();
        assert!(mine.config("relay", "collector", &[("listen", ":1")]).unwrap().starts_with(&dir));
        drop(mine);
        assert!(!dir.exists());

        let named = Files::new(Some(&dir)).unwrap();
        assert!(Files::new(Some(&dir)).is_ok(), "an empty one may be there already");
        std::fs::write(named.path("x"), "x").unwrap();
        drop(named);
        assert!(Files::new(Some(&dir)).err().unwrap().contains("not empty"));
        assert_eq!(std::fs::read(dir.join("x")).unwrap(), b"x");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}

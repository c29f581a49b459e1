//! What waits below a state directory: packs in the spool, packs held aside, what was put into quarantine.
//!
//! Looked at from outside, while the role may be running: the spool's marks lag behind by up to a checkpoint, so the
//! number of waiting packs is an upper limit, and a file that disappears meanwhile is done.

use super::super::out;
use crate::config::{Role, SpoolConfig};
use crate::disk::{self, Disk};
use crate::instance;
use crate::record::{self, Found};
use crate::roles::denied::{self, Denied, Failing};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Larger spools are not counted pack by pack: that reads all of it.
const COUNT_MAX: u64 = 1 << 30;
const RECORD_MAX: u32 = 80 << 20;
/// How long nothing must get through before it is told, in ms.
const FAILING_MS: i64 = 10_000;
/// Senders whose packs are denied that are told one by one.
const DENIED_SHOWN: usize = 10;

/// Packs that are set aside, of one sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aside {
    /// `held` or `quarantine`.
    pub shelf: &'static str,
    /// The sender.
    pub name: String,
    /// Files.
    pub count: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// See the module's header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Queue {
    /// The state directory.
    pub state_dir: PathBuf,
    /// It is there.
    pub exists: bool,
    /// Does the role run? `None` = nobody can tell.
    pub running: Option<bool>,
    /// What starts it.
    pub command: &'static str,
    /// Why it would not start.
    pub refused: Option<String>,
    /// Bytes of the spool's segments.
    pub spool_bytes: u64,
    /// Limit of the spool in bytes.
    pub spool_size: u64,
    /// Packs that wait at most; `None` = too many to count.
    pub packs: Option<u64>,
    /// What is set aside.
    pub aside: Vec<Aside>,
    /// What the disk is short of.
    pub short: Option<String>,
    /// Packs that the next receiver denies.
    pub denied: Vec<Denied>,
    /// How many senders were denied before those.
    pub denied_more: u64,
    /// Addresses that take nothing.
    pub failing: Vec<Failing>,
    /// What lets a host's packs in, by what this sender has configured.
    pub shows: Shows,
}

/// By what a receiver may know this sender.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shows {
    /// It signs: a follower with `key_file`.
    pub key: bool,
    /// It shows a certificate.
    pub certificate: bool,
    /// It passes on what others have signed.
    pub relay: bool,
}

impl Shows {
    /// What to look at when packs of this host are denied.
    fn step(self, host: &str) -> String {
        let key = if self.key {
            format!(
                "the line of key_file must be the one that keys_file there has for {host}; `logd reload` takes up another one"
            )
        } else if self.relay {
            format!("if keys are asked for there, {host} signs with the line that keys_file there has for it")
        } else {
            format!(
                "if keys are asked for there, set key_file to the line that keys_file there has for {host}, and `logd reload`"
            )
        };
        let certificate = match (self.certificate, self.relay) {
            (true, true) => "the certificate of tls_client_cert must be named in tls_relays there".to_owned(),
            (true, false) => format!("the certificate of tls_client_cert must name {host}"),
            (false, _) => "if certificates are asked for there, tls_client_cert is missing".to_owned(),
        };
        // Where only certificates are in use keys come second, and the other way round.
        match (self.certificate, self.key) {
            (true, false) => format!("{certificate}; {key}"),
            (false, true) => key,
            _ => format!("{key}; {certificate}"),
        }
    }
}

impl Queue {
    /// Looks into the state directory of a role.
    pub fn read(disk: &Disk, state_dir: &Path, role: Role, conf: &SpoolConfig) -> disk::Result<Self> {
        let mut queue = Self {
            state_dir: state_dir.to_owned(),
            exists: disk.stat(state_dir)?.is_some_and(|s| s.is_dir),
            running: instance::is_running(state_dir),
            command: role.command(),
            refused: instance::problem(disk, state_dir, role.command())?,
            spool_size: conf.size,
            ..Self::default()
        };
        if !queue.exists {
            queue.packs = Some(0);
            return Ok(queue);
        }
        queue.short = disk.shortage(state_dir, conf.min_free)?;
        let told = denied::load(disk, state_dir)?;
        (queue.denied, queue.denied_more, queue.failing) = (told.denied, told.denied_more, told.failing);
        let spool = state_dir.join(if role == Role::Tail { "retry" } else { "spool" });
        let mut segments = Vec::new();
        for name in names(disk, &spool)?
            .into_iter()
            .filter(|(n, dir)| !dir && n.strip_suffix(".seg").is_some())
            .map(|(n, _)| n)
        {
            let path = spool.join(name);
            queue.spool_bytes = queue.spool_bytes.saturating_add(disk.stat(&path)?.map_or(0, |s| s.len));
            segments.push(path);
        }
        if queue.spool_bytes <= COUNT_MAX {
            let mut sum = 0_u64;
            for path in &segments {
                sum = sum.saturating_add(gone_is_none(waiting(disk, path))?.unwrap_or(0));
            }
            queue.packs = Some(sum);
        }
        for shelf in ["held", "quarantine"] {
            for (name, _) in names(disk, &state_dir.join(shelf))?.into_iter().filter(|(_, dir)| *dir) {
                let dir = state_dir.join(shelf).join(&name);
                let (mut count, mut bytes) = (0_usize, 0_u64);
                for (file, _) in names(disk, &dir)?.into_iter().filter(|(n, dir)| !dir && !n.starts_with('.'))
                {
                    count = count.saturating_add(1);
                    bytes = bytes.saturating_add(disk.stat(&dir.join(file))?.map_or(0, |s| s.len));
                }
                if count > 0 {
                    queue.aside.push(Aside { shelf, name, count, bytes });
                }
            }
        }
        Ok(queue)
    }

    /// One line: how much waits.
    pub fn summary(&self, what: &str) -> String {
        if !self.exists {
            return format!(
                "state {}: not there: the role has not run yet, or it runs with another state_dir or STATE_DIRECTORY",
                self.state_dir.display()
            );
        }
        let packs = self.packs.map_or("too many packs to count".into(), |n| match n {
            0 => "no pack waits".to_owned(),
            n => at_most(usize::try_from(n).unwrap_or(usize::MAX)),
        });
        let limit = match self.spool_size {
            0 => String::new(),
            size => format!(" of {}", out::bytes(size)),
        };
        format!("{what} {}{limit}: {packs}; state {}", out::bytes(self.spool_bytes), self.state_dir.display())
    }

    /// Packs wait, here or (`elsewhere`) as cuts of a file, and nobody sends them on.
    fn stopped(&self, elsewhere: usize) -> Option<String> {
        let packs = match self.packs.map(|n| usize::try_from(n).unwrap_or(usize::MAX).max(elsewhere)) {
            None => "too many packs to count wait".to_owned(),
            Some(0) => return None,
            Some(n) => at_most(n),
        };
        let command = self.command;
        (self.running == Some(false))
            .then(|| format!("NOT RUNNING, and {packs}: start it with `logd {command} CONFIG`"))
    }

    /// Where nothing gets through. A moment of it is nothing: a receiver may be starting.
    fn failing(&self, now_ms: i64) -> impl Iterator<Item = String> + '_ {
        let ago = move |ms: i64| out::duration(u64::try_from(now_ms.saturating_sub(ms)).unwrap_or(0));
        let long = move |f: &&Failing| now_ms.saturating_sub(f.since_ms) >= FAILING_MS;
        let running = self.running != Some(false);
        self.failing.iter().filter(long).filter(move |_| running).map(move |f| {
            format!(
                "cannot send to {} since {}: {}; packs wait, nothing is lost; the last attempt was at most {} ago",
                f.to,
                ago(f.since_ms),
                f.reason,
                ago(f.last_ms)
            )
        })
    }

    /// What the next receiver denies. Since when and how long ago is told by the time `now_ms`.
    fn denied(&self, now_ms: i64) -> impl Iterator<Item = String> + '_ {
        let ago = move |ms: i64| out::duration(u64::try_from(now_ms.saturating_sub(ms)).unwrap_or(0));
        let shown = self.denied.iter().take(DENIED_SHOWN).map(move |d| {
            let waits = match d.packs {
                0 => "they are held aside".to_owned(),
                1 => "1 pack waits".to_owned(),
                n => format!("{n} packs wait"),
            };
            format!(
                "denied: {} takes no packs of {} since {}: {waits}, nothing is lost; last {}, at most {} ago: {}; `logd status` and the \
                 log there say why; {}; then they go by themselves",
                d.to,
                d.name,
                ago(d.since_ms),
                d.pack,
                ago(d.last_ms),
                d.reason,
                self.shows.step(crate::auth::host_of(&d.name)),
            )
        });
        let more = self.denied.len().checked_sub(DENIED_SHOWN).filter(|n| *n > 0);
        let before = Some(self.denied_more).filter(|n| *n > 0);
        shown
            .chain(more.map(|n| format!("denied: {n} more senders: `--json` lists them")))
            .chain(before.map(|n| format!("denied: and before them {n} others, of which only the log tells")))
    }

    /// What somebody must look at, each with the next step. `elsewhere` = packs that are not acknowledged, wherever they
    /// are.
    pub fn wrong(&self, elsewhere: usize, now_ms: i64) -> Vec<String> {
        let role = self.refused.iter().cloned().chain(self.stopped(elsewhere));
        let short = self.short.iter().map(|what| paused(what));
        let aside = self
            .aside
            .iter()
            .map(|a| {
                let step = if a.shelf == "held" {
                    "the receiver refused them for long: its log says why; they are tried again from time to time, and at a \
                     start; of packs that were never signed only a receiver that accepts them takes them, or have their \
                     host send the hours again (`logd resend`)"
                } else {
                    "damaged or contradictory bytes that were set aside: the log of that time says what they are"
                };
                let files = out::count(a.count, if a.shelf == "held" { "pack" } else { "file" });
                let dir = self.state_dir.join(a.shelf).join(&a.name);
                format!("{}: {files} of {}, {}, in {}; {step}", a.shelf, a.name, out::bytes(a.bytes), dir.display())
            });
        role.chain(short).chain(self.failing(now_ms)).chain(self.denied(now_ms)).chain(aside).collect()
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let aside: Vec<Value> = self
            .aside
            .iter()
            .map(|a| json!({"shelf": a.shelf, "name": a.name, "files": a.count, "bytes": a.bytes}))
            .collect();
        json!({
            "state_dir": self.state_dir.display().to_string(), "exists": self.exists,
            "spool_bytes": self.spool_bytes, "spool_size": self.spool_size, "packs": self.packs, "aside": aside,
            "paused": self.short, "running": self.running, "refused": self.refused, "denied": self.denied, "denied_more": self.denied_more, "failing": self.failing,
        })
    }
}

fn at_most(packs: usize) -> String {
    format!("at most {} {}", out::count(packs, "pack"), if packs == 1 { "waits" } else { "wait" })
}

/// The sentence about a disk that is short of something.
pub fn paused(what: &str) -> String {
    format!("paused: disk: {what}; nothing is lost, it goes on by itself when there is room")
}

fn gone_is_none<T>(result: disk::Result<T>) -> disk::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.not_found() => Ok(None),
        Err(e) => Err(e),
    }
}

fn names(disk: &Disk, dir: &Path) -> disk::Result<Vec<(String, bool)>> {
    let list = gone_is_none(disk.list(dir))?.unwrap_or_default();
    Ok(list.into_iter().map(|e| (e.name, e.is_dir)).collect())
}

/// Packs of a segment that are not marked as done.
fn waiting(disk: &Disk, segment: &Path) -> disk::Result<u64> {
    let (mut buf, mut at, mut packs) = (Vec::new(), 0, 0_u64);
    let file = disk.open(segment)?;
    loop {
        match record::read(&file, at, RECORD_MAX, &mut buf)? {
            Found::End => break,
            Found::Damage { next } => at = next,
            Found::Record(head) => {
                packs = packs.saturating_add(1);
                at = head.end();
            }
        }
    }
    let marks = segment.with_extension("done");
    let Some(file) = gone_is_none(disk.open(&marks))? else { return Ok(packs) };
    let done = match record::read(&file, 0, RECORD_MAX, &mut buf)? {
        Found::Record(_) => {
            buf.get(record::HEADER..).unwrap_or_default().iter().map(|b| u64::from(b.count_ones())).sum()
        }
        _ => 0,
    };
    Ok(packs.saturating_sub(done))
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::Temp;
    use super::*;
    use crate::spool::{Shelf, Spool};

    #[test]
    fn a_spool_is_counted_as_it_is_on_disk() {
        let temp = Temp::new();
        let (disk, dir) = (Disk::real(), temp.dir());
        let conf = SpoolConfig { size: 1 << 20, segment_size: 4096, min_free: 0, group_commit_ms: 0 };
        assert!(!Queue::read(&disk, &temp.path("none"), Role::Collector, &conf).unwrap().exists);
        let mut quarantine = Shelf::open(&disk, &temp.path("quarantine"), 1 << 20, 1 << 20).unwrap();
        let mut held = Shelf::open(&disk, &temp.path("held"), 1 << 20, 1 << 20).unwrap();
        let mut spool =
            Spool::open(&disk, &temp.path("spool"), &mut quarantine, &conf, &mut |_| {}, &mut |_, _| {})
                .unwrap();
        let mut seqs = Vec::new();
        for _ in 0..9 {
            seqs.push(spool.append(&[&[7; 1000]]).unwrap_or_else(|_| panic!("full")).seq);
        }
        spool.sync().unwrap();
        spool.mark_done(seqs[0]).unwrap();
        spool.mark_done(seqs[5]).unwrap();
        let queue = Queue::read(&disk, dir, Role::Collector, &conf).unwrap();
        assert_eq!((queue.packs, queue.spool_bytes), (Some(9), spool.bytes()));
        spool.save_marks().unwrap();
        // Nobody's segment, and no reason to tell nothing.
        disk.create_dir_all(&temp.path("spool/00000000000000000099.seg"), 0o755).unwrap();
        held.put("web1", "2026112205.0.3", b"frame").unwrap();
        let queue = Queue::read(&disk, dir, Role::Collector, &conf).unwrap();
        assert_eq!(queue.packs, Some(7));
        assert!(
            queue.summary("spool").contains("of 1.0 MiB: at most 7 packs wait"),
            "{}",
            queue.summary("spool")
        );
        let wrong = queue.wrong(0, 0);
        assert_eq!(wrong.len(), 2);
        assert!(wrong[0].starts_with("NOT RUNNING, and at most 7 packs wait: start it"), "{wrong:?}");
        assert!(wrong[1].starts_with("held: 1 pack of web1"), "{wrong:?}");
        assert_eq!(queue.json()["packs"], 7);
    }

    /// The story: hosts with certificates alone were told to look at their keys.
    #[test]
    fn what_to_do_about_a_denial_goes_by_what_is_configured() {
        let step = |key, certificate, relay| Shows { key, certificate, relay }.step("web1");
        assert!(
            step(false, true, false)
                .starts_with("the certificate of tls_client_cert must name web1; if keys")
        );
        assert!(
            step(true, false, false).starts_with("the line of key_file")
                && !step(true, false, false).contains("tls")
        );
        assert!(
            step(true, true, false).contains("key_file") && step(true, true, false).contains("name web1")
        );
        assert!(
            step(false, false, false).contains("set key_file")
                && step(false, false, false).contains("is missing")
        );
        assert!(
            step(false, true, true).contains("tls_relays") && step(false, false, true).contains("web1 signs")
        );
    }
}

//! Stores for tests: hours as a collector would leave them.

use super::out::Out;
use crate::clock::Hour;
use crate::disk::{Disk, Outcome, SimDisk};
use crate::integrity::lines::{self, Summary};
use crate::integrity::{Certificate, Store};
use crate::pack::{Checked, Header, HourKey, Meta, Seal, Totals, hex, total_digest};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory that is removed at the end of the test.
pub struct Temp(PathBuf);

impl Temp {
    /// Makes it.
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("logd-ops-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.0
    }
    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
    /// Writes a file in it, with its parents.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The ways in which a machine can find its disk after it has stopped.
pub fn fates() -> Vec<Outcome> {
    let random = (1..6).map(Outcome::Random);
    random.chain([Outcome::KeepAll, Outcome::LoseUnsynced, Outcome::Killed]).collect()
}

/// A simulated disk with the files of a test in `/`.
pub fn simulated(temp: &Temp) -> (Disk, SimDisk) {
    let (disk, sim) = Disk::sim(1);
    let mut dirs = vec![temp.dir().to_owned()];
    while let Some(dir) = dirs.pop() {
        for path in std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()) {
            if path.is_dir() {
                disk.create_dir_all(&Path::new("/").join(path.strip_prefix(temp.dir()).unwrap()), 0o755)
                    .unwrap();
                dirs.push(path);
            } else {
                let name = Path::new("/").join(path.strip_prefix(temp.dir()).unwrap());
                sim.put(&name, &std::fs::read(&path).unwrap());
            }
        }
    }
    sim.restart(Outcome::KeepAll);
    (disk, sim)
}

/// Exit code, standard output and standard error of a command.
pub fn printed(run: impl FnOnce(&mut Out) -> u8) -> (u8, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut both = Out::new(&mut out, &mut err, false);
    let code = run(&mut both);
    let code = both.finish(code);
    (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

/// An hour from its `NAME_HOUR` form.
pub fn key(text: &str) -> HourKey {
    HourKey::parse(text).unwrap()
}

/// How an hour is to be stored.
pub struct Build<'a> {
    /// `NAME_HOUR`.
    pub hour: &'a str,
    /// Raw bytes of each pack.
    pub packs: &'a [&'a str],
    /// The last pack says `done`.
    pub done: bool,
    /// Its sender computed digests and totals.
    pub ours: bool,
    /// What the last pack's `state` says.
    pub state: &'a str,
    /// The clock cut it.
    pub clock: bool,
}

impl<'a> Build<'a> {
    /// An hour of a sender of ours, whole.
    pub fn new(hour: &'a str, packs: &'a [&'a str]) -> Self {
        Self { hour, packs, done: true, ours: true, state: "", clock: false }
    }

    /// The packs' headers.
    pub fn metas(&self) -> Vec<Meta> {
        let lines = |raw: &str| raw.bytes().filter(|b| *b == b'\n').count() as u64;
        let seals: Vec<Seal> = self.packs.iter().map(|raw| Seal::of(raw.as_bytes())).collect();
        let totals = Totals {
            lines: self.packs.iter().map(|raw| lines(raw)).sum(),
            bytes: seals.iter().map(|s| s.bytes).sum(),
            sha256: total_digest(seals.iter().map(|s| &s.sha256)),
        };
        let last = self.packs.len();
        self.packs
            .iter()
            .zip(&seals)
            .enumerate()
            .map(|(i, (raw, seal))| {
                let done = self.done && i + 1 == last;
                Meta {
                    key: key(self.hour),
                    generation: 0,
                    id: i as u64 + 1,
                    lines: lines(raw),
                    done,
                    repull: false,
                    seal: self.ours.then_some(*seal),
                    totals: (done && self.ours).then_some(totals),
                    state: if done { self.state.into() } else { String::new() },
                    loss: String::new(),
                    day_hours: 0,
                    clock: done && self.clock,
                }
            })
            .collect()
    }

    /// Stores it below a `save_dir`, without a certificate.
    pub fn store(&self, save_dir: &Path) -> Summary {
        let store = store_at(save_dir);
        let place = store.place(&key(self.hour));
        let (mut data, mut proof, mut sums) = (Vec::new(), Vec::new(), Summary::new(1));
        for (meta, raw) in self.metas().iter().zip(self.packs) {
            let seal = Seal::of(raw.as_bytes());
            let header = Header { route: vec![meta.entry()], pack_len: 9 };
            let checked = Checked { bytes: seal.bytes, crc32: seal.crc32 };
            let line = lines::encode(&header, data.len() as u64, &checked);
            let lines::Line::Ours(stored) = lines::parse(line.trim_ascii_end()) else { panic!("not ours") };
            sums.add(&stored).unwrap();
            data.extend_from_slice(raw.as_bytes());
            proof.extend_from_slice(&line);
        }
        std::fs::write(place.data, data).unwrap();
        std::fs::write(place.headers, proof).unwrap();
        sums
    }

    /// Stores it and files its certificate.
    pub fn certify(&self, save_dir: &Path) -> Certificate {
        let sums = self.store(save_dir);
        let key = key(self.hour);
        let cert = Certificate {
            format: 1,
            name: key.name.clone(),
            hour: key.hour,
            generation: 0,
            revision: 1,
            packs: sums.high,
            lines: sums.lines,
            bytes: sums.bytes,
            digest: hex(&sums.digest()),
            sha256: hex(&Sha256::digest(self.packs.concat())),
            verified: self.ours,
            authentic: false,
            empty: sums.bytes == 0,
            state: self.state.into(),
            loss: String::new(),
            day_hours: 0,
            cut: if self.clock { "clock".into() } else { String::new() },
            certified: 1_795_000_000,
        };
        store_at(save_dir).certify(&cert).unwrap();
        cert
    }

    /// Stores it as the original would.
    pub fn store_foreign(&self, save_dir: &Path) {
        let place = store_at(save_dir).place(&key(self.hour));
        let proof: Vec<u8> = self
            .metas()
            .iter()
            .flat_map(|m| {
                let meta = Meta { seal: None, totals: None, ..m.clone() };
                lines::encode_foreign(&Header { route: vec![meta.entry()], pack_len: 9 })
            })
            .collect();
        std::fs::write(place.data, self.packs.concat()).unwrap();
        std::fs::write(place.headers, proof).unwrap();
    }
}

fn store_at(save_dir: &Path) -> Store {
    let state = save_dir.with_file_name("state");
    let store = Store::new(&Disk::real(), save_dir, &state, 0o644, 0o755);
    store.create_dirs().unwrap();
    store
}

/// An hour from its digits.
pub fn hour(text: &str) -> Hour {
    Hour::parse(text).unwrap()
}

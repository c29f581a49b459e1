//! Hour files that were compressed after they were certified: `log_data/NAME_HOUR.gz` in the place of `log_data/NAME_HOUR`.
//!
//! A certificate's digests are those of the lines, so that it holds for the compressed file as it stands. To everybody else the
//! data file was taken away, as a batch job may take it: bytes that come later go to `aside/NAME_HOUR.late`.
//!
//! [`pack`] writes a temporary file, reads it back against the certificate, and gives it its name. Only then, and only while
//! nobody may take bytes for the hour, its caller removes the data file by [`finish`]. Of a crash in between both files are left,
//! and the next turn begins again.

use super::{Certificate, Store};
use crate::disk::{self, Disk, File};
use crate::pack::{HourKey, hex};
use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

const BLOCK: usize = 256 << 10;

/// Where the compressed data of an hour lies.
pub fn path(store: &Store, key: &HourKey) -> PathBuf {
    store.path("log_data").join(format!("{key}.gz"))
}

/// A file as a stream of bytes.
struct Stream {
    file: File,
    at: u64,
    failed: Option<disk::Error>,
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read_at(buf, self.at).map_err(io::Error::from)?;
        self.at = self.at.saturating_add(n as u64);
        Ok(n)
    }
}

impl Write for Stream {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        if let Err(e) = self.file.write_at(part, self.at) {
            let told = io::Error::new(e.source.kind(), e.to_string());
            self.failed = Some(e);
            return Err(told);
        }
        self.at = self.at.saturating_add(part.len() as u64);
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The lines in a file that is not compressed.
pub fn plain(file: File) -> impl Read {
    Stream { file, at: 0, failed: None }
}

/// The lines in a compressed file. What is wrong with its content is an error of [`Read`].
pub fn open(disk: &Disk, path: &Path) -> disk::Result<impl Read> {
    Ok(MultiGzDecoder::new(Stream { file: disk.open(path)?, at: 0, failed: None }))
}

/// Length and SHA-256 of the lines in a compressed file; the inner error says what is wrong with its content.
pub fn digest(disk: &Disk, path: &Path) -> disk::Result<Result<(u64, String), String>> {
    let (mut lines, mut sha, mut len, mut buf) = (open(disk, path)?, Sha256::new(), 0_u64, vec![0; BLOCK]);
    loop {
        match lines.read(&mut buf) {
            Ok(0) => return Ok(Ok((len, hex(&sha.finalize())))),
            Ok(n) => {
                sha.update(buf.get(..n).unwrap_or_default());
                len = len.saturating_add(n as u64);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Ok(Err(format!("{}: it cannot be unpacked: {e}", path.display()))),
        }
    }
}

/// Writes the compressed file of a certified hour beside its data, or finds that it is there; the inner error says why not, and
/// nothing if `stop` said so.
pub fn pack(
    store: &Store,
    key: &HourKey,
    certificate: &Certificate,
    stop: &mut dyn FnMut() -> bool,
) -> disk::Result<Result<(), String>> {
    let (disk, data, to) = (store.disk(), store.place(key).data, path(store, key));
    // A crash leaves such a file, or a batch job has made one of its own.
    if disk.stat(&to)?.is_some() {
        let found = digest(disk, &to)?;
        if found.as_ref() == Ok(&(certificate.bytes, certificate.sha256.clone())) {
            disk.open(&to)?.sync()?;
            return disk.sync_dir(&store.path("log_data")).map(Ok);
        }
        return Ok(Err(format!(
            "{}: it holds other lines than {}, and is none that logd left; both stay as they are; move it away, and the hour is \
             compressed",
            to.display(),
            data.display()
        )));
    }
    let half = store.path("log_data").join(format!(".{key}.gz.tmp"));
    let done = pack_to(store, &data, &half, stop).and_then(|written| {
        if let Err(why) = written {
            return Ok(Err(why));
        }
        Ok(digest(disk, &half)?.and_then(|found| {
            if found == (certificate.bytes, certificate.sha256.clone()) {
                return Ok(());
            }
            Err(format!(
                "{}: it is not what was certified; it stays as it is; `logd verify` tells more and what to do",
                data.display()
            ))
        }))
    });
    if !matches!(done, Ok(Ok(()))) {
        // The reason is worth more than what becomes of the half.
        let _ = disk.remove(&half);
        return done;
    }
    disk.rename(&half, &to)?;
    disk.sync_dir(&store.path("log_data"))?;
    Ok(Ok(()))
}

fn pack_to(
    store: &Store,
    data: &Path,
    half: &Path,
    stop: &mut dyn FnMut() -> bool,
) -> disk::Result<Result<(), String>> {
    let (disk, mut at, mut buf) = (store.disk(), 0_u64, vec![0; BLOCK]);
    let from = disk.open(data)?;
    let file = disk.create(half, store.file_mode)?;
    file.set_len(0)?;
    let mut encoder = GzEncoder::new(Stream { file, at: 0, failed: None }, Compression::default());
    loop {
        if stop() {
            return Ok(Err(String::new()));
        }
        let n = from.read_at(&mut buf, at)?;
        if encoder.write_all(buf.get(..n).unwrap_or_default()).is_err() {
            break;
        }
        at = at.saturating_add(n as u64);
        if n < buf.len() {
            break;
        }
    }
    let done = encoder.try_finish();
    if let Some(failed) = encoder.get_mut().failed.take() {
        return Err(failed);
    }
    match done {
        Ok(()) => encoder.get_ref().file.sync().map(Ok),
        Err(e) => Ok(Err(format!("{}: it cannot be compressed: {e}; it stays as it is", data.display()))),
    }
}

/// Removes the data file of which there is a compressed one now. Nobody may take bytes for the hour meanwhile. False = the hour is
/// not certified so any more: the compressed file is removed instead.
pub fn finish(store: &Store, key: &HourKey, certificate: &Certificate) -> disk::Result<bool> {
    let stands = store.tag(key)?.and_then(|(_, c)| c).as_ref() == Some(certificate)
        && store.closed(key)?.as_ref() == Some(certificate);
    let gone = if stands { store.place(key).data } else { path(store, key) };
    store.disk().remove(&gone)?;
    store.disk().sync_dir(&store.path("log_data"))?;
    Ok(stands)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Fault;
    use crate::ops::testing::{Build, Temp, fates, key, simulated};

    fn begun(temp: &Temp) -> (Store, HourKey, Certificate) {
        let save = temp.path("save");
        let certificate = Build::new("web1_2026112205", &["a\n", "b\n"]).certify(&save);
        let store = Store::new(&Disk::real(), &save, &temp.path("state"), 0o644, 0o755);
        (store, key("web1_2026112205"), certificate)
    }

    #[test]
    fn what_was_certified_is_compressed_and_nothing_else() {
        let temp = Temp::new();
        let (store, hour, certificate) = begun(&temp);
        assert_eq!(pack(&store, &hour, &certificate, &mut || true).unwrap(), Err(String::new()), "stopped");
        assert!(!path(&store, &hour).exists());
        // Twice, as after a crash.
        for _ in 0..2 {
            pack(&store, &hour, &certificate, &mut || false).unwrap().unwrap();
        }
        assert!(finish(&store, &hour, &certificate).unwrap());
        assert!(!store.place(&hour).data.exists());
        let mut text = String::new();
        open(store.disk(), &path(&store, &hour)).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "a\nb\n");
        let names = std::fs::read_dir(store.path("log_data")).unwrap().count();
        assert_eq!(names, 1, "nothing is left beside it");
    }

    /// It was overwritten, whatever it was.
    #[test]
    fn a_file_of_somebody_else_is_used_if_it_is_the_hour_and_else_left_alone() {
        let temp = Temp::new();
        let (store, hour, certificate) = begun(&temp);
        let there = path(&store, &hour);
        let write = |text: &str| {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
            encoder.write_all(text.as_bytes()).unwrap();
            std::fs::write(&there, encoder.finish().unwrap()).unwrap();
            std::fs::read(&there).unwrap()
        };
        for bytes in [write("a\n"), b"no gzip".to_vec()] {
            std::fs::write(&there, &bytes).unwrap();
            let why = pack(&store, &hour, &certificate, &mut || false).unwrap().unwrap_err();
            assert!(why.contains("other lines") && why.contains("move it away"), "{why}");
            assert!(std::fs::read(&there).unwrap() == bytes && store.place(&hour).data.exists());
        }
        let bytes = write("a\nb\n");
        pack(&store, &hour, &certificate, &mut || false).unwrap().unwrap();
        assert_eq!(std::fs::read(&there).unwrap(), bytes);
        assert!(finish(&store, &hour, &certificate).unwrap() && !store.place(&hour).data.exists());
    }

    /// Taken away beside it, the data was looked for in the compressed file of before, and the hour called wrong.
    #[test]
    fn what_an_interrupted_compression_left_goes_with_the_next_certificate() {
        let temp = Temp::new();
        let (store, hour, certificate) = begun(&temp);
        pack(&store, &hour, &certificate, &mut || false).unwrap().unwrap();
        store.certify(&Certificate { revision: 2, ..certificate }).unwrap();
        assert!(store.place(&hour).data.exists() && !path(&store, &hour).exists());
    }

    /// A power cut or a kill in the place of each call: the lines are there all the time, and the next turn ends what was begun.
    #[test]
    fn a_stop_at_any_call_loses_nothing() {
        let temp = Temp::new();
        let (_, hour, certificate) = begun(&temp);
        let mut stops = 0;
        for fate in fates() {
            for at in 1.. {
                let (disk, sim) = simulated(&temp);
                let store = Store::new(&disk, Path::new("/save"), Path::new("/state"), 0o644, 0o755);
                let turn = |store: &Store| match pack(store, &hour, &certificate, &mut || false) {
                    Ok(Ok(())) => finish(store, &hour, &certificate).is_ok(),
                    _ => false,
                };
                sim.plan(sim.calls() + at, Fault::Torn);
                let ended = turn(&store);
                sim.restart(fate);
                let whole = |store: &Store| {
                    let plain = disk.read_opt(&store.place(&hour).data, 99).unwrap();
                    let found = || digest(&disk, &path(store, &hour)).unwrap().unwrap();
                    plain.map_or_else(
                        || found() == (4, certificate.sha256.clone()),
                        |lines| lines == b"a\nb\n",
                    )
                };
                assert!(whole(&store), "call {at}, {fate:?}: {:?}", sim.log());
                sim.forget_plan();
                if disk.stat(&store.place(&hour).data).unwrap().is_some() {
                    assert!(turn(&store), "call {at}, {fate:?}");
                }
                let left: Vec<_> =
                    sim.paths().into_iter().filter(|(p, _)| p.starts_with("/save/log_data")).collect();
                assert!(whole(&store) && left.len() == 1, "call {at}, {fate:?}: {left:?}");
                if ended {
                    break;
                }
                stops += 1;
            }
        }
        println!("compress: stopped {stops} times");
        assert!(stops > 40, "{stops}");
    }

    #[test]
    fn an_hour_that_is_another_one_now_stays() {
        let temp = Temp::new();
        let (store, hour, certificate) = begun(&temp);
        pack(&store, &hour, &certificate, &mut || false).unwrap().unwrap();
        // Bytes came meanwhile: its tag was removed before they were taken.
        store.revoke(&hour).unwrap();
        assert!(!finish(&store, &hour, &certificate).unwrap());
        assert!(store.place(&hour).data.exists() && !path(&store, &hour).exists());
        std::fs::write(store.place(&hour).data, "a\nB\n").unwrap();
        let why = pack(&store, &hour, &certificate, &mut || false).unwrap().unwrap_err();
        assert!(why.contains("not what was certified"), "{why}");
        assert_eq!(std::fs::read_dir(store.path("log_data")).unwrap().count(), 1);
    }
}

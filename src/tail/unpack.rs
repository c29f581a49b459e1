//! Hour files that were compressed and removed (`access.log.2026112205.gz`): they are unpacked below the state directory and
//! then read like any other, so that packs can be read again as often as they must.
//!
//! The unpacked file lies in `unpacked/NAME_HOUR`. It appears whole or not at all, and goes when its hour is acknowledged.

use super::pattern::Pattern;
use crate::clock::Hour;
use crate::disk::{self, Disk, File};
use crate::pack::HourKey;
use flate2::read::MultiGzDecoder;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Below the state directory.
pub const DIR: &str = "unpacked";
const BLOCK: usize = 256 << 10;

/// The compressed form of a file.
pub fn packed(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".gz");
    name.into()
}

/// Where an hour's file is unpacked to, in `dir`.
pub fn place(dir: &Path, key: &HourKey) -> PathBuf {
    dir.join(key.to_string())
}

/// Hours that have a file, compressed or not.
pub fn existing(pattern: &Pattern, disk: &Disk) -> disk::Result<Vec<Hour>> {
    let mut hours = pattern.existing(disk)?;
    hours.extend(pattern.packed().existing(disk)?);
    hours.sort_unstable();
    hours.dedup();
    Ok(hours)
}

/// A file read from its beginning.
struct Reading<'a> {
    file: &'a File,
    at: u64,
    failed: Option<disk::Error>,
}

impl Read for Reading<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.file.read_at(buf, self.at) {
            Ok(n) => {
                self.at = self.at.saturating_add(n as u64);
                Ok(n)
            }
            Err(e) => {
                self.failed = Some(e);
                Err(io::ErrorKind::Other.into())
            }
        }
    }
}

/// Unpacks `from`; the inner error says what is wrong with its content. Nothing of a damaged one is left: half an hour is none.
pub fn unpack(disk: &Disk, from: &Path, to: &Path) -> disk::Result<Result<(), String>> {
    let mut half = to.as_os_str().to_owned();
    half.push(".tmp");
    let half = PathBuf::from(half);
    let done = unpack_to(disk, from, &half);
    match done {
        Ok(Ok(())) => {
            disk.rename(&half, to)?;
            if let Some(dir) = to.parent() {
                disk.sync_dir(dir)?;
            }
        }
        _ => {
            // The reason is worth more than what became of the half.
            let _ = disk.remove(&half);
        }
    }
    done
}

fn unpack_to(disk: &Disk, from: &Path, half: &Path) -> disk::Result<Result<(), String>> {
    let source = disk.open(from)?;
    // Others than its owner need not read it, but whoever unpacks may be root and the follower somebody else.
    let out = disk.create(half, 0o644)?;
    out.set_len(0)?;
    let mut decoder = MultiGzDecoder::new(Reading { file: &source, at: 0, failed: None });
    let (mut block, mut at) = (vec![0; BLOCK], 0);
    loop {
        match decoder.read(&mut block) {
            Ok(0) => break,
            Ok(n) => {
                out.write_at(block.get(..n).unwrap_or_default(), at)?;
                at = at.saturating_add(n as u64);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => {
                return match decoder.into_inner().failed {
                    Some(failed) => Err(failed),
                    None => Ok(Err(format!("{}: it cannot be unpacked: {e}", from.display()))),
                };
            }
        }
    }
    out.sync()?;
    Ok(Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write;

    fn gz(text: &[u8]) -> Vec<u8> {
        let mut e = GzEncoder::new(Vec::new(), Compression::default());
        e.write_all(text).unwrap();
        e.finish().unwrap()
    }

    #[test]
    fn it_comes_out_whole_or_not_at_all() {
        let (disk, sim) = Disk::sim(1);
        let (from, to) = (Path::new("/l/a.gz"), Path::new("/u/a"));
        sim.put(Path::new("/u/.keep"), b"");
        let text = "a line\n".repeat(100_000).into_bytes();
        // Two members, as `cat a.gz b.gz` makes them.
        let packed = [gz(&text), gz(b"more\n")].concat();
        sim.put(from, &packed);
        unpack(&disk, from, to).unwrap().unwrap();
        assert_eq!(disk.read(to, 1 << 20).unwrap(), [&text[..], b"more\n"].concat());
        disk.remove(to).unwrap();
        for len in [0, 5, packed.len() / 2, packed.len() - 1] {
            sim.put(from, &packed[..len]);
            // Nothing at all is what an empty file unpacks to for gzip, too; it is no archive.
            let why = unpack(&disk, from, to).unwrap();
            assert!(why.is_err_and(|e| e.contains("/l/a.gz")), "{len}");
            assert!(disk.list(Path::new("/u")).unwrap().len() == 1, "{len}");
        }
        assert!(unpack(&disk, Path::new("/l/none"), to).unwrap_err().not_found());
    }
}

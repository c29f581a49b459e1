//! The record: how the spool and the journal put things into append-only files.
//!
//! ```text
//!  0  magic   "LGD1"
//!  4  kind    1 byte, the owner's
//!  5  version 1 byte, 1
//!  6  zero    2 bytes
//!  8  length  4 bytes, of the payload
//! 12  CRC-32  4 bytes, over the other 28 header bytes and the payload
//! 16  seq     8 bytes, +1 from record to record
//! 24  offset  8 bytes, of this record in its file
//! 32  payload
//! ```
//! All numbers are little-endian. The offset is part of what is checked, so that bytes *inside* a payload that look
//! like a record are never taken for one when a damaged record is skipped.
//!
//! P5: a reader goes from any damage to the next good record; what it skipped is reported with its place.

use crate::disk::{self, File};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Bytes before the payload.
pub const HEADER: usize = 32;
const MAGIC: &[u8; 4] = b"LGD1";
const VERSION: u8 = 1;
/// Disks fail by the sector, and the kernel reads by the page.
const SECTOR: usize = 4096;

/// A record's place and header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The owner's kind.
    pub kind: u8,
    /// Sequence number.
    pub seq: u64,
    /// Place in the file.
    pub offset: u64,
    /// Payload length in bytes.
    pub len: u32,
    crc: u32,
}

impl Head {
    /// Place of the byte after the record.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(HEADER as u64).saturating_add(u64::from(self.len))
    }

    fn parse(bytes: &[u8], offset: u64, max: u32) -> Option<Self> {
        let (head, _) = bytes.split_first_chunk::<HEADER>()?;
        let u32_at = |i: usize| Some(u32::from_le_bytes(*head.get(i..)?.first_chunk()?));
        let u64_at = |i: usize| Some(u64::from_le_bytes(*head.get(i..)?.first_chunk()?));
        let good = head.starts_with(MAGIC) && *head.get(5)? == VERSION && u64_at(24)? == offset;
        let found = Self { kind: *head.get(4)?, seq: u64_at(16)?, offset, len: u32_at(8)?, crc: u32_at(12)? };
        (good && found.len <= max).then_some(found)
    }
}

/// The bytes of one record at `offset` of its file, with the payload given in parts.
pub fn encode(kind: u8, seq: u64, offset: u64, parts: &[&[u8]], out: &mut Vec<u8>) {
    let len: usize = parts.iter().map(|p| p.len()).sum();
    let start = out.len();
    out.reserve(len.saturating_add(HEADER));
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&[kind, VERSION, 0, 0]);
    out.extend_from_slice(&(len as u32).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&seq.to_le_bytes());
    out.extend_from_slice(&offset.to_le_bytes());
    for p in parts {
        out.extend_from_slice(p);
    }
    let crc = crc_of(out.get(start..).unwrap_or_default());
    if let Some(place) = out.get_mut(start.saturating_add(12)..start.saturating_add(16)) {
        place.copy_from_slice(&crc.to_le_bytes());
    }
}

fn crc_of(record: &[u8]) -> u32 {
    let mut h = crc32fast::Hasher::new();
    h.update(record.get(..12).unwrap_or_default());
    h.update(record.get(16..).unwrap_or_default());
    h.finalize()
}

/// What stands at a place of a file.
#[derive(Debug)]
pub enum Found {
    /// A good record; the payload is in the caller's buffer, after [`HEADER`] bytes.
    Record(Head),
    /// The file ends here, between two records.
    End,
    /// No record from here to `next`, where a good one begins (or the file ends).
    Damage {
        /// First byte that is not part of the damage.
        next: u64,
    },
}

/// Reads the record at `offset` into `buf` (header and payload), or finds out how far the damage goes.
pub fn read(file: &File, offset: u64, max: u32, buf: &mut Vec<u8>) -> disk::Result<Found> {
    read_by(file, offset, max, buf, Err)
}

/// The same where a sector that cannot be read is damage of the records in it, and no more: those behind it are used.
pub fn read_past(file: &File, offset: u64, max: u32, buf: &mut Vec<u8>) -> disk::Result<Found> {
    read_by(file, offset, max, buf, |e| if e.fatal() { Err(e) } else { Ok(()) })
}

fn read_by(
    file: &File,
    offset: u64,
    max: u32,
    buf: &mut Vec<u8>,
    unread: fn(disk::Error) -> disk::Result<()>,
) -> disk::Result<Found> {
    let mut attempt = |at| try_read(file, at, max, buf).or_else(|e| unread(e).map(|()| None));
    if let Some(head) = attempt(offset)? {
        return Ok(Found::Record(head));
    }
    let len = file.stat()?.len;
    if offset >= len {
        return Ok(Found::End);
    }
    let mut at = offset.saturating_add(1);
    let mut block = vec![0u8; 64 << 10];
    while at < len {
        let n = match file.read_at(&mut block, at) {
            Ok(n) => n,
            // The sectors are tried one by one: what is good of them ends where a bad one begins.
            Err(e) => {
                unread(e)?;
                let rest = SECTOR.saturating_sub(at as usize % SECTOR);
                if block.len() > rest {
                    block.truncate(rest);
                } else {
                    at = at.saturating_add(rest as u64);
                    block.resize(SECTOR, 0);
                }
                continue;
            }
        };
        let here = block.get(..n).unwrap_or_default();
        for i in memchr::memmem::find_iter(here, MAGIC) {
            if attempt(at.saturating_add(i as u64))?.is_some() {
                return Ok(Found::Damage { next: at.saturating_add(i as u64) });
            }
        }
        // Blocks overlap by the magic's length less one, so that none is cut in two.
        match n.checked_sub(MAGIC.len().saturating_sub(1)) {
            Some(step) if step > 0 => at = at.saturating_add(step as u64),
            _ if n > 0 => at = at.saturating_add(n as u64),
            _ => break,
        }
    }
    Ok(Found::Damage { next: len })
}

/// The header at `offset`, whether or not its payload is whole: what a damaged or torn record was to be.
pub fn header(file: &File, offset: u64, max: u32) -> disk::Result<Option<Head>> {
    let mut bytes = [0; HEADER];
    let n = file.read_at(&mut bytes, offset)?;
    Ok(bytes.get(..n).and_then(|b| Head::parse(b, offset, max)))
}

fn try_read(file: &File, offset: u64, max: u32, buf: &mut Vec<u8>) -> disk::Result<Option<Head>> {
    buf.clear();
    buf.resize(HEADER, 0);
    if file.read_at(buf, offset)? < HEADER {
        return Ok(None);
    }
    let Some(head) = Head::parse(buf, offset, max) else { return Ok(None) };
    // The length is only a promise until the file is known to be that long.
    if file.stat()?.len < head.end() {
        return Ok(None);
    }
    buf.resize((head.len as usize).saturating_add(HEADER), 0);
    let payload = buf.get_mut(HEADER..).unwrap_or_default();
    let n = file.read_at(payload, offset.saturating_add(HEADER as u64))?;
    Ok((n == head.len as usize && crc_of(buf) == head.crc).then_some(head))
}

/// A small state file: pretty JSON with a `check`, the CRC-32 of its other members, so that a changed byte is
/// noticed and never believed. Members are sorted by name: a crate of another feature makes `serde_json` keep them in the order
/// in which they came, and programs with and without it read each other's files.
pub fn to_json<T: Serialize>(value: &T) -> Vec<u8> {
    let mut value = serde_json::to_value(value).unwrap_or_default();
    value.sort_all_objects();
    let check = format!("{:08x}", crc32fast::hash(value.to_string().as_bytes()));
    if let Some(map) = value.as_object_mut() {
        map.insert("check".into(), check.into());
    }
    value.sort_all_objects();
    let mut out = serde_json::to_vec_pretty(&value).unwrap_or_default();
    out.push(b'\n');
    out
}

/// Reads what [`to_json`] wrote; the error says what is wrong with it.
pub fn from_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let mut value: Value = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    // Where members keep their order, the last one takes the place of the one that is removed.
    let told = value.as_object_mut().and_then(|m| m.remove("check"));
    value.sort_all_objects();
    let check = format!("{:08x}", crc32fast::hash(value.to_string().as_bytes()));
    if told != Some(Value::String(check)) {
        return Err("its check does not hold: it was changed or damaged".into());
    }
    serde_json::from_value(value).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Disk;
    use std::collections::BTreeMap;
    use std::path::Path;

    fn file_with(records: &[&[u8]]) -> (crate::disk::SimDisk, Disk, File, Vec<u64>) {
        let (disk, sim) = Disk::sim(1);
        let mut bytes = Vec::new();
        let mut at = Vec::new();
        for (i, r) in records.iter().enumerate() {
            at.push(bytes.len() as u64);
            let offset = bytes.len() as u64;
            encode(7, i as u64, offset, &[r], &mut bytes);
        }
        at.push(bytes.len() as u64);
        sim.put(Path::new("/f"), &bytes);
        let file = disk.open(Path::new("/f")).unwrap();
        (sim, disk, file, at)
    }

    #[test]
    fn every_flipped_bit_is_found_and_the_next_record_survives() {
        let (sim, _disk, file, at) = file_with(&[b"one", b"", b"three"]);
        let mut buf = Vec::new();
        for offset in 0..at[1] {
            assert!(sim.flip(Path::new("/f"), offset, 0x10));
            match read(&file, 0, 1 << 20, &mut buf).unwrap() {
                Found::Damage { next } => assert_eq!(next, at[1], "flip at {offset}"),
                other => panic!("flip at {offset}: {other:?}"),
            }
            sim.flip(Path::new("/f"), offset, 0x10);
        }
        assert!(
            matches!(read(&file, at[2], 1 << 20, &mut buf).unwrap(), Found::Record(h) if h.seq == 2 && h.kind == 7)
        );
        assert_eq!(&buf[HEADER..], b"three");
        assert!(matches!(read(&file, at[3], 1 << 20, &mut buf).unwrap(), Found::End));
    }

    #[test]
    fn a_record_inside_a_damaged_payload_is_not_believed() {
        let mut inner = Vec::new();
        encode(7, 1, 0, &[b"forged"], &mut inner);
        let (sim, _disk, file, at) = file_with(&[&inner, b"after"]);
        sim.flip(Path::new("/f"), 1, 0xff);
        let mut buf = Vec::new();
        assert!(
            matches!(read(&file, 0, 1 << 20, &mut buf).unwrap(), Found::Damage { next } if next == at[1])
        );
    }

    #[test]
    fn a_state_file_is_the_same_whatever_order_its_members_came_in() {
        #[derive(Serialize, serde::Deserialize, PartialEq, Debug)]
        struct File {
            zone: String,
            at: BTreeMap<String, u32>,
            name: String,
        }
        let file =
            File { zone: "UTC".into(), at: [("b".into(), 1), ("a".into(), 2)].into(), name: "x".into() };
        let text = "{\n  \"at\": {\n    \"a\": 2,\n    \"b\": 1\n  },\n  \"check\": \"7b890a26\",\n  \"name\": \"x\",\n  \
                    \"zone\": \"UTC\"\n}\n";
        assert_eq!(String::from_utf8(to_json(&file)).unwrap(), text);
        assert_eq!(from_json::<File>(text.as_bytes()).unwrap(), file);
        let turned = r#"{"zone":"UTC","name":"x","check":"7b890a26","at":{"b":1,"a":2}}"#;
        assert_eq!(from_json::<File>(turned.as_bytes()).unwrap(), file);
    }

    #[test]
    fn a_huge_declared_length_allocates_nothing() {
        let (sim, _disk, file, at) = file_with(&[b"x"]);
        sim.flip(Path::new("/f"), 11, 0x7f);
        let mut buf = Vec::new();
        assert!(
            matches!(read(&file, 0, u32::MAX, &mut buf).unwrap(), Found::Damage { next } if next == at[1])
        );
        assert!(buf.capacity() < 4096);
    }
}

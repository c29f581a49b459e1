//! A stored hour: its data, its proof in `headers/`, its tag.

use super::super::keeper::{Files, Keeper, SAVE, files, machine, verdicts};
use super::Script;
use logd::disk::Disk;
use logd::integrity::lines;
use logd::integrity::{Certificate, Store, reread, scan};
use logd::ops::verify::Verdict;
use logd::pack::{Checked, Encoder, Header, HourKey, Meta, Seal, Totals, hex, total_digest};
use logd::record;
use sha2::Sha256;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

const HOUR: &str = "web1_2026112205";

fn raws() -> [String; 4] {
    let block = |i: u32| (0..3).map(|n| format!("web1 line {} of pack {i}\n", i * 3 + n)).collect::<String>();
    [block(0), block(1), block(2), String::new()]
}

fn metas() -> Vec<Meta> {
    let seals = raws().map(|r| Seal::of(r.as_bytes()));
    let whole = Seal::of(raws().concat().as_bytes());
    let sha256 = total_digest(seals.iter().map(|s| &s.sha256));
    let of = |(i, seal): (usize, &Seal)| Meta {
        key: HourKey::parse(HOUR).unwrap(),
        generation: 0,
        id: i as u64 + 1,
        lines: if seal.bytes > 0 { 3 } else { 0 },
        done: i == 3,
        repull: false,
        seal: Some(*seal),
        totals: (i == 3).then_some(Totals { lines: 9, bytes: whole.bytes, sha256 }),
        state: String::new(),
        loss: String::new(),
        day_hours: 0,
        clock: false,
    };
    seals.iter().enumerate().map(of).collect()
}

/// A machine on which the hour is stored and certified, made once by the collector itself.
fn stored() -> &'static Files {
    static STORED: OnceLock<Files> = OnceLock::new();
    STORED.get_or_init(|| {
        let (disk, sim) = machine(&Files::new());
        let mut keeper = Keeper::open(disk, sim);
        let mut encoder = Encoder::new(6);
        for (meta, raw) in metas().iter().zip(raws()) {
            let mut body = Vec::new();
            encoder.body(raw.as_bytes(), &meta.tag(), &mut body);
            let header = Header { route: vec![meta.entry()], pack_len: body.len() as u64 };
            assert!(keeper.send(&[header.encode(), body].concat()));
        }
        keeper.stop()
    })
}

fn path(dir: &str) -> PathBuf {
    let name = if dir == "received" { format!("{HOUR}_9") } else { HOUR.into() };
    Path::new(SAVE).join(dir).join(name)
}

/// Changes one value of a line and gives it a CRC that holds: what a faulty program, not a faulty disk, would leave.
fn forge(s: &mut Script, proof: &mut Vec<u8>) {
    let text = String::from_utf8_lossy(proof).into_owned();
    let mut all: Vec<String> = text.lines().map(str::to_owned).collect();
    let n = s.place(all.len());
    let Some(line) = all.get_mut(n) else { return };
    let Some((body, _)) = line.split_once(",\"crc\":") else { return };
    let mut body = body.to_owned();
    let digits: Vec<usize> = body.match_indices(|c: char| c.is_ascii_hexdigit()).map(|m| m.0).collect();
    let Some(at) = digits.get(s.place(digits.len())) else { return };
    let with = ["0", "1", "9", "a", "00", "", "\"", "-"][usize::from(s.byte() & 7)];
    body.replace_range(*at..=*at, with);
    *line = format!("{body},\"crc\":\"{:08x}\"}}", Seal::of(body.as_bytes()).crc32);
    *proof = all.iter().flat_map(|l| [l.as_bytes(), b"\n"].concat()).collect();
}

fn shuffle(s: &mut Script, proof: &mut Vec<u8>) {
    let mut all: Vec<Vec<u8>> = proof.split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
    let (a, b) = (s.place(all.len()), s.place(all.len()));
    if all.is_empty() {
        return;
    }
    match s.byte() % 3 {
        0 => all.swap(a, b),
        1 => all.insert(a, all[b].clone()),
        _ => drop(all.remove(a)),
    }
    *proof = all.concat();
}

/// The proof and the data of a stored hour with these changes: the collector starts on them; it destroys no stored byte;
/// what it certifies has the sender's digest only if it has the sender's bytes; a second start changes nothing; and
/// `verify` agrees.
pub fn proof(bytes: &[u8]) {
    let mut s = Script(bytes);
    let mode = s.byte();
    let mut now = stored().clone();
    let (data, headers, tag) = (path("log_data"), path("headers"), path("received"));
    let closed = Path::new("/state/closed").join(HOUR);
    if mode & 2 == 0 {
        now.remove(&closed);
    }
    if mode & 4 == 0 {
        now.remove(&tag);
    }
    if mode & 1 == 0 {
        now.insert(headers.clone(), s.0.to_vec());
    } else {
        while !s.ended() {
            let what = s.byte();
            let of = |p: &PathBuf| now.get(p).cloned().unwrap_or_default();
            let place = [&headers, &data, &headers, &tag, &closed][usize::from(what % 5)];
            let mut text = of(place);
            match what / 5 % 4 {
                2 if place == &headers => forge(&mut s, &mut text),
                3 if place == &headers => shuffle(&mut s, &mut text),
                _ => s.damage(&mut text),
            }
            if now.contains_key(place) {
                now.insert(place.clone(), text);
            }
        }
    }
    let source = raws().concat().into_bytes();
    let digest = hex(&metas()[3].totals.unwrap().sha256);
    let key = HourKey::parse(HOUR).unwrap();

    let (disk, sim) = machine(&now);
    let store = Store::new(&disk, Path::new(SAVE), Path::new("/state"), 0o644, 0o755);
    let found = scan(&disk, &store.place(&key)).unwrap();
    assert!(found.good_len <= found.headers_len);
    let read = reread(&disk, &store.place(&key), &mut Sha256::default()).unwrap();
    if let Some(r) = &read
        && r.fault.is_none()
        && hex(&r.summary.digest()) == digest
    {
        assert_eq!(now.get(&data), Some(&source), "other bytes with the sender's digest");
    }
    let judge = |disk: &Disk| {
        let v = verdicts(disk).remove(&key);
        if v == Some(Verdict::Right) {
            // Either it is the source, or what the sender told is not there any more and something else is.
            let told = reread(disk, &store.place(&key), &mut Sha256::default()).unwrap();
            let same = told.is_some_and(|r| hex(&r.summary.digest()) == digest);
            let read = disk.read_opt(&data, 1 << 20).unwrap().unwrap_or_default();
            let sealed = mode & 1 == 1 && mode & 2 == 2 && read == source;
            assert!(!same || read == source || sealed);
        }
        v
    };
    judge(&disk);
    assert_eq!(files(&disk, &sim), now, "reading changes the store");

    let mut keeper = Keeper::open(disk.clone(), sim.clone());
    keeper.settle();
    let after = keeper.stop();
    assert_eq!(after.get(&data), now.get(&data), "stored bytes are not what they were");
    for (name, text) in &after {
        if !name.starts_with("/save/received") || now.get(name) == Some(text) {
            continue;
        }
        let cert: Certificate = record::from_json(text).unwrap();
        let stored = after.get(&data).cloned().unwrap_or_default();
        assert!(cert.is_tag() && cert.name == key.name && cert.hour == key.hour, "{cert:?}");
        assert_eq!(cert.sha256, hex(&Seal::of(&stored).sha256));
        assert_eq!(cert.bytes, stored.len() as u64);
        if cert.verified {
            assert!(cert.digest != digest || stored == source, "a certificate for changed bytes");
        }
        assert_eq!(judge(&disk), Some(Verdict::Right), "verify does not agree");
    }
    let untouched = [&data, &headers].iter().all(|p| now.get(*p) == stored().get(*p));
    if untouched && !now.contains_key(&closed) {
        assert_eq!(
            after.get(&tag).map(|t| record::from_json::<Certificate>(t).unwrap().sha256),
            Some(hex(&Seal::of(&source).sha256)),
            "the true hour has no certificate"
        );
    }
    // What a line of the proof is does not change when it is written again.
    for line in after.get(&headers).into_iter().flat_map(|h| h.split(|b| *b == b'\n')) {
        if let lines::Line::Ours(stored) = lines::parse(line) {
            let header = Header::parse(line).unwrap();
            let sum = Checked { bytes: stored.bytes, crc32: stored.crc32 };
            let again = lines::encode(&header, stored.offset, &sum);
            assert_eq!(lines::parse(again.trim_ascii_end()), lines::Line::Ours(stored));
        }
    }
    let (disk, sim) = machine(&after);
    assert_eq!(Keeper::open(disk, sim).stop(), after, "a second start finds something else");
}

//! State files and the config: spool segments, the follower's journal, the footprint, INI.

use super::Script;
use logd::clock::Hour;
use logd::config::{Config, SpoolConfig};
use logd::disk::{Disk, Outcome};
use logd::footprint::{Footprint, HourPrint, Pending, Verdict, load_json};
use logd::journal::{self, Cut, Event, Journal};
use logd::pack::{Checked, HourKey, Seal};
use logd::record;
use logd::spool::{Loc, Shelf, Spool};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const STATE: &str = "/state";

fn key(name: &str) -> HourKey {
    HourKey { name: name.into(), hour: Hour::parse("2026112205").unwrap() }
}

fn content(disk: &Disk, path: &Path) -> Vec<u8> {
    disk.read(path, 1 << 26).unwrap()
}

/// A record is good if its CRC says so, counted here and not by the program: number and payload.
fn good_record(file: &[u8], at: u64) -> Option<(u64, &[u8])> {
    let rest = file.get(usize::try_from(at).ok()?..)?;
    let head = rest.get(..32)?;
    let len = u32::from_le_bytes(head[8..12].try_into().unwrap()) as usize;
    let payload = rest.get(32..32usize.checked_add(len)?)?;
    let crc = Seal::of(&[&head[..12], &head[16..], payload].concat()).crc32;
    let good =
        head.starts_with(b"LGD1") && head[12..16] == crc.to_le_bytes() && head[24..32] == at.to_le_bytes();
    good.then(|| (u64::from_le_bytes(head[16..24].try_into().unwrap()), payload))
}

// ---- spool ----

fn segments(bytes: &[u8]) -> BTreeMap<u64, Vec<u8>> {
    let mut s = Script(bytes);
    let mode = s.byte();
    if mode & 1 == 0 {
        return [(1, s.0.to_vec())].into();
    }
    let (mut out, mut base, mut seq) = (BTreeMap::new(), 1, 1u64);
    let mut now: Vec<u8> = Vec::new();
    while !s.ended() {
        match s.byte() % 8 {
            0 => s.damage(&mut now),
            1 => now.extend_from_slice({
                let n = usize::from(s.byte());
                s.take(n)
            }),
            2 => {
                out.insert(base, std::mem::take(&mut now));
                base = seq;
            }
            // A record that is whole and yet not the one that can follow.
            3 => seq = seq.saturating_add(s.number()).min(1 << 61),
            what => {
                let n = usize::from(s.byte());
                let kind = if what == 4 { s.byte() } else { b'P' };
                let offset = now.len() as u64;
                record::encode(kind, seq, offset, &[s.take(n)], &mut now);
                seq = seq.wrapping_add(1);
            }
        }
    }
    out.insert(base, now);
    out
}

struct Opened {
    spool: Spool,
    packs: Vec<(Loc, Vec<u8>)>,
    reports: Vec<String>,
}

fn open(disk: &Disk) -> Opened {
    let text = b"[collector]\nlisten = :1\nallow = any\nsend_to = a:1\nsegment_size = 64k\nmin_free = 0\n";
    let conf: SpoolConfig = Config::parse("fuzz", text).relay(true).unwrap().0.spool;
    let mut quarantine = Shelf::open(disk, Path::new("/q"), 1 << 30, 1 << 30).unwrap();
    let (mut packs, mut reports) = (Vec::new(), Vec::new());
    let spool = Spool::open(
        disk,
        Path::new("/spool"),
        &mut quarantine,
        &conf,
        &mut |r| reports.push(r),
        &mut |loc, payload| packs.push((loc, payload.to_vec())),
    );
    Opened { spool: spool.unwrap(), packs, reports }
}

fn fetch_all(spool: &Spool, most: usize) -> Vec<(u64, Option<Vec<u8>>)> {
    let (mut out, mut reader, mut next, mut buf) = (Vec::new(), spool.reader(), 0, Vec::new());
    while let Some((seq, base)) = spool.next_waiting(next) {
        let found = reader.fetch(seq, base, &mut buf).unwrap();
        out.push((seq, found.map(|_| buf.clone())));
        assert!(out.len() <= most, "more packs wait than were seen");
        next = seq + 1;
    }
    out
}

/// Do whole records stand with rising numbers, each segment's below the next one's first? Nobody writes others; which of two
/// with one number is used may then change when a segment is done and gone.
fn orderly(segments: &BTreeMap<u64, Vec<u8>>) -> bool {
    let ends = segments.keys().skip(1).copied().chain([u64::MAX]);
    segments.iter().zip(ends).all(|((base, file), end)| {
        let seqs = (0..file.len() as u64).filter_map(|at| Some(good_record(file, at)?.0));
        let seqs: Vec<u64> = seqs.collect();
        seqs.is_sorted_by(|a, b| a < b) && seqs.iter().all(|s| (*base..end).contains(s))
    })
}

/// A spool whose segments have these bytes: it opens, yields only whole records in order, cuts nothing that it has not
/// set aside, says so when it skips anything, is the same when opened again, and goes on working.
pub fn spool(bytes: &[u8]) {
    let (disk, sim) = Disk::sim(1);
    let before = segments(bytes);
    let path = |base: u64| PathBuf::from(format!("/spool/{base:020}.seg"));
    for (base, text) in &before {
        sim.put(&path(*base), text);
    }
    let first = open(&disk);
    let mut sum = 0;
    for (loc, payload) in &first.packs {
        let told = good_record(&before[&loc.base], loc.offset);
        assert_eq!(told, Some((loc.seq, payload.as_slice())), "{loc:?} is no whole record");
        assert_eq!(loc.len, payload.len() as u64 + record::HEADER as u64);
        sum += loc.len;
    }
    assert!(first.packs.is_sorted_by(|a, b| a.0.seq < b.0.seq), "out of order, or twice");
    let all: usize = before.values().map(Vec::len).sum();
    assert!(
        sum == all as u64 || !first.reports.is_empty(),
        "{sum} of {all} bytes are used, and nobody is told"
    );
    for (base, text) in &before {
        let now = disk.read_opt(&path(*base), 1 << 26).unwrap().unwrap_or_default();
        assert!(text.starts_with(&now));
        let used = first.packs.iter().filter(|p| p.0.base == *base).map(|p| p.0.offset + p.0.len).max();
        if let Some(end) = used {
            assert!(now.len() as u64 >= end, "a pack was cut away");
        }
        // What is not there any more is in quarantine, but for what lies between its stretches and is a pack.
        let kept = |at: usize| {
            let name = format!("/q/spool/{base:020}-{at}-{:08x}.bin", Seal::of(&text[at..]).crc32);
            disk.read_opt(Path::new(&name), 1 << 26).unwrap()
        };
        if used.is_some() && now.len() < text.len() {
            assert_eq!(kept(now.len()).as_deref(), Some(&text[now.len()..]), "cut and not kept");
        }
    }
    let seqs: Vec<u64> = first.packs.iter().map(|p| p.0.seq).collect();
    assert_eq!(first.spool.waiting(), seqs.len() as u64, "{seqs:?}");
    let want: Vec<(u64, Option<Vec<u8>>)> =
        first.packs.iter().map(|(l, p)| (l.seq, Some(p.clone()))).collect();
    let orderly = orderly(&before);
    assert!(fetch_all(&first.spool, want.len()) == want || !orderly, "another pack than was seen");
    drop(first.spool);

    let mut second = open(&disk);
    assert!(second.packs == first.packs || !orderly, "opened twice, it is not the same");
    assert!(second.packs.is_sorted_by(|a, b| a.0.seq < b.0.seq), "out of order, or twice");
    let loc = second.spool.append(&[b"one ", b"more"]).unwrap();
    assert!(second.packs.last().is_none_or(|p| p.0.seq < loc.seq));
    second.spool.sync().unwrap();
    sim.restart(Outcome::LoseUnsynced);
    let mut third = open(&disk);
    let (last, rest) = third.packs.split_last().unwrap();
    assert_eq!(last, &(loc, b"one more".to_vec()));
    assert_eq!(rest, second.packs);
    for (loc, _) in &third.packs {
        third.spool.mark_done(loc.seq).unwrap();
    }
    third.spool.close().unwrap();
    assert_eq!((third.spool.waiting(), third.spool.bytes()), (0, 0));
    assert!(disk.list(Path::new("/spool")).unwrap().is_empty());
}

// ---- journal ----

fn events(s: &mut Script) -> Event {
    let what = s.byte();
    let hour = ["web1_2026112205", "web1_2026112206", "web2_20261122", "nonsense"]
        [usize::from(what & 3).min(if what == 3 { 3 } else { 2 })]
    .to_owned();
    match what >> 2 & 7 {
        0 => Event::Opened {
            hour,
            generation: s.number(),
            path: PathBuf::from("/log/a"),
            first_id: s.number(),
            pos: s.number(),
            clock: false,
        },
        1 => Event::Note {
            hour,
            what: ["partial", "changed", "loss"][s.place(3)].into(),
            range: (what & 32 != 0).then(|| (s.number(), (what & 64 != 0).then(|| s.number()))),
            pos: (what & 128 != 0).then(|| s.number()),
        },
        2 => Event::Acked {
            hour,
            generation: s.number(),
            ids: (0..s.byte() % 4).map(|_| s.number()).collect(),
            to: (what & 32 != 0).then(|| "b:1302".into()),
        },
        3 => Event::Archived { hour },
        _ => {
            let (id, start) = (s.number(), s.number());
            let seal = Seal { bytes: u64::from(s.byte()), crc32: 7, sha256: [what; 32] };
            let end = start.wrapping_add(seal.bytes);
            let cut = Cut::new(id, 0, s.number(), &seal, what & 32 != 0);
            Event::Cut { hour, cut: Cut { start, end, ..cut } }
        }
    }
}

fn journal_bytes(bytes: &[u8]) -> Vec<u8> {
    let mut s = Script(bytes);
    let mode = s.byte();
    if mode & 1 == 0 {
        return s.0.to_vec();
    }
    let (mut out, mut seq) = (Vec::new(), 0);
    while !s.ended() {
        match s.byte() % 16 {
            0 => s.damage(&mut out),
            1 => seq = s.number(),
            2 => {
                let n = usize::from(s.byte());
                let offset = out.len() as u64;
                record::encode(b'J', seq, offset, &[s.take(n)], &mut out);
                seq = seq.wrapping_add(1);
            }
            _ => {
                // The only writer of these records is private; this is how it writes them.
                let disk = Disk::sim(1).0;
                let (mut one, _) = Journal::open(&disk, Path::new(STATE), false, &mut |_| {}).unwrap();
                one.append(&events(&mut s));
                one.flush().unwrap();
                let text = content(&disk, Path::new("/state/journal/log"));
                let offset = out.len() as u64;
                record::encode(b'J', seq, offset, &[&text[record::HEADER..]], &mut out);
                seq = seq.wrapping_add(1);
            }
        }
    }
    out
}

fn hours_text(j: &Journal) -> String {
    format!("{:?}", j.hours())
}

/// The follower's journal with these bytes: it opens; what it understood is the same after the first commit and a restart,
/// and then undamaged; what it did not understand is kept and reported; it goes on, and hours move to files of their own and back.
pub fn journal(bytes: &[u8]) {
    let (disk, sim) = Disk::sim(1);
    let (state, path) = (Path::new(STATE), Path::new("/state/journal/log"));
    let before = journal_bytes(bytes);
    sim.put(path, &before);
    let (hours, bad) = journal::peek(&disk, state).unwrap();
    let peeked = format!("{hours:?}");
    assert_eq!(content(&disk, path), before, "a look changes the journal");
    let mut reports = Vec::new();
    let (mut first, damaged) = Journal::open(&disk, state, true, &mut |r| reports.push(r)).unwrap();
    assert_eq!(damaged, !reports.is_empty());
    assert_eq!((hours_text(&first), damaged), (peeked, bad.is_some()));
    if damaged {
        let kept = disk.list(Path::new("/state/journal")).unwrap();
        let kept = kept.iter().find(|e| e.name.starts_with("log.damaged-")).unwrap();
        assert_eq!(content(&disk, &Path::new("/state/journal").join(&kept.name)), before);
    }
    for log in first.hours().values() {
        for (id, cut) in (log.first_id..).zip(&log.cuts) {
            assert!(cut.id == id && log.cut(id) == Some(cut) && cut.end >= cut.start);
            assert_eq!(cut.seal().bytes, cut.end - cut.start);
        }
        assert_eq!(log.next_id(), log.first_id + log.cuts.len() as u64);
        assert!(log.unacked.iter().all(|id| log.cut(*id).is_some()));
        log.totals(log.next_id());
        assert!(log.loss_text().len() <= 512);
    }
    let text = hours_text(&first);
    if damaged {
        // A crash before the owner has said what becomes of the hours must not hide the damage.
        assert!(Journal::open(&disk, state, true, &mut |_| {}).unwrap().1);
        first.commit().unwrap();
    }
    drop(first);
    let again = |damage: bool| {
        let mut said = Vec::new();
        let (j, damaged) = Journal::open(&disk, state, true, &mut |r| said.push(r)).unwrap();
        assert_eq!(damaged, damage, "{said:?}");
        j
    };
    let mut j = again(false);
    assert_eq!(hours_text(&j), text, "a restart changes what the journal knows");

    let name = "web9_2026112205";
    j.append(&Event::Opened {
        hour: name.into(),
        generation: 3,
        path: "/log/b".into(),
        first_id: 1,
        pos: 0,
        clock: false,
    });
    let seal = Seal::of(b"line\n");
    j.append(&Event::Cut { hour: name.into(), cut: Cut::new(1, 0, 1, &seal, true) });
    j.append(&Event::Acked { hour: name.into(), generation: 3, ids: vec![1], to: None });
    j.commit().unwrap();
    let grown = hours_text(&j);
    sim.restart(Outcome::LoseUnsynced);
    let mut j = again(false);
    assert_eq!(hours_text(&j), grown);
    let mine = HourKey::parse(name).unwrap();
    j.archive(&mine).unwrap();
    j.commit().unwrap();
    assert_eq!((hours_text(&j), j.is_archived(&mine).unwrap()), (text, true));
    assert!(j.reopen(&mine).unwrap());
    assert_eq!(hours_text(&j), grown);

    // The same bytes as an archived hour: understood wholly or not at all.
    let archived = PathBuf::from("/state/journal/hours/web1_2026112205");
    sim.put(&archived, &before);
    let found = j.archived(&key("web1")).unwrap();
    assert!(found.is_none() || !damaged, "part of a damaged archive is believed");
}

// ---- footprint ----

fn prints(s: &mut Script) {
    let mut f = Footprint::default();
    // What is accepted per copy, as plainly as it can be said.
    let mut model: BTreeMap<(u8, u64), BTreeMap<u64, u32>> = BTreeMap::new();
    let mut stored: BTreeMap<(u8, u64), u64> = BTreeMap::new();
    let mut floor: BTreeMap<u8, u64> = BTreeMap::new();
    let keys = [key("web1"), key("web2")];
    for (n, k) in keys.iter().enumerate() {
        f.load(k, HourPrint::default(), 0);
        floor.insert(n as u8, 0);
    }
    let high = |m: &BTreeMap<u64, u32>| (1..).take_while(|id| m.contains_key(id)).last().unwrap_or(0);
    let mut seq = 0;
    while !s.ended() {
        let what = s.byte();
        let (n, generation) = (what & 1, u64::from(what >> 1 & 1) * 7);
        let k = &keys[usize::from(n)];
        let id = u64::from(s.byte() % 24) + 1;
        let crc32 = u32::from(what >> 2 & 1);
        let copy = model.entry((n, generation)).or_default();
        match what >> 3 {
            0..24 => {
                let checked = Checked { bytes: 10, crc32 };
                let done = stored.get(&(n, generation)).copied().unwrap_or(0);
                let verdict = f.judge(k, generation, id, &checked, 0);
                let want = match copy.get(&id) {
                    _ if generation < floor[&n] => Verdict::Old(floor[&n]),
                    Some(_) if id <= done => Verdict::Stored,
                    Some(c) if *c != crc32 => Verdict::Conflict,
                    Some(_) => match &verdict {
                        Verdict::Known(of) if *of > 0 => verdict.clone(),
                        other => panic!("{id} is known, not {other:?}"),
                    },
                    None if id == high(copy) + 1 => Verdict::New,
                    None => Verdict::Early,
                };
                assert_eq!(verdict, want, "copy {generation} pack {id}: {copy:?}");
                if matches!(verdict, Verdict::New | Verdict::Early) {
                    seq += 1;
                    copy.insert(id, crc32);
                    f.accept(k, generation, id, Pending { bytes: 10, crc32, mark: 0, seq, weight: 100 }, 0);
                }
            }
            24..28 => {
                let upto = high(copy).min(id);
                let done = stored.entry((n, generation)).or_default();
                *done = upto.max(*done);
                f.stored(k, generation, *done, &[]);
            }
            28 if id % 2 == 0 => {
                // Accepted, and found damaged before it was stored.
                if id > stored.get(&(n, generation)).copied().unwrap_or(0) && copy.remove(&id).is_some() {
                    f.lost(k, generation, id);
                }
            }
            28 => {
                floor.insert(n, floor[&n].max(generation));
                f.drop_below(k, generation);
            }
            _ => f.forget_idle(0),
        }
        // The limits count what lies beyond a gap, no more and no less.
        let early = |only: Option<u8>| -> u64 {
            let here = model.iter().filter(|((n, g), _)| only.is_none_or(|o| o == *n) && *g >= floor[n]);
            here.map(|(_, m)| m.range(high(m) + 1..).count() as u64 * 100).sum()
        };
        let (mine, all) = (early(Some(n)), early(None));
        assert!(f.early_fits(&k.name, 5, mine + 5, all + 5));
        assert!(
            !f.early_fits(&k.name, 5, mine + 4, u64::MAX) && !f.early_fits(&k.name, 5, u64::MAX, all + 4)
        );
    }
    let (disk, sim) = Disk::sim(1);
    disk.create_dir_all(Path::new(STATE), 0o750).unwrap();
    f.save(&disk, Path::new(STATE), "now").unwrap();
    let told = load_json(&disk, Path::new(STATE)).unwrap();
    for (n, k) in keys.iter().enumerate() {
        let copies = f.hour(k, 0).map(|h| h.copies.clone()).unwrap_or_default();
        let want = copies.last_key_value().map(|(g, c)| (*g, c.high, c.early().collect::<Vec<_>>()));
        assert_eq!(told.get(k), want.as_ref(), "{n}");
    }
    let text = content(&disk, Path::new("/state/footprint.json"));
    let at = seq.wrapping_mul(31).checked_rem(text.len() as u64).unwrap_or(0);
    sim.flip(Path::new("/state/footprint.json"), at, 1 << (seq % 8));
    let changed = load_json(&disk, Path::new(STATE));
    // A changed blank changes nothing.
    assert!(changed.as_ref().is_none_or(|c| *c == told), "a changed byte is believed");
}

/// The footprint: its verdicts are those of a plain model, what it saves is what it knows, and a file that is not as it
/// was written is not believed.
pub fn footprint(bytes: &[u8]) {
    let mut s = Script(bytes);
    if s.byte() & 1 == 1 {
        return prints(&mut s);
    }
    let (disk, sim) = Disk::sim(1);
    sim.put(Path::new("/state/footprint.json"), s.0);
    let Some(told) = load_json(&disk, Path::new(STATE)) else { return };
    let text = String::from_utf8(s.0.to_vec()).unwrap();
    assert!(text.contains("\"check\""), "believed without a check");
    for (key, (generation, high, early)) in told {
        assert!(text.contains(&key.to_string()) && early.len() * 2 <= text.len());
        assert!(text.contains(&generation.to_string()) && text.contains(&high.to_string()));
    }
}

// ---- config ----

/// A config: every reader gives values or says where what is wrong, strictness only adds errors, and what `check`
/// prints as the config in effect has the same effect.
pub fn config(bytes: &[u8]) {
    let config = Config::parse("file.ini", bytes);
    let check = config.check_all();
    if let Err(errors) = &check {
        let lines: BTreeSet<String> = errors.to_string().lines().map(str::to_owned).collect();
        assert!(!lines.is_empty() && lines.iter().all(|l| l.starts_with("file.ini")), "{lines:?}");
    }
    macro_rules! role {
        ($get:ident) => {{
            let (strict, daemon) = (config.$get(true).ok(), config.$get(false).ok());
            if let Some((values, _)) = &strict {
                assert_eq!(daemon.as_ref().map(|d| &d.0), Some(values), "a daemon reads it otherwise");
            }
            strict
        }};
    }
    let (tail, relay, store) = (role!(tail), role!(relay), role!(store));
    let effective = config.effective();
    let again = Config::parse("file.ini", effective.as_bytes());
    assert_eq!(again.effective(), effective, "what is printed prints otherwise");
    assert_eq!(again.roles(), config.roles());
    if check.is_ok() {
        let errors = again.check_all().err().map(|e| e.to_string());
        assert_eq!(errors, None, "what check prints is not accepted:\n{effective}");
        assert_eq!(again.tail(true).ok().map(|t| t.0), tail.map(|t| t.0));
        assert_eq!(again.relay(true).ok().map(|t| t.0), relay.map(|t| t.0));
        assert_eq!(again.store(true).ok().map(|t| t.0), store.map(|t| t.0));
    }
}

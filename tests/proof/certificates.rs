//! P3: nothing that happens to a stored hour makes a certificate false.
//!
//! A collector stores hours of several hosts, one of them as a copy that replaced another, one empty, one still open. Then
//! its files are changed while it is down, in one to four ways at once: bits, cuts, packs dropped, repeated and swapped,
//! files exchanged between hosts and hours, fields of proofs and certificates changed with a check that holds again. After
//! each, `verify` must call no changed file right; the collector, started again and left to work until it rests, must
//! certify none; and the untouched ones must keep, or get, their certificate. A new copy must mend what was changed.
//!
//! It cannot show what a forger can do: whoever may write the store and knows SHA-256 can make a proof of anything.
//! A tag that stood before the change stands after a start, since closed hours are not read again; `verify` names them.

use super::support::keeper::{Files, Keeper, SAVE, files, machine, verdicts};
use super::support::peer::{Hour, hex, newlines, sha256};
use super::support::{Rng, proved, seed, soak};
use logd::integrity::Certificate;
use logd::ops::verify::Verdict;
use logd::pack::HourKey;
use logd::record;
use serde_json::Value;
use std::path::{Path, PathBuf};

struct Source {
    hour: Hour,
    key: HourKey,
    bytes: Vec<u8>,
    /// It was sent to its end.
    whole: bool,
}

impl Source {
    fn new(hour: Hour, whole: bool) -> Self {
        let key = HourKey::parse(&format!("{}_{}", hour.name, hour.hour)).unwrap();
        Self { key, bytes: hour.bytes(), hour, whole }
    }
    fn path(&self, dir: &str) -> PathBuf {
        Path::new(SAVE).join(dir).join(self.key.to_string())
    }
    fn closed(&self) -> PathBuf {
        Path::new("/state/closed").join(self.key.to_string())
    }
    fn tag(&self) -> PathBuf {
        let lines = newlines(&self.bytes);
        Path::new(SAVE).join("received").join(format!("{}_{lines}", self.key))
    }
    /// Every file in `received` that names the hour.
    fn tags<'a>(&self, files: &'a Files) -> Vec<(&'a PathBuf, &'a Vec<u8>)> {
        let prefix = format!("{SAVE}/received/{}_", self.key);
        files.iter().filter(|(p, _)| p.to_str().unwrap().starts_with(&prefix)).collect()
    }
    fn certificate(&self, bytes: &[u8]) -> Option<Certificate> {
        let cert: Certificate = record::from_json(bytes).ok()?;
        (cert.name == self.key.name && cert.hour == self.key.hour).then_some(cert)
    }
    /// Are these files as they were?
    fn same(&self, a: &Files, b: &Files, with_tags: bool) -> bool {
        let same = |p: PathBuf| a.get(&p) == b.get(&p);
        same(self.path("log_data"))
            && same(self.path("headers"))
            && (!with_tags || self.tags(a) == self.tags(b))
    }
    /// Is what is stored the source? `None` = there is no file.
    fn is_true(&self, files: &Files) -> Option<bool> {
        match files.get(&self.path("log_data")) {
            Some(b) => Some(*b == self.bytes),
            None => self.bytes.is_empty().then_some(true),
        }
    }
}

fn frames(hour: &Hour) -> Vec<Vec<u8>> {
    let hop = [("ip", "relay1"), ("stage", "tcp recv"), ("v", "1")];
    hour.packs().into_iter().map(|p| p.hop(&hop).frame()).collect()
}

/// The store, and what its hosts have.
fn store() -> (Files, Vec<Source>) {
    let hour = |name: &str, hour: &str| Hour::new(name, hour, 6, 40);
    let copied = hour("web3", "2026112205");
    let empty =
        Hour { name: "web4".into(), hour: "2026112205".into(), generation: 0, raws: vec![Vec::new()] };
    let sources = vec![
        // Equal in their lengths and line counts, so that only the content tells them apart.
        Source::new(hour("web1", "2026112205"), true),
        Source::new(hour("web2", "2026112205"), true),
        Source::new(hour("web1", "2026112206"), true),
        Source::new(copied.copy(7), true),
        Source::new(empty, true),
        Source::new(hour("web5", "2026112205"), false),
    ];
    let (disk, sim) = machine(&Files::new());
    let mut keeper = Keeper::open(disk, sim);
    for frame in &frames(&copied)[..3] {
        assert!(keeper.send(frame));
    }
    keeper.settle();
    for s in &sources {
        for (i, frame) in frames(&s.hour).iter().enumerate() {
            // The open hour has a gap.
            if s.whole || i != 4 {
                assert!(keeper.send(frame));
            }
        }
    }
    (keeper.stop(), sources)
}

fn pick<'a, T>(rng: &mut Rng, all: &'a [T]) -> &'a T {
    &all[usize::try_from(rng.below(all.len() as u64)).unwrap()]
}

fn below(rng: &mut Rng, n: usize) -> usize {
    usize::try_from(rng.below(n as u64)).unwrap()
}

/// Changes one field to what an accident could make of it.
fn change_field(
    rng: &mut Rng,
    map: &mut serde_json::Map<String, Value>,
    other: &serde_json::Map<String, Value>,
) {
    let names: Vec<String> = map.keys().chain(other.keys()).cloned().collect();
    let name = pick(rng, &names).clone();
    let old = map.get(&name).cloned().unwrap_or(Value::Null);
    let new = match (rng.below(4), &old) {
        (0, _) => other.get(&name).cloned(),
        (1, _) => None,
        (_, Value::String(s)) => {
            if let Ok(n) = s.parse::<u64>() {
                Some(Value::String((n ^ (1 << rng.below(8))).to_string()))
            } else {
                let mut text = s.clone().into_bytes();
                let at = below(rng, text.len().max(1));
                if let Some(b) = text.get_mut(at) {
                    *b = *pick(rng, b"0123456789abcdef");
                }
                String::from_utf8(text).ok().map(Value::String)
            }
        }
        (_, Value::Number(n)) => Some((n.as_u64().unwrap_or(0) ^ (1 << rng.below(8))).into()),
        (_, Value::Bool(b)) => Some((!b).into()),
        (_, v) => Some(v.clone()),
    };
    match new {
        Some(v) => drop(map.insert(name, v)),
        None => drop(map.remove(&name)),
    }
}

fn forged_line(rng: &mut Rng, line: &str, other: &str) -> String {
    let parse = |t: &str| serde_json::from_str::<serde_json::Map<String, Value>>(t).ok();
    let (Some(mut map), Some(from)) = (parse(line), parse(other)) else { return line.into() };
    map.remove("crc");
    // One that was forged before may have lost its route.
    let entry = |m: &serde_json::Map<String, Value>| m.get("Route")?.get(0)?.as_object().cloned();
    match (rng.chance(70), entry(&map)) {
        (true, Some(mut own)) => {
            change_field(rng, &mut own, &entry(&from).unwrap_or_default());
            map["Route"][0] = own.into();
        }
        _ => change_field(rng, &mut map, &from),
    }
    let mut text = Value::Object(map).to_string();
    text.pop();
    let crc = crc32fast::hash(text.as_bytes());
    format!("{text},\"crc\":\"{crc:08x}\"}}\n")
}

fn swap(files: &mut Files, a: &Path, b: &Path) {
    let (x, y) = (files.remove(a), files.remove(b));
    files.extend(x.map(|x| (b.to_owned(), x)));
    files.extend(y.map(|y| (a.to_owned(), y)));
}

/// One change; what it was, for a failing run.
#[allow(clippy::many_single_char_names, reason = "two hours and two of their packs")]
fn mutate(rng: &mut Rng, f: &mut Files, all: &[Source]) -> String {
    let (s, o) = (pick(rng, all), pick(rng, all));
    let (data, proof, tag, closed) = (s.path("log_data"), s.path("headers"), s.tag(), s.closed());
    let paths: Vec<PathBuf> = f.keys().cloned().collect();
    let any = match rng.below(5) {
        0 => pick(rng, &paths).clone(),
        1 => proof.clone(),
        2 => pick(rng, &[tag.clone(), closed.clone()]).clone(),
        _ => data.clone(),
    };
    let raws = &s.hour.raws;
    let (i, j) = (below(rng, raws.len()), below(rng, raws.len()));
    let start = |i: usize| raws[..i].iter().map(Vec::len).sum::<usize>();
    let lines: Vec<String> = f
        .get(&proof)
        .map(|p| String::from_utf8_lossy(p).split_inclusive('\n').map(str::to_owned).collect())
        .unwrap_or_default();
    let what = rng.below(19);
    let mut packs = raws.clone();
    match what {
        0..4 => {
            let Some(text) = f.get_mut(&any) else { return String::new() };
            let at = below(rng, text.len() + 1);
            match what {
                0 | 1 if at < text.len() => text[at] ^= 1 << rng.below(8),
                2 => text.truncate(at),
                3 => {
                    let end = (at + below(rng, 4096)).min(text.len());
                    text[at..end].fill(0);
                }
                _ => text.extend_from_slice(b"one line more\n"),
            }
            return format!("{what}: byte {at} of {}", any.display());
        }
        // The content of packs in the data file.
        4 => drop(packs.remove(i)),
        5 => packs.insert(j, raws[i].clone()),
        6 => packs.swap(i, j),
        7 => swap(f, &data, &o.path("log_data")),
        8 => swap(f, &proof, &o.path("headers")),
        9 => {
            swap(f, &data, &o.path("log_data"));
            swap(f, &proof, &o.path("headers"));
        }
        10 | 11 if !lines.is_empty() => {
            let mut all = lines.clone();
            let (a, b) = (below(rng, all.len()), below(rng, all.len()));
            if what == 10 || rng.chance(30) {
                let from = f.get(&o.path("headers")).map(|p| String::from_utf8_lossy(p).into_owned());
                let from = from.as_deref().and_then(|t| t.lines().nth(b)).unwrap_or(&lines[b]).to_owned();
                let forged = forged_line(rng, &lines[a], &from);
                // With a `done` and a good check it is the proof of an hour that ended there: only a forger makes that.
                if s.whole || !forged.contains("\"done\":\"1\"") {
                    all[a] = forged;
                }
            } else {
                match rng.below(3) {
                    0 => drop(all.remove(a)),
                    1 => all.swap(a, b),
                    _ => all.insert(a, lines[b].clone()),
                }
            }
            f.insert(proof.clone(), all.concat().into_bytes());
        }
        12 => {
            f.remove(&any);
            return format!("{what}: {} removed", any.display());
        }
        13 => swap(f, &tag, &o.tag()),
        14 => swap(f, &closed, &o.closed()),
        15 | 16 => {
            let path = if what == 15 { &tag } else { &closed };
            let parse = |p: &PathBuf| serde_json::from_slice(f.get(p)?).ok();
            let (Some(mut map), other) = (parse(path), parse(&o.tag())) else { return String::new() };
            let map: &mut serde_json::Map<String, Value> = &mut map;
            let other: serde_json::Map<String, Value> = other.unwrap_or_else(|| map.clone());
            map.remove("check");
            change_field(rng, map, &other);
            map.remove("check");
            let forged = record::to_json(&*map);
            f.insert(path.clone(), forged);
        }
        17 => {
            // A pack is gone from both files, as if it had never been.
            packs.remove(i);
            if i < lines.len() {
                let kept = lines.iter().enumerate().filter(|(n, _)| *n != i).map(|(_, l)| l.as_str());
                f.insert(proof.clone(), kept.collect::<String>().into_bytes());
            }
        }
        _ => {
            // The tag of another number of lines.
            if let Some(text) = f.remove(&tag) {
                f.insert(tag.with_file_name(format!("{}_{}", s.key, rng.below(999))), text);
            }
        }
    }
    if packs != *raws && f.contains_key(&data) {
        f.insert(data.clone(), packs.concat());
    }
    format!("{what}: {} ({}), pack {i} at {}, {j}", s.key, o.key, start(i))
}

/// What `verify` must say of a store in this state.
fn verify(base: &Files, now: &Files, all: &[Source]) -> u32 {
    let (disk, _) = machine(now);
    let found = verdicts(&disk);
    let mut wrong = 0;
    for s in all {
        let v = found.get(&s.key);
        let tags = s.tags(now);
        let proof = now.contains_key(&s.path("headers"));
        let told = proof || tags.iter().any(|(_, t)| s.certificate(t).is_some());
        match s.is_true(now) {
            Some(true) => {}
            truth => {
                assert_ne!(v, Some(&Verdict::Right), "{}: not what its sender sealed ({truth:?})", s.key);
                if truth == Some(false) && !tags.is_empty() && told {
                    assert!(
                        matches!(v, Some(Verdict::Wrong(_))),
                        "{}: a tag, changed data, and {v:?}",
                        s.key
                    );
                    wrong += 1;
                }
            }
        }
        if !s.whole {
            assert_ne!(v, Some(&Verdict::Right), "{}: it never came to its end", s.key);
        }
        if s.same(base, now, true) {
            let want = if s.whole { Verdict::Right } else { Verdict::Open };
            // What the open hour has is a beginning.
            assert_eq!(v, Some(&want), "{}: nothing has happened to it", s.key);
        }
    }
    wrong
}

/// What a start and its work may have made of it. True = something was certified again.
fn judge(base: &Files, before: &Files, after: &Files, all: &[Source]) -> u32 {
    let mut certified = 0;
    for s in all {
        let data = s.path("log_data");
        if s.whole {
            assert_eq!(after.get(&data), before.get(&data), "{}: stored bytes are not what they were", s.key);
        }
        for (path, text) in s.tags(after) {
            if before.get(path) == Some(text) {
                continue;
            }
            let cert = s.certificate(text).unwrap_or_else(|| panic!("{}: no certificate", path.display()));
            assert!(s.whole && s.is_true(after) == Some(true), "{}: a false certificate: {cert:?}", s.key);
            assert!(cert.verified && cert.is_tag(), "{cert:?}");
            assert_eq!(cert.sha256, hex(&sha256(&s.bytes)));
            assert_eq!((cert.digest, path), (hex(&s.hour.digest()), &s.tag()));
            certified += 1;
        }
        let doubtful = s.path("doubtful");
        if let Some(text) = after.get(&doubtful).filter(|t| before.get(&doubtful) != Some(t)) {
            let state = s.certificate(text).unwrap().state;
            assert!(s.tags(after).is_empty(), "{}: known to be {state}, and its tag stands", s.key);
        }
        let open = before.get(&s.closed()).is_none_or(|c| s.certificate(c).is_none());
        if s.whole && s.same(base, before, false) && (open || s.same(base, before, true)) {
            let tag = after.get(&s.tag()).and_then(|t| s.certificate(t));
            let good = tag.is_some_and(|c| c.verified && c.sha256 == hex(&sha256(&s.bytes)));
            assert!(good, "{}: it is true and has no certificate", s.key);
        }
    }
    certified
}

/// The hour comes again, whole, as a new copy. False = it is kept beside, and that is said.
fn mend(after: &Files, s: &Source) -> bool {
    let (disk, sim) = machine(after);
    let mut keeper = Keeper::open(disk, sim);
    let copy = s.hour.copy(1_795_400_000);
    for frame in frames(&copy) {
        assert!(keeper.send(&frame), "{}: {:?}", s.key, keeper.messages);
    }
    let certified = after.get(&s.closed()).and_then(|c| s.certificate(c)).filter(|c| c.verified);
    if !after.contains_key(&s.path("log_data")) && certified.is_some_and(|c| c.bytes > s.bytes.len() as u64) {
        // A batch job may have taken what was certified, and by a forged number that was more.
        keeper.settle();
        assert!(
            keeper.messages.iter().any(|m| m.contains("that are certified, and is not installed")),
            "{:?}",
            keeper.messages
        );
        return false;
    }
    let mended = keeper.stop();
    let cert = mended.get(&s.tag()).and_then(|t| s.certificate(t));
    assert!(
        cert.is_some_and(|c| c.verified && c.generation == copy.generation && s.tags(&mended).len() == 1)
            && s.is_true(&mended) == Some(true),
        "{}: a new copy does not mend it",
        s.key
    );
    assert_eq!(verdicts(&machine(&mended).0).get(&s.key), Some(&Verdict::Right), "{}", s.key);
    true
}

#[test]
fn no_change_of_a_stored_hour_is_certified() {
    let (base, all) = store();
    assert_eq!(verify(&base, &base, &all), 0);
    assert!(all.iter().all(|s| s.tags(&base).len() == usize::from(s.whole)), "{:?}", base.keys());
    let wanted = if soak() { 10_000 } else { 1_000 };
    let seed = seed();
    let (mut run, mut no_ops, mut changed, mut wrong, mut certified, mut mended) = (0, 0, 0, 0, 0, 0);
    let mut n = 0;
    while run < wanted {
        n += 1;
        let mut rng = Rng::new(seed.wrapping_add(n));
        let mut now = base.clone();
        let mut story: Vec<String> = (0..=rng.below(4)).map(|_| mutate(&mut rng, &mut now, &all)).collect();
        // What was certified is read again only if nobody remembers that it was: half of them are forgotten.
        for s in &all {
            if rng.chance(if s.same(&base, &now, true) { 10 } else { 50 }) {
                now.remove(&s.closed());
                if rng.chance(50) {
                    s.tags(&now.clone()).into_iter().for_each(|(t, _)| drop(now.remove(t)));
                }
                story.push(format!("{} forgotten", s.key));
            }
        }
        if now == base {
            no_ops += 1;
            continue;
        }
        let check = || {
            let wrong = verify(&base, &now, &all);
            let (disk, sim) = machine(&now);
            assert_eq!(files(&disk, &sim), now);
            let after = Keeper::open(disk, sim).stop();
            let certified = judge(&base, &now, &after, &all);
            verify(&base, &after, &all);
            let bad = all.iter().find(|s| s.whole && s.is_true(&after) != Some(true));
            (wrong, certified, bad.is_some_and(|s| mend(&after, s)))
        };
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(check)) {
            Ok((w, c, bad)) => {
                (wrong, certified, mended) = (wrong + w, certified + c, mended + u32::from(bad));
                changed += all.iter().filter(|s| s.is_true(&now) == Some(false)).count();
            }
            Err(e) => {
                println!(
                    "mutation {n} of seed {seed}: LOGD_SEED={} makes it the first",
                    seed.wrapping_add(n - 1)
                );
                for change in &story {
                    println!("    {change}");
                }
                std::panic::resume_unwind(e);
            }
        }
        run += 1;
    }
    println!(
        "{run} stores, {no_ops} no-ops beside them; {changed} changed files, {wrong} of them under a tag and named; \
         {certified} true files certified again, {mended} mended by a copy"
    );
    assert!(wrong > 100 && certified > 100 && mended > 100, "the changes prove little");
    proved(
        "certificates after changes of the store",
        format!("{run} stores changed while down, {changed} files"),
        "0 false certificates, 0 true files without one",
    );
}

#[test]
fn one_changed_byte_of_a_proof_costs_no_certificate() {
    let (base, all) = store();
    let mut rng = Rng::new(seed());
    let flips = if soak() { 2_000 } else { 200 };
    for n in 0..flips {
        let s = &all[n % 4];
        let mut now = base.clone();
        now.remove(&s.closed());
        now.remove(&s.tag());
        let proof = now.get_mut(&s.path("headers")).unwrap();
        let at = below(&mut rng, proof.len());
        let old = proof[at];
        proof[at] ^= u8::try_from(1 + rng.below(255)).unwrap();
        let what = format!("{}: byte {at} of its proof: {old} -> {}", s.key, proof[at]);
        let (disk, sim) = machine(&now);
        let after = Keeper::open(disk, sim).stop();
        let cert = after.get(&s.tag()).and_then(|t| s.certificate(t));
        assert!(cert.is_some_and(|c| c.verified), "{what}");
        assert_eq!(after.get(&s.path("log_data")), base.get(&s.path("log_data")), "{what}");
    }
    proved("one changed byte of a proof", format!("{flips} bytes"), "each hour certified again, 0 lost");
}

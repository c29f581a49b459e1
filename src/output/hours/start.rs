//! Start: files, proofs and the spool are brought together again (P5).
//!
//! - An installation that was cut short is finished, from its intent file.
//! - A damaged line of a proof is repaired if that can be done for certain.
//! - Data beyond the proof is cut only if the spool or the early shelf holds it; it is then applied again.
//! - Anything else makes the hour `damaged`: nothing is appended and nothing cut until a new copy mends it.
//! - An hour that cannot be looked at, or mended for lack of room, waits (`stuck`); the others start.

use super::{Copy, Early, HourState, Hours, HoursConfig, Role, STATES_MAX};
use crate::disk;
use crate::integrity::lines::{Line, Reader as ProofReader};
use crate::integrity::{Certificate, Health, Place, Scan, Store, packed, repair, scan};
use crate::pack::{HourKey, hex, split_frame};
use crate::planted::{self, Bug};
use crate::record;
use crate::spool::{Reader, Shelf};
use std::collections::{BTreeMap, BTreeSet};

/// Raw lengths of the packs that the spool held at start, by copy and number, for each hour.
pub type Spooled = BTreeMap<u64, BTreeMap<u64, u64>>;

/// A tag is never as large.
const TAG_MAX: u64 = 1 << 20;

/// Most damaged lines that are repaired in one proof.
const REPAIRS_MAX: usize = 64;

impl Hours {
    /// Opens the store. Hours without a `closed` file are looked at; the others when a pack for them comes.
    pub fn open(
        store: &Store,
        conf: HoursConfig,
        (early, missing): (Shelf, Shelf),
        reader: Reader,
        spooled: &BTreeMap<HourKey, Spooled>,
        now_ms: u64,
    ) -> disk::Result<Self> {
        store.create_dirs()?;
        let mut hours = Self {
            store: store.clone(),
            conf,
            reader,
            early,
            states: BTreeMap::new(),
            stuck: BTreeMap::new(),
            dirty: BTreeSet::new(),
            verify_again: false,
            verify: Vec::new(),
            raw: Vec::new(),
            kept: BTreeMap::new(),
            kept_bytes: 0,
            frame: Vec::new(),
            shelved: Vec::new(),
            missing,
            unwritten: Vec::new(),
            lost: Vec::new(),
            done_now: Vec::new(),
            open_copies: 0,
            packs: 0,
            alarms: Vec::new(),
        };
        let mut keys: BTreeSet<HourKey> = spooled.keys().cloned().collect();
        for key in store.hours()? {
            // What cannot be read is looked at, and told, with the rest of its hour.
            if !matches!(store.closed(&key), Ok(Some(_))) {
                keys.insert(key);
            }
        }
        // Copies under construction, unfinished installations and packs that wait on the shelf belong to hours, too.
        for e in store.disk().list(&store.path("aside"))? {
            let (name, end) = e.name.rsplit_once('.').unwrap_or((&e.name, ""));
            keys.extend(HourKey::parse(name).filter(|_| e.is_dir || end == "install"));
        }
        for name in hours.early.names() {
            for file in hours.early.list(name)? {
                let hour = file.split('.').next().unwrap_or_default();
                keys.extend(HourKey::parse(&format!("{name}_{hour}")));
            }
        }
        for key in keys {
            let spooled = spooled.get(&key).cloned().unwrap_or_default();
            match hours.load(&key, &spooled, now_ms) {
                Err(e) if !e.fatal() => hours.stick_at_start(&key, &e, spooled, now_ms),
                other => other?,
            }
            if hours.states.len() > 2 * STATES_MAX {
                hours.forget_idle(now_ms);
            }
        }
        Ok(hours)
    }

    /// Reads what is on disk of an hour into memory, mends it, and applies what waits on the shelf.
    pub(super) fn load(&mut self, key: &HourKey, spooled: &Spooled, now_ms: u64) -> disk::Result<()> {
        let state = self.look(key, spooled, now_ms)?;
        self.states.insert(key.clone(), state);
        self.drain_all(key)
    }

    pub(super) fn drain_all(&mut self, key: &HourKey) -> disk::Result<()> {
        let state = self.states.get(key);
        let generations: Vec<u64> = state.map(|s| s.copies.keys().copied().collect()).unwrap_or_default();
        for generation in generations {
            self.drain(key, generation)?;
            self.note_complete(key, generation);
        }
        Ok(())
    }

    /// What is on disk of an hour, mended.
    pub(super) fn look(&mut self, key: &HourKey, spooled: &Spooled, now_ms: u64) -> disk::Result<HourState> {
        self.resume_install(key)?;
        let mut closed = self.store.closed(key)?;
        let place = self.store.place(key);
        let gone = self.disk().stat(&place.data)?.is_none();
        if closed.is_none() && gone {
            // The state directory was lost, or left out of a backup. Whoever takes the certificate of such an hour back keeps
            // `closed`, so the tag stands for what was compressed, or for what a batch job took away.
            closed = if self.disk().stat(&packed::path(&self.store, key))?.is_some() {
                let tag = self.store.tag(key)?.and_then(|(_, content)| content);
                tag.filter(|c| c.is_tag() && c.name == key.name && c.hour == key.hour)
            } else {
                self.taken_away(key, &place)?
            };
            if let Some(certificate) = &closed {
                self.store.close(certificate)?;
            }
        }
        let mut state = HourState { closed, used_ms: now_ms, ..HourState::default() };
        let shelf = self.early.packs_of(key)?;
        match &state.closed {
            Some(c) if gone && c.bytes > 0 => {
                let late = self.store.late(key, c.packs.saturating_add(1));
                if self.disk().stat(&late.headers)?.is_some() {
                    let generation = c.generation;
                    let found = self.mended(key, &late, Some(generation), spooled, &shelf)?;
                    state.copies.insert(generation, Copy::new(late, Role::Late, found));
                }
            }
            _ => {
                let found = self.mended(key, &place, None, spooled, &shelf)?;
                let begun = found.headers_len > 0 || found.data_len > 0;
                if begun || state.closed.is_some() {
                    let foreign = matches!(found.health, Health::Foreign { .. });
                    // A damaged proof may not tell its copy: the lowest that anybody has sent is it.
                    let told = (found.summary.high > 0).then_some(found.summary.generation);
                    let lowest =
                        spooled.keys().next().copied().into_iter().chain(shelf.iter().map(|s| s.0)).min();
                    let generation = if foreign { 0 } else { told.or(lowest).unwrap_or(0) };
                    state.in_place = Some(generation);
                    state.copies.insert(generation, Copy::new(place, Role::InPlace, found));
                }
            }
        }
        for generation in self.store.building_list(key)? {
            let place = self.store.building(key, generation);
            let found = self.mended(key, &place, Some(generation), spooled, &shelf)?;
            state.copies.entry(generation).or_insert_with(|| Copy::new(place, Role::Building, found));
        }
        for (generation, id, file) in shelf {
            let stored = |c: &Copy| matches!(c.health, Health::Good) && id <= c.summary.high;
            if state.copies.get(&generation).is_some_and(|c| stored(c)) {
                self.shelved.push((key.clone(), generation, id));
                continue;
            }
            if self.early.get(&key.name, &file)?.is_none() {
                let kept = self.unshelve_damaged(key, generation, id, &file)?;
                if !spooled.get(&generation).is_some_and(|packs| packs.contains_key(&id)) {
                    self.alarms.push(format!(
                        "{key} pack {id}: it waited for the packs before it and is damaged{kept}; send it or its hour \
                         again from the source"
                    ));
                }
                continue;
            }
            if !state.copies.contains_key(&generation) {
                let (place, role) = if state.in_place.is_none() && state.closed.is_none() {
                    state.in_place = Some(generation);
                    (self.store.place(key), Role::InPlace)
                } else {
                    (self.store.building(key, generation), Role::Building)
                };
                let found = Scan::empty(1);
                state.copies.insert(generation, Copy::new(place, role, found));
            }
            let Some(copy) = state.copies.get_mut(&generation) else { continue };
            if matches!(copy.health, Health::Good) {
                copy.early_since_ms = now_ms;
                copy.early.insert(id, Early::Shelf(file));
            }
        }
        Ok(state)
    }

    /// The tag of an hour whose data file a batch job took away, and whose `closed` was lost with the state directory: it says
    /// what the proof says, to the last pack. The proof tells its name, too: `received/` is not listed for each of them.
    fn taken_away(&self, key: &HourKey, place: &Place) -> disk::Result<Option<Certificate>> {
        if self.disk().stat(&place.headers)?.is_none() {
            return Ok(None);
        }
        let found = scan(self.disk(), place)?;
        let sum = &found.summary;
        if sum.bytes == 0 || found.good_len < found.headers_len {
            return Ok(None);
        }
        let at = self.store.path("received").join(format!("{key}_{}", sum.lines));
        let content = self.disk().read_opt(&at, TAG_MAX)?;
        let tag = content.and_then(|bytes| record::from_json::<Certificate>(&bytes).ok());
        Ok(tag.filter(|c| {
            c.format == 1
                && c.is_tag()
                && (&c.name, c.hour) == (&key.name, key.hour)
                && (c.generation, c.packs, c.lines, c.bytes)
                    == (sum.generation, sum.high, sum.lines, sum.bytes)
                && c.digest == hex(&sum.digest())
        }))
    }

    /// A damaged file must not take its sender's share of the shelf for ever, nor be told of at each start. Where it is
    /// now, for a message.
    pub(super) fn unshelve_damaged(
        &mut self,
        key: &HourKey,
        generation: u64,
        id: u64,
        file: &str,
    ) -> disk::Result<String> {
        let to = self.store.path("aside").join(format!("{key}.{generation}.{id}.damaged"));
        match self.early.move_out(&key.name, file, &to) {
            Err(e) if e.not_found() => Ok(String::new()),
            moved => moved.map(|()| format!(", kept as {}", to.display())),
        }
    }

    /// Scans a copy, repairs its proof and cuts what will be applied again. `generation` is the number in its place's name; what
    /// stands for the hour has none there.
    fn mended(
        &mut self,
        key: &HourKey,
        place: &Place,
        generation: Option<u64>,
        spooled: &Spooled,
        shelf: &[(u64, u64, String)],
    ) -> disk::Result<Scan> {
        let (disk, aside) = (self.disk().clone(), self.store.path("aside"));
        let mut found = scan(&disk, place)?;
        if found.headers_len > 0 {
            settle(&disk, place)?;
        }
        for _ in 0..REPAIRS_MAX {
            let bad_line = matches!(found.health, Health::Damaged(_)) && found.good_len < found.headers_len;
            if !bad_line {
                break;
            }
            let Some(what) = repair(&disk, key, place, &found, &aside)? else { break };
            self.alarms.push(what);
            found = scan(&disk, place)?;
        }
        if matches!(found.health, Health::Foreign { .. }) {
            return Ok(found);
        }
        let beyond = found.data_len.saturating_sub(found.summary.bytes);
        let torn_tail = found.good_len < found.headers_len && !line_follows(&disk, place, found.good_len)?;
        let whole = matches!(found.health, Health::Good);
        if found.data_len < found.summary.bytes || !(whole || torn_tail) {
            self.report_damage(key, &found);
            return Ok(found);
        }
        if beyond == 0 && !torn_tail {
            return Ok(found);
        }
        let candidates: Vec<u64> = if found.summary.high >= place.first_id {
            vec![found.summary.generation]
        } else if let Some(generation) = generation {
            vec![generation]
        } else {
            spooled.keys().copied().chain(shelf.iter().map(|s| s.0)).collect()
        };
        let (mut covered, first) = (None, found.summary.high.saturating_add(1));
        for g in candidates {
            covered = covered.max(self.covered(key, g, first, spooled, shelf)?);
        }
        // A line may be lost whose pack has no bytes: the last of an hour.
        if covered.is_none_or(|bytes| bytes < beyond) && !planted::is(Bug::BytesBeyondProofCut) {
            found.health = Health::Damaged(format!(
                "{}: no good line after pack {}; {beyond} bytes of data follow, and the spool does not hold what \
                 comes next",
                place.headers.display(),
                found.summary.high
            ));
            self.report_damage(key, &found);
            return Ok(found);
        }
        // A tag stands for these bytes. That their proof is damaged, and packs of them came once more, takes none of them.
        let certified = match self.store.closed(key)? {
            // That file may be lost, and is made again from the hour; the tag is what a batch job has seen.
            None => self.store.tag(key)?.and_then(|(_, content)| content),
            known => known,
        };
        // A copy that is being built has its number in its place; what stands for the hour may have lost it with its proof.
        let mine = |c: &Certificate| match generation {
            None => c.generation == found.summary.generation || found.good_len == 0,
            Some(built) => c.generation == built,
        };
        let certified = certified.filter(mine);
        let within = |c: Certificate| found.summary.bytes < c.bytes && place.first_id == 1;
        if certified.is_some_and(within) && !planted::is(Bug::BytesBeyondProofCut) {
            found.health = Health::Damaged(format!(
                "{}: no good line after pack {}, within what was certified",
                place.headers.display(),
                found.summary.high
            ));
            self.report_damage(key, &found);
            return Ok(found);
        }
        if beyond > 0 && !planted::is(Bug::BytesBeyondProofKept) {
            let data = disk.open_rw(&place.data)?;
            data.set_len(found.summary.bytes)?;
            data.sync()?;
        }
        if torn_tail && planted::is(Bug::TornProofNotCut) {
            found.health = Health::Good;
            return Ok(found);
        }
        if torn_tail {
            let proof = disk.open_rw(&place.headers)?;
            let len = found.headers_len.saturating_sub(found.good_len);
            let mut torn = vec![0; usize::try_from(len).unwrap_or(0).min(1 << 20)];
            proof.read_at(&mut torn, found.good_len)?;
            disk.replace(&aside.join(format!("{key}.torn-{}", found.good_len)), &torn, 0o640)?;
            proof.set_len(found.good_len)?;
            proof.sync()?;
        }
        if !planted::is(Bug::BytesBeyondProofKept) {
            found.data_len = found.summary.bytes;
        }
        found.headers_len = found.good_len;
        found.health = Health::Good;
        Ok(found)
    }

    fn report_damage(&mut self, key: &HourKey, found: &Scan) {
        if let Health::Damaged(why) = &found.health {
            self.alarms.push(format!(
                "{key}: damaged: {why}; what is stored is left as it is and its further packs are kept aside; \
                 send the hour again from its source, as a new copy"
            ));
        }
    }

    /// Raw bytes of the packs from `first` on, without a gap, that the spool or the shelf still holds; `None` = not
    /// even the first.
    fn covered(
        &self,
        key: &HourKey,
        generation: u64,
        first: u64,
        spooled: &Spooled,
        shelf: &[(u64, u64, String)],
    ) -> disk::Result<Option<u64>> {
        let (mut sum, mut id) = (0u64, first);
        loop {
            if let Some(bytes) = spooled.get(&generation).and_then(|p| p.get(&id)) {
                sum = sum.saturating_add(*bytes);
            } else if let Some((.., file)) = shelf.iter().find(|s| (s.0, s.1) == (generation, id)) {
                let frame = self.early.get(&key.name, file)?.unwrap_or_default();
                let meta = split_frame(&frame).and_then(|(h, _)| h.meta("unknown").ok());
                sum = sum.saturating_add(meta.and_then(|m| m.seal).map_or(0, |s| s.bytes));
            } else {
                return Ok((id > first).then_some(sum));
            }
            id = id.saturating_add(1);
        }
    }
}

/// What a killed process wrote and did not sync can be read, and be lost later. It is trusted only when it is durable.
fn settle(disk: &disk::Disk, place: &Place) -> disk::Result<()> {
    if planted::is(Bug::UnsyncedBelieved) {
        return Ok(());
    }
    for path in [&place.data, &place.headers] {
        if disk.stat(path)?.is_some() {
            disk.open_rw(path)?.sync()?;
        }
        if let Some(dir) = path.parent() {
            disk.sync_dir(dir)?;
        }
    }
    Ok(())
}

/// Does a good line of ours begin after byte `at`? Then what is bad there is no torn end.
fn line_follows(disk: &disk::Disk, place: &Place, at: u64) -> disk::Result<bool> {
    let mut reader = ProofReader::open(disk, &place.headers)?;
    while let Some((from, line)) = reader.next()? {
        if from > at && matches!(line, Line::Ours(_)) {
            return Ok(true);
        }
    }
    Ok(false)
}

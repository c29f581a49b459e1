//! The judgement on one stored hour: its state in a word, what of it is missing, and what to do.
//!
//! An hour with a certificate is believed: the certificate was written after the bytes had been read again (`logd
//! verify` does that once more). Only an hour without one has its proof scanned. Nothing is written, and a collector
//! may be storing meanwhile: what looks damaged is looked at again before it is called so.

use super::{Files, Inventory, LATER, Proof};
use crate::disk;
use crate::integrity::{self, Certificate, Health, Scan};
use crate::log::{duration, ranges};
use crate::pack::{HourKey, hex};
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// How often a proof that seems damaged, and changes, is read again.
const LOOKS: usize = 5;

/// The state of an hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Has a tag; identical to the source.
    Verified,
    /// Has a tag; the original sender told no digests.
    Unverified,
    /// Has a tag; the source had no bytes.
    Empty,
    /// The original stored it, or some of it.
    Original,
    /// Packs are still expected.
    Open,
    /// Whole; its certificate is about to be written.
    Complete,
    /// Bytes came after a batch job had taken the data file away.
    Late,
    /// The follower began late.
    Partial,
    /// The source was rewritten.
    Changed,
    /// The source lost bytes before they were read.
    Loss,
    /// Its sender told no totals.
    NoTotals,
    /// Doubtful for another reason.
    Doubtful,
    /// Not what the last pack's totals say.
    Mismatch,
    /// Packs are missing before others.
    Gaps,
    /// Two different packs had the same number.
    Conflict,
    /// The stored files are damaged.
    Damaged,
    /// An expected host of which nothing came, of an hour that is over.
    Silent,
}

impl State {
    /// Every state, the good ones first.
    pub const ALL: [Self; 17] = [
        Self::Verified,
        Self::Unverified,
        Self::Empty,
        Self::Original,
        Self::Open,
        Self::Complete,
        Self::Late,
        Self::Partial,
        Self::Changed,
        Self::Loss,
        Self::NoTotals,
        Self::Doubtful,
        Self::Mismatch,
        Self::Gaps,
        Self::Conflict,
        Self::Damaged,
        Self::Silent,
    ];

    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Verified => "verified",
            Self::Unverified => "unverified",
            Self::Empty => "empty",
            Self::Original => "original",
            Self::Open => "open",
            Self::Complete => "complete",
            Self::Late => "late",
            Self::Partial => "partial",
            Self::Changed => "changed",
            Self::Loss => "loss",
            Self::NoTotals => "no totals",
            Self::Doubtful => "doubtful",
            Self::Mismatch => "mismatch",
            Self::Gaps => "gaps",
            Self::Conflict => "conflict",
            Self::Damaged => "damaged",
            Self::Silent => "silent",
        }
    }

    /// Does the hour have a tag (of ours)?
    pub fn certified(self) -> bool {
        matches!(self, Self::Verified | Self::Unverified | Self::Empty)
    }

    /// Does the hour have a doubtful certificate?
    pub fn doubtful(self) -> bool {
        matches!(self, Self::Partial | Self::Changed | Self::Loss | Self::NoTotals | Self::Doubtful)
    }

    /// Must somebody act?
    pub fn wrong(self) -> bool {
        self >= Self::Late
    }

    /// Would a new copy of the whole hour from its source mend it? Lost bytes are in no source any more.
    pub fn mended_by_copy(self) -> bool {
        self.wrong() && !matches!(self, Self::Late | Self::Loss)
    }

    /// What to do about it; empty where there is nothing to do.
    pub fn next_step(self) -> &'static str {
        match self {
            Self::Verified | Self::Unverified | Self::Empty | Self::Original => "",
            Self::Open => {
                "look at the follower on that host: is it running, and does its `logd status` say `behind`? If nothing is behind \
                 there, `logd resend` there sends the hour again"
            }
            Self::Complete => {
                "its certificate follows within seconds; if not, see whether the collector is running; if it runs, the tag was \
                 taken away: `logd resend` on the host sends the hour again"
            }
            Self::Late => {
                "run the batch job again over aside/NAME_HOUR.late, which holds the bytes that came after it"
            }
            Self::Partial => {
                "something of it may not have been sent (its beginning, or what nobody saw): if the host has a file for \
                 each hour, `logd resend` there sends all of it; else use what is here"
            }
            Self::Changed => {
                "the source was rewritten while it was followed: compare with the host's file; if that is \
                 the better one, `logd resend` on the host sends it"
            }
            Self::Loss => {
                "the named bytes of the source were gone before they were read; look for them in a backup or a \
                 rotated file; what is here is all that was sent"
            }
            Self::NoTotals => "the sender told no totals: compare with the host's file, or update logd there",
            Self::Doubtful => "compare with the host's file before you use it",
            Self::Mismatch | Self::Damaged => {
                "keep all its files; `logd resend` on the host sends the hour again, and a copy takes their place"
            }
            Self::Gaps => {
                "see on that host whether they still wait to be sent (`logd status`); else `logd resend` \
                 there sends them again"
            }
            Self::Conflict => {
                "two packs have one number (a copied state directory, or two hosts of one name?): give each host \
                 its own name, keep all files, and send the hour again by `logd resend` on the host"
            }
            Self::Silent => {
                "see whether the follower on that host is running and reaches this collector; what was sent \
                 and lost on its way `logd resend` on the host sends again"
            }
        }
    }
}

/// One hour, judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Which hour.
    pub key: HourKey,
    /// Its state.
    pub state: State,
    /// Copy.
    pub generation: u64,
    /// Stored packs.
    pub packs: u64,
    /// Lines.
    pub lines: u64,
    /// Raw bytes.
    pub bytes: u64,
    /// Every pack of it came with a good signature; `None` = there is none.
    pub authentic: Option<bool>,
    /// Numbers of missing packs, as ranges; empty when not known one by one.
    pub missing: Vec<(u64, u64)>,
    /// Its source was cut by the clock, and has no date: as a whole it cannot be sent again.
    pub by_clock: bool,
    /// What more is known.
    pub detail: String,
    /// When it was certified (unix seconds).
    pub certified: Option<i64>,
    /// What an operator said of it, because of which it is not wrong.
    pub known: Option<String>,
    /// For how long the hour is over, if it is still open and should not be.
    pub overdue_ms: Option<u64>,
}

impl Row {
    /// A row without numbers.
    pub fn new(key: &HourKey, state: State) -> Self {
        Self {
            key: key.clone(),
            state,
            generation: 0,
            packs: 0,
            lines: 0,
            bytes: 0,
            authentic: None,
            missing: Vec::new(),
            by_clock: false,
            detail: String::new(),
            certified: None,
            known: None,
            overdue_ms: None,
        }
    }

    /// Must somebody act?
    pub fn wrong(&self) -> bool {
        self.known.is_none() && (self.state.wrong() || self.overdue_ms.is_some())
    }

    /// Would `logd resend` mend it?
    pub fn mended_by_resend(&self) -> bool {
        self.known.is_none() && self.state.mended_by_copy() && !self.is_past_mending()
    }

    fn is_past_mending(&self) -> bool {
        self.by_clock && self.state.mended_by_copy() && self.missing.is_empty()
    }

    /// What to do about it.
    pub fn next_step(&self) -> &'static str {
        if self.is_past_mending() {
            "its file has no date, and nobody can send the hour again as a whole: keep what is here, and compare it with the \
             rotated files on the host"
        } else {
            self.state.next_step()
        }
    }

    /// State and detail in one phrase.
    pub fn why(&self) -> String {
        let mut text = self.state.word().to_owned();
        if !self.missing.is_empty() {
            let _ = write!(text, ": missing {}", ranges(&self.missing));
        }
        if !self.detail.is_empty() {
            let _ = write!(text, ": {}", self.detail);
        }
        if let Some(ms) = self.overdue_ms {
            let _ = write!(text, ": the hour has been over for {}", duration(ms));
        }
        if let Some(said) = &self.known {
            let _ = write!(text, "; {said}");
            return text;
        }
        if self.is_past_mending() {
            text += ": its file has no date, `logd resend` cannot send it as a whole";
        }
        text
    }

    fn with(mut self, generation: u64, packs: u64, lines: u64, bytes: u64) -> Self {
        (self.generation, self.packs, self.lines, self.bytes) = (generation, packs, lines, bytes);
        self
    }

    fn signed(mut self, authentic: bool) -> Self {
        self.authentic = (self.packs > 0).then_some(authentic);
        self
    }

    fn is(mut self, state: State, detail: impl Into<String>) -> Self {
        (self.state, self.detail) = (state, detail.into());
        self
    }
}

/// What `footprint.json` says of an hour: copy, high-water number, early ids.
pub type Print = (u64, u64, Vec<u64>);

/// Judges one hour. `print` is what the collector's footprint says of it, if that is at hand.
pub fn judge(inv: &Inventory, key: &HourKey, print: Option<&Print>) -> disk::Result<Row> {
    let none = Files::default();
    let files = inv.hours.get(key).unwrap_or(&none);
    let proof = inv.proof(key)?;
    if let Some(why) = tags_differ(files, &proof) {
        let row = match &proof {
            Proof::Tag(c) => certified(key, c),
            _ => Row::new(key, State::Doubtful),
        };
        return Ok(row.is(State::Doubtful, why));
    }
    let certificate = match proof {
        Proof::Tag(c) | Proof::Doubtful(c) => c,
        Proof::Foreign => return foreign_tag(inv, key, files),
        Proof::Later => return Ok(Row::new(key, State::Doubtful).is(State::Doubtful, LATER)),
        Proof::None => return uncertified(inv, key, files, print),
    };
    let row = certified(key, &certificate);
    Ok(match files.conflict.get(&certificate.generation) {
        Some(ids) => row.is(State::Conflict, conflict(ids)),
        None => row,
    })
}

/// What is wrong with the names of an hour's tags: somebody has copied or renamed one, and `ready` takes none of them.
fn tags_differ(files: &Files, proof: &Proof) -> Option<String> {
    match (files.tags.as_slice(), proof) {
        (_, Proof::None | Proof::Doubtful(_)) => None,
        ([first, second, ..], _) => {
            Some(format!("it has two tags, received/{first} and received/{second}; see `logd verify`"))
        }
        ([tag], Proof::Tag(c)) if *tag != c.tag_name() => {
            Some(format!("received/{tag}: its content belongs to {}; see `logd verify`", c.tag_name()))
        }
        _ => None,
    }
}

/// A tag that is no certificate: the original's, unless we stored the hour.
fn foreign_tag(inv: &Inventory, key: &HourKey, files: &Files) -> disk::Result<Row> {
    let found = scan(inv, key)?;
    let s = &found.summary;
    if s.high == 0 {
        let lines = if let Health::Foreign { lines, .. } = &found.health { *lines } else { 0 };
        let mut row = Row::new(key, State::Original).with(0, 0, lines, found.data_len);
        row.authentic = Some(false);
        return Ok(row.is(State::Original, "has a tag of the original"));
    }
    let tag = files.tags.first().map_or("", String::as_str);
    let row = Row::new(key, State::Doubtful).with(s.generation, s.high, s.lines, s.bytes).signed(s.authentic);
    Ok(row.is(
        State::Doubtful,
        format!("received/{tag} is no certificate, or a damaged one; see `logd verify`"),
    ))
}

fn certified(key: &HourKey, c: &Certificate) -> Row {
    let mut row =
        Row::new(key, State::Verified).with(c.generation, c.packs, c.lines, c.bytes).signed(c.authentic);
    row.certified = Some(c.certified);
    row.by_clock = c.cut == "clock";
    if c.is_tag() {
        return match (c.empty, c.verified) {
            (true, _) => row.is(State::Empty, ""),
            (false, true) => row,
            (false, false) => row.is(State::Unverified, "its sender is the original"),
        };
    }
    let has = |word: &str| c.state.split(',').any(|w| w.trim() == word);
    let known = [State::Loss, State::Changed, State::Partial, State::NoTotals, State::Mismatch];
    let state = known.into_iter().find(|s| has(s.word())).unwrap_or(State::Doubtful);
    let mut detail = if c.state == state.word() { String::new() } else { c.state.clone() };
    if !c.loss.is_empty() {
        let gap = if detail.is_empty() { "" } else { "; " };
        let _ = write!(detail, "{gap}bytes {} of the source", c.loss);
    }
    row.is(state, detail)
}

fn conflict(ids: &BTreeSet<u64>) -> String {
    let list: Vec<(u64, u64)> = ids.iter().map(|id| (*id, *id)).collect();
    format!("packs {} arrived with other bytes too, kept in aside/conflict", ranges(&joined(&list)))
}

/// Scans until the collector holds still: data and proof grow one after the other.
fn scan(inv: &Inventory, key: &HourKey) -> disk::Result<Scan> {
    let place = inv.store.place(key);
    let mut found = integrity::scan(inv.store.disk(), &place)?;
    for _ in 0..LOOKS {
        if !matches!(found.health, Health::Damaged(_)) {
            break;
        }
        let before = (found.data_len, found.headers_len);
        found = integrity::scan(inv.store.disk(), &place)?;
        if before == (found.data_len, found.headers_len) {
            break;
        }
    }
    Ok(found)
}

fn uncertified(inv: &Inventory, key: &HourKey, files: &Files, print: Option<&Print>) -> disk::Result<Row> {
    let found = scan(inv, key)?;
    let s = &found.summary;
    let mut row = Row::new(key, State::Open).with(s.generation, s.high, s.lines, s.bytes).signed(s.authentic);
    row.by_clock = s.done.as_ref().is_some_and(|d| d.clock);
    if files.late {
        // With their number: who has accepted these lines has not accepted those that come later.
        let aside = inv.store.late(key, 1).data;
        let bytes = inv.store.disk().stat(&aside)?.map_or(0, |s| s.len);
        return Ok(row.is(
            State::Late,
            format!(
                "the data file had been taken away when {bytes} bytes came, which are in aside/{key}.late"
            ),
        ));
    }
    match &found.health {
        Health::Damaged(why) => return Ok(row.is(State::Damaged, why.clone())),
        Health::Foreign { ids, done, barred, lines } => {
            let top = ids.iter().max().copied().unwrap_or(0);
            let row = row.with(0, ids.len() as u64, *lines, found.data_len).signed(false);
            let missing = missing(0, &ids.iter().copied().collect());
            return Ok(if *barred {
                row.is(State::Original, "packs came after its last one: the original's proof decides nothing")
            } else if done.is_some_and(|d| d >= top) && missing.is_empty() {
                row.is(State::Original, "whole by the original's count; no tag yet")
            } else {
                let mut row = row.is(State::Original, "begun by the original; packs are still expected");
                row.missing = missing;
                row
            });
        }
        Health::Good => {}
    }
    let (generation, high, early) = beyond(s.generation, s.high, files, print);
    row.generation = generation;
    if let Some(next) = kept_back(s.generation, s.high, files) {
        let text = format!(
            "its proof ends before pack {next}, which came and waits in aside/early with those after it"
        );
        return Ok(row.is(
            State::Damaged,
            text + ": the log of the store says why; its next start tries to put them in their place",
        ));
    }
    if let Some(ids) = files.conflict.get(&generation) {
        return Ok(row.is(State::Conflict, conflict(ids)));
    }
    row.missing = missing(high, &early);
    if !row.missing.is_empty() {
        return Ok(row.is(State::Gaps, ""));
    }
    if files.gaps {
        let text = format!("packs after {high} are missing; later ones were put into aside/{key}.gaps");
        return Ok(row.is(State::Gaps, text));
    }
    let Some(done) = &s.done else {
        let unproven = found.data_len.saturating_sub(s.bytes);
        let text = if unproven > 0 && s.high == 0 { "no pack is proven yet" } else { "" };
        return Ok(row.is(State::Open, text));
    };
    // Where the source lost bytes the sender's totals count them still: a difference with a reason.
    let differs = done.totals.as_ref().filter(|_| !s.notes.contains("loss")).is_some_and(|t| {
        t.lines != s.lines || t.bytes != s.bytes || (s.sealed && hex(&t.sha256) != hex(&s.digest()))
    });
    Ok(if differs {
        let told = done.totals.as_ref().map_or(0, |t| t.bytes);
        row.is(
            State::Mismatch,
            format!("{} bytes are stored, the last pack says {told}, or the digests differ", s.bytes),
        )
    } else if s.reopened_by_original {
        row.is(State::Mismatch, "an original sender sent packs after its last one")
    } else {
        row.is(State::Complete, "")
    })
}

/// The next pack, if it is kept back. A proof may end between two lines and look good, but not to the store, which knows of
/// bytes behind it; it has told what is wrong, and appends nothing.
fn kept_back(generation: u64, high: u64, files: &Files) -> Option<u64> {
    let next = high.saturating_add(1);
    // Without a good line nobody knows which copy it is.
    let mut copies = files.early.iter().filter(|(copy, _)| high == 0 || **copy == generation);
    copies.any(|(_, ids)| ids.contains(&next)).then_some(next)
}

/// Copy, high-water number and early ids, from the proof, the shelf and the footprint. The footprint knows of packs
/// that are accepted and not stored yet, but may be a minute old.
fn beyond(generation: u64, high: u64, files: &Files, print: Option<&Print>) -> (u64, u64, BTreeSet<u64>) {
    let mut at = (generation, high);
    if high == 0 {
        // Nothing is stored: the copy is that of the packs that wait.
        let waiting = files.early.keys().copied().chain(print.map(|p| p.0)).max();
        at.0 = waiting.unwrap_or(generation);
    }
    let mut early: BTreeSet<u64> = files.early.get(&at.0).cloned().unwrap_or_default();
    if let Some((_, top, ids)) = print.filter(|p| p.0 == at.0) {
        at.1 = at.1.max(*top);
        early.extend(ids);
    }
    // One that was acknowledged and is lost is missing, whether or not others are known behind it.
    early.extend(files.lost.get(&at.0).into_iter().flatten().map(|id| id.saturating_add(1)));
    early.retain(|id| *id > at.1);
    (at.0, at.1, early)
}

/// The numbers above `high` that are missing before the greatest of `ids`.
fn missing(high: u64, ids: &BTreeSet<u64>) -> Vec<(u64, u64)> {
    let (mut list, mut next) = (Vec::new(), high.saturating_add(1));
    for id in ids {
        if *id > next {
            list.push((next, id.saturating_sub(1)));
        }
        next = next.max(id.saturating_add(1));
    }
    list
}

/// Joins ranges that touch.
fn joined(list: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut all: Vec<(u64, u64)> = Vec::new();
    for (from, to) in list {
        match all.last_mut() {
            Some(last) if *from <= last.1.saturating_add(1) => last.1 = last.1.max(*to),
            _ => all.push((*from, *to)),
        }
    }
    all
}

#[cfg(test)]
mod tests;

//! What a store's page shows: every host's latest hours, judged from the store on disk.
//!
//! It is the judgement of `logd status`, limited to the hours that the page has, and made only when somebody asks. An
//! hour whose files have not changed is not judged again: of a store of a year a look costs the listings of three
//! directories, of which only the names of those hours are kept in memory, and a few `stat` for each of them. The
//! report to the monitor is made of the same judgements.

use super::serve::Shared;
use crate::clock::{Hour, Zone};
use crate::disk::Stat;
use crate::inventory::hosts::{Host, read_hosts};
use crate::inventory::hour::{self, Print, Row, State};
use crate::inventory::known::Known;
use crate::inventory::{Files, Filter, Inventory, OVERDUE_MS};
use crate::log::{Recent, duration, ranges};
use crate::metrics;
use crate::overview::{ErrorEntry, HostHour, NO_DATA, NODES_MAX, Node, Overview, RANGES_MAX, columns_of};
use crate::pack::HourKey;
use crate::receiver::lock;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// See the module's header.
pub struct Fleet {
    shared: Arc<Shared>,
    save_dir: PathBuf,
    hosts_file: Option<PathBuf>,
    /// Hours that are judged, back from now.
    span_hours: u64,
    host: String,
    began_ms: i64,
    /// The last judgements.
    kept: BTreeMap<HourKey, Kept>,
    /// The store could not be read at the last look.
    failed: bool,
}

/// The hours that a store has.
pub struct Seen {
    pub hours: Vec<HostHour>,
    /// From which one on these are all of them, if that is known.
    pub first: Option<String>,
}

/// A judgement, and what it was made from.
struct Kept {
    files: Files,
    stats: Vec<Option<Stat>>,
    print: Option<Print>,
    row: Row,
}

impl Fleet {
    /// Looks at `save_dir`, and in it at `span_hours` back from now; the names in `hosts_file` are expected. `host` is the
    /// name of this one.
    pub fn new(
        shared: &Arc<Shared>,
        save_dir: PathBuf,
        hosts_file: Option<PathBuf>,
        span_hours: u64,
        host: String,
    ) -> Self {
        let began_ms = shared.clock.now_ms();
        Self {
            shared: Arc::clone(shared),
            save_dir,
            hosts_file,
            span_hours,
            host,
            began_ms,
            kept: BTreeMap::new(),
            failed: false,
        }
    }

    /// For the report to the monitor.
    pub fn seen(&mut self, span: u64) -> Seen {
        let mut o = self.look(span);
        let first = o.columns.pop().filter(|_| !self.failed);
        Seen { hours: o.hours, first }
    }

    /// One look, of which the latest `shown` hours are told.
    pub fn look(&mut self, shown: u64) -> Overview {
        let s = Arc::clone(&self.shared);
        let now_ms = s.clock.now_ms();
        let mut o = Overview {
            time_ms: now_ms,
            role: "fcollector".into(),
            host: self.host.clone(),
            zone: s.zone.name(),
            advice: advice(),
            ..Overview::default()
        };
        let mut trouble: Vec<String> =
            s.health.reason("tables").into_iter().map(|why| format!("tables: {why}")).collect();
        let hosts = expected(self.hosts_file.as_deref(), &mut trouble);
        o.expected = hosts.iter().map(|host| host.name.clone()).collect();
        self.nodes(&mut o);
        o.unwell = s.health.problems(s.clock.mono_ms());
        o.errors = s.log.recent().into_iter().map(|r| entry(&self.host, r)).collect();
        let columns = s.zone.latest_hours(now_ms, self.span_hours);
        o.columns = columns.iter().rev().map(ToString::to_string).collect();
        o.newest = o.columns.first().cloned().unwrap_or_default();
        let hours = self.hours(&mut o, &columns, now_ms, &mut trouble);
        self.failed = hours.is_err();
        let (older, said) = hours.unwrap_or_else(|why| {
            trouble.push(why);
            (false, Known::default())
        });
        trouble.extend(complete(&mut o, older, shown, (&s.zone, now_ms), (&hosts, &said)));
        o.trouble = trouble.join("; ");
        o
    }

    fn nodes(&self, o: &mut Overview) {
        o.nodes.push(Node {
            host: self.host.clone(),
            role: "fcollector".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            last_beat_ms: o.time_ms,
            alive: Some(true),
            since_ms: self.began_ms,
            lag_s: metrics::LAG.get().checked_div(1_000),
            paused: metrics::PAUSED.get() == 1,
            ..Node::default()
        });
        let senders = lock(&self.shared.senders);
        o.nodes.extend(senders.iter().map(|(name, seen)| Node {
            host: name.clone(),
            ip: seen.ip.to_string(),
            role: "sender".into(),
            last_beat_ms: seen.at_ms,
            ..Node::default()
        }));
    }

    /// The hours of the store, of as many columns as there is room for. True = there are older ones, too. And what is on
    /// record of hours.
    fn hours(
        &mut self,
        o: &mut Overview,
        columns: &[Hour],
        now_ms: i64,
        trouble: &mut Vec<String>,
    ) -> Result<(bool, Known), String> {
        let s = Arc::clone(&self.shared);
        let Some(since) = columns.first().copied() else { return Ok((false, Known::default())) };
        let filter = Filter { host: None, since: Some(since) };
        let inv = Inventory::read(&s.disk, &self.save_dir, &filter)?;
        let prints = {
            let gate = lock(&s.gate);
            gate.memory.as_ref().map(|m| m.footprint.told(|key| filter.takes(key))).unwrap_or_default()
        };
        let printed = prints.keys().filter(|key| !inv.known.is_pruned(key.hour));
        let all: BTreeSet<&HourKey> = inv.hours.keys().chain(printed).collect();
        let names = all.iter().map(|k| k.name.as_str()).chain(o.expected.iter().map(String::as_str));
        let most = columns_of(names.collect::<HashSet<_>>().len());
        // What will not be shown is not judged and kept either. A day belongs to its first hour here.
        let first = columns.iter().rev().take(most).next_back().map(ToString::to_string).unwrap_or_default();
        let fits = |k: &&HourKey| most >= columns.len() || format!("{:0<10}", k.hour.to_string()) >= first;
        let keys: BTreeSet<&HourKey> = all.iter().copied().filter(fits).collect();
        let mut kept = BTreeMap::new();
        for key in &keys {
            match self.judged(&inv, key, prints.get(key)) {
                Ok(one) => {
                    let mut row = one.row.clone();
                    inv.known.settle(&mut row);
                    o.hours.push(cell(&row, &s.zone, now_ms));
                    kept.insert((*key).clone(), one);
                }
                // One bad file takes its own hour away only.
                Err(e) => o.hours.push(HostHour {
                    name: key.name.clone(),
                    hour: key.hour.to_string(),
                    state: "doubtful".into(),
                    word: "unreadable".into(),
                    wrong: true,
                    note: e.to_string(),
                    ..HostHour::default()
                }),
            }
        }
        self.kept = kept;
        let newest = columns.last();
        if let Some(ahead) = keys.iter().find(|key| newest.is_some_and(|n| key.hour.day_of() > n.day_of())) {
            trouble
                .push(format!("{ahead} is of a day that has not begun here: compare the clocks and zones"));
        }
        let older = inv.older || keys.len() < all.len();
        Ok((older, inv.known))
    }

    fn judged(&mut self, inv: &Inventory, key: &HourKey, print: Option<&Print>) -> crate::disk::Result<Kept> {
        let files = inv.hours.get(key).cloned().unwrap_or_default();
        let disk = inv.store.disk();
        let place = inv.store.place(key);
        let mut paths: Vec<PathBuf> = files.tags.iter().map(|t| inv.store.path("received").join(t)).collect();
        paths.extend(files.doubtful.then(|| inv.store.path("doubtful").join(key.to_string())));
        if paths.is_empty() {
            paths.extend([place.data, place.headers]);
            // What is told of late lines is their number.
            paths.extend(files.late.then(|| inv.store.late(key, 1).data));
        }
        let stats = paths.iter().map(|p| disk.stat(p)).collect::<Result<Vec<_>, _>>()?;
        if let Some(known) = self.kept.remove(key)
            && (&known.files, &known.stats, known.print.as_ref()) == (&files, &stats, print)
        {
            return Ok(known);
        }
        let row = hour::judge(inv, key, print)?;
        Ok(Kept { files, stats, print: print.cloned(), row })
    }
}

/// The word of a state on the page.
fn word(state: State) -> &'static str {
    if state == State::Silent { NO_DATA } else { state.word() }
}

/// What to do about an hour, by its word.
pub fn advice() -> BTreeMap<String, String> {
    State::ALL.iter().map(|s| (word(*s).into(), s.next_step().into())).collect()
}

/// A message of this process, as the page has it.
pub fn entry(host: &str, r: Recent) -> ErrorEntry {
    let kind = if r.error { "error" } else { "warning" };
    ErrorEntry {
        time_ms: r.time_ms,
        arrived_ms: 0,
        node: host.to_owned(),
        kind: kind.into(),
        message: r.text,
    }
}

/// The hosts in `hosts_file`, as far as there is room for them.
pub fn expected(hosts_file: Option<&Path>, trouble: &mut Vec<String>) -> Vec<Host> {
    match hosts_file.map(read_hosts) {
        None => Vec::new(),
        Some(Ok(mut hosts)) => {
            if hosts.len() > NODES_MAX {
                trouble.push(format!(
                    "hosts_file names {} hosts, of which {NODES_MAX} are looked at",
                    hosts.len()
                ));
                hosts.truncate(NODES_MAX);
            }
            hosts
        }
        Some(Err(why)) => {
            trouble.push(format!("{why}; silent hosts cannot be told"));
            Vec::new()
        }
    }
}

/// Keeps the columns that are shown and for which there is room, and adds in them what expected hosts have not. In this
/// order: thousands of hosts that are silent for a month would be millions of hours. A sentence if not all fits.
pub fn complete(
    o: &mut Overview,
    older: bool,
    shown: u64,
    now: (&Zone, i64),
    said: (&[Host], &Known),
) -> Option<String> {
    let before = o.hours.len();
    o.keep_columns(usize::try_from(shown).unwrap_or(usize::MAX));
    let told = o.fit();
    add_silent(o, older || o.hours.len() < before, now, said);
    told
}

/// Adds the hours that expected hosts should have and have not: from the first hour that is there to the last that is over.
/// `older`: there are hours before the columns, too. Sorts all hours.
fn add_silent(o: &mut Overview, older: bool, (zone, now_ms): (&Zone, i64), (hosts, said): (&[Host], &Known)) {
    let over = |hour: &Hour| zone.ends_ms(*hour).is_some_and(|ends| now_ms.saturating_sub(ends) > OVERDUE_MS);
    let is_daily = |h: &&HostHour| h.hour.len() == 8;
    // Nothing at all is stored yet, or only files of days: nobody knows from when on a host is expected.
    let first = o.hours.iter().filter(|h| !is_daily(h)).map(|h| h.hour.as_str()).min();
    if let Some(first) = if older { Some("") } else { first } {
        let hours =
            o.columns.iter().filter(|h| h.as_str() >= first).filter_map(|h| Hour::parse(h)).filter(over);
        let hours: Vec<Hour> = hours.collect();
        let known: HashSet<(&str, &str)> =
            o.hours.iter().map(|h| (h.name.as_str(), h.hour.as_str())).collect();
        let daily: HashSet<&str> = o.hours.iter().filter(is_daily).map(|h| h.name.as_str()).collect();
        let shown: HashSet<&str> = o.expected.iter().map(String::as_str).collect();
        let mut silent = Vec::new();
        for host in hosts {
            let name = &host.name;
            if daily.contains(name.as_str()) || !shown.contains(name.as_str()) {
                continue;
            }
            for hour in hours.iter().filter(|hour| host.has(**hour)) {
                if !known.contains(&(name.as_str(), hour.to_string().as_str())) {
                    let key = HourKey { name: name.clone(), hour: *hour };
                    let mut row = Row::new(&key, State::Silent);
                    said.settle(&mut row);
                    if said.is_retired(&key) || said.is_pruned(*hour) {
                        continue;
                    }
                    silent.push(cell(&row, zone, now_ms));
                }
            }
        }
        o.hours.extend(silent);
    }
    o.hours.sort_by(|a, b| (&a.name, &a.hour).cmp(&(&b.name, &b.hour)));
}

/// The command that has a host send this again.
fn repull(row: &Row) -> String {
    if !row.mended_by_resend() {
        return String::new();
    }
    let stream = row.key.name.split_once('+').map_or(String::new(), |(_, s)| format!(" --stream {s}"));
    let packs = match row.missing.as_slice() {
        [] => String::new(),
        // As a whole it would be a new copy, which is more than is missing but not more than can be asked for at once.
        many if many.len() > RANGES_MAX && !row.by_clock => String::new(),
        some => format!(" --packs {}", ranges(some.get(..RANGES_MAX).unwrap_or(some))),
    };
    format!("logd resend{stream}{packs} /etc/logd/tail.ini {}", row.key.hour)
}

fn cell(row: &Row, zone: &Zone, now_ms: i64) -> HostHour {
    let state = match row.state {
        State::Verified => "verified",
        State::Empty => "empty",
        State::Unverified => "unverified",
        State::Original if !row.missing.is_empty() => "gaps",
        State::Original if row.detail.starts_with("has a tag") => "unverified",
        State::Open | State::Complete | State::Original => "open",
        State::Late
        | State::Partial
        | State::Changed
        | State::Loss
        | State::NoTotals
        | State::Doubtful
        | State::Mismatch => "doubtful",
        State::Gaps => "gaps",
        State::Conflict | State::Damaged => "conflict",
        State::Silent => NO_DATA,
    };
    let over = zone.ends_ms(row.key.hour).map_or(0, |ends| now_ms.saturating_sub(ends));
    let late = matches!(row.state, State::Open | State::Complete) && over > OVERDUE_MS;
    let mut note = row.detail.clone();
    let loss = if row.state == State::Loss { std::mem::take(&mut note) } else { String::new() };
    if late {
        let gap = if note.is_empty() { "" } else { "; " };
        note = format!("{note}{gap}the hour has been over for {}", duration(over.unsigned_abs()));
    }
    if let Some(said) = &row.known {
        let gap = if note.is_empty() { "" } else { "; " };
        note = format!("{note}{gap}{said}");
    }
    let word = word(row.state);
    HostHour {
        name: row.key.name.clone(),
        hour: row.key.hour.to_string(),
        state: state.into(),
        word: if word == state { String::new() } else { word.into() },
        wrong: row.wrong() || (late && row.known.is_none()),
        known: row.known.is_some(),
        lines: row.lines,
        bytes: row.bytes,
        missing: row.missing.iter().take(RANGES_MAX).copied().collect(),
        missing_more: row.missing.len() > RANGES_MAX,
        loss,
        repull: repull(row),
        note,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overview::{HOURS_MAX, STATES};

    fn row(name: &str, state: State) -> Row {
        Row::new(&HourKey::parse(name).unwrap(), state)
    }

    #[test]
    fn every_state_has_a_place_on_the_page() {
        let zone = Zone::named("UTC").unwrap();
        for state in State::ALL {
            let cell = cell(&row("web1_2026112205", state), &zone, 0);
            assert!(STATES.contains(&cell.state.as_str()), "{state:?}");
            assert_eq!(cell.wrong, state.wrong(), "{state:?}");
            let word = if cell.word.is_empty() { &cell.state } else { &cell.word };
            assert_eq!(word, super::word(state));
        }
    }

    #[test]
    fn the_command_sends_what_is_missing_and_nothing_that_cannot_be_sent() {
        let mut gaps = row("web1+error-x_2026112205", State::Gaps);
        assert_eq!(repull(&gaps), "logd resend --stream error-x /etc/logd/tail.ini 2026112205");
        gaps.missing = vec![(4, 7), (9, 9)];
        assert_eq!(
            repull(&gaps),
            "logd resend --stream error-x --packs 4-7,9-9 /etc/logd/tail.ini 2026112205"
        );
        gaps.missing = (0..99).map(|n| (n * 2, n * 2)).collect();
        assert!(!repull(&gaps).contains("--packs"));
        gaps.by_clock = true;
        assert_eq!(repull(&gaps).matches(',').count(), RANGES_MAX - 1);
        gaps.missing.clear();
        assert_eq!(repull(&gaps), "", "nobody can");
        assert_eq!(repull(&row("web1_2026112205", State::Loss)), "");
        assert_eq!(repull(&row("web1_2026112205", State::Verified)), "");
    }

    #[test]
    fn columns_are_the_hours_there_are() {
        let zone = Zone::named("Europe/Berlin").unwrap();
        let noon = zone.starts_ms(Hour::parse("2026032912").unwrap()).unwrap();
        let names: Vec<String> = zone.latest_hours(noon + 5, 12).iter().map(ToString::to_string).collect();
        assert_eq!((names.len(), names.last().unwrap().as_str()), (12, "2026032912"));
        assert!(!names.contains(&"2026032902".to_owned()), "the clock skips it: {names:?}");
    }

    #[test]
    fn a_large_fleet_that_is_silent_for_a_month_takes_no_more_room_than_is_shown() {
        let zone = Zone::named("UTC").unwrap();
        let now = zone.starts_ms(Hour::parse("2026112212").unwrap()).unwrap();
        let columns = zone.latest_hours(now, 744);
        let one = |hour: &Hour| cell(&row(&format!("web0_{hour}"), State::Verified), &zone, now);
        let mut o = Overview {
            hours: vec![one(&columns[0]), one(&columns[740])],
            columns: columns.iter().rev().map(ToString::to_string).collect(),
            expected: (0..NODES_MAX).map(|n| format!("web{n}")).collect(),
            ..Overview::default()
        };
        let hosts: Vec<Host> =
            o.expected.iter().map(|name| Host { name: name.clone(), since: None }).collect();
        let told = complete(&mut o, false, 744, (&zone, now), (&hosts, &Known::default())).unwrap();
        assert!(told.contains("with 4000 hosts only the latest 9 hours fit"), "{told}");
        assert_eq!((o.columns.len(), o.hours.capacity() <= 2 * HOURS_MAX), (9, true));
        // The hour that is not shown still says since when they are expected.
        let silent = o.hours.iter().filter(|h| h.state == NO_DATA).count();
        assert!(silent > 5 * (NODES_MAX - 1) && o.hours.len() == silent + 1, "{silent}");
        let (mut trouble, dir) = (Vec::new(), std::env::temp_dir());
        let path = dir.join(format!("logd-hosts-{}", std::process::id()));
        std::fs::write(&path, (0..NODES_MAX + 2).map(|n| format!("web{n}")).collect::<Vec<_>>().join("\n"))
            .unwrap();
        assert_eq!(expected(Some(&path), &mut trouble).len(), NODES_MAX);
        std::fs::write(&path, "#\n".repeat(9 << 20)).unwrap();
        assert!(expected(Some(&path), &mut trouble).is_empty());
        std::fs::remove_file(&path).unwrap();
        assert!(
            trouble[0].contains("4002 hosts, of which 4000") && trouble[1].contains("longer than"),
            "{trouble:?}"
        );
    }
}

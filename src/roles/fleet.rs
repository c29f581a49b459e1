//! What a store's page shows: every host's latest hours, judged from the store on disk.
//!
//! It is the judgement of `logd status`, limited to the hours that the page has, and made only when somebody asks. An
//! hour whose files have not changed is not judged again: of a store of a year a look costs the listings of three
//! directories, of which only the names of those hours are kept in memory, and a few `stat` for each of them.

use super::serve::Shared;
use crate::clock::{Hour, Zone};
use crate::disk::Stat;
use crate::integrity::read_hosts;
use crate::inventory::hour::{self, Print, Row, State};
use crate::inventory::{Files, Filter, Inventory, OVERDUE_MS};
use crate::log::{duration, ranges};
use crate::metrics;
use crate::overview::{ErrorEntry, HOURS_MAX, HostHour, NO_DATA, Node, Overview, RANGES_MAX};
use crate::pack::HourKey;
use crate::receiver::lock;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

/// See the module's header.
pub struct Fleet {
    shared: Arc<Shared>,
    save_dir: PathBuf,
    hosts_file: Option<PathBuf>,
    span_hours: u64,
    host: String,
    began_ms: i64,
    /// The last judgements.
    kept: BTreeMap<HourKey, Kept>,
}

/// A judgement, and what it was made from.
struct Kept {
    files: Files,
    stats: Vec<Option<Stat>>,
    print: Option<Print>,
    row: Row,
}

impl Fleet {
    /// Looks at `save_dir`; the names in `hosts_file` are expected. `host` is the name of this one.
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
        }
    }

    /// One look.
    pub fn look(&mut self) -> Overview {
        let s = Arc::clone(&self.shared);
        let now_ms = s.clock.now_ms();
        let mut o = Overview {
            time_ms: now_ms,
            role: "fcollector".into(),
            host: self.host.clone(),
            zone: s.zone.name(),
            advice: State::ALL.iter().map(|s| (word(*s).into(), s.next_step().into())).collect(),
            ..Overview::default()
        };
        let mut trouble = Vec::new();
        match self.hosts_file.as_deref().map(read_hosts) {
            None => {}
            Some(Ok(names)) => o.expected = names,
            Some(Err(why)) => trouble.push(format!("{why}; silent hosts cannot be told")),
        }
        self.nodes(&mut o);
        o.errors = s.log.recent().into_iter().map(|r| self.error(r)).collect();
        let columns = columns(&s.zone, now_ms, self.span_hours);
        if let Err(why) = self.hours(&mut o, &columns, now_ms, &mut trouble) {
            trouble.push(why);
        }
        // As many as the grid has room for: rather fewer hours than not all hosts.
        let hosts = o.hours.iter().map(|h| h.name.as_str()).collect::<BTreeSet<_>>().len();
        let most = HOURS_MAX.checked_div(hosts.max(1)).unwrap_or(HOURS_MAX).max(1);
        let mut columns: Vec<String> = columns.iter().rev().map(ToString::to_string).collect();
        if columns.len() > most {
            columns.truncate(most);
            let first = columns.last().cloned().unwrap_or_default();
            // A day belongs to its first hour here.
            o.hours.retain(|h| format!("{:0<10}", h.hour) >= first);
            trouble.push(format!("with {hosts} hosts only the latest {most} hours fit"));
        }
        o.span_hours = columns.len() as u64;
        o.newest = columns.first().cloned().unwrap_or_default();
        o.columns = columns;
        o.trouble = trouble.join("; ");
        o
    }

    fn error(&self, r: crate::log::Recent) -> ErrorEntry {
        let kind = if r.error { "error" } else { "warning" };
        ErrorEntry { time_ms: r.time_ms, node: self.host.clone(), kind: kind.into(), message: r.text }
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

    /// The hours of the store, and those that are expected and not there.
    fn hours(
        &mut self,
        o: &mut Overview,
        columns: &[Hour],
        now_ms: i64,
        trouble: &mut Vec<String>,
    ) -> Result<(), String> {
        let s = Arc::clone(&self.shared);
        let Some(since) = columns.first().copied() else { return Ok(()) };
        let filter = Filter { host: None, since: Some(since) };
        let inv = Inventory::read(&s.disk, &self.save_dir, &filter)?;
        let prints = {
            let gate = lock(&s.gate);
            gate.memory.as_ref().map(|m| m.footprint.told(|key| filter.takes(key))).unwrap_or_default()
        };
        let keys: BTreeSet<&HourKey> = inv.hours.keys().chain(prints.keys()).collect();
        let mut kept = BTreeMap::new();
        for key in &keys {
            match self.judged(&inv, key, prints.get(key)) {
                Ok(one) => {
                    o.hours.push(cell(&one.row, &s.zone, now_ms));
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
        let silent = silent(o, &inv, &keys, columns, &s.zone, now_ms);
        o.hours.extend(silent);
        o.hours.sort_by(|a, b| (&a.name, &a.hour).cmp(&(&b.name, &b.hour)));
        let newest = columns.last();
        if let Some(ahead) = keys.iter().find(|key| newest.is_some_and(|n| key.hour.day_of() > n.day_of())) {
            trouble
                .push(format!("{ahead} is of a day that has not begun here: compare the clocks and zones"));
        }
        Ok(())
    }

    fn judged(&mut self, inv: &Inventory, key: &HourKey, print: Option<&Print>) -> crate::disk::Result<Kept> {
        let files = inv.hours.get(key).cloned().unwrap_or_default();
        let disk = inv.store.disk();
        let place = inv.store.place(key);
        let mut paths: Vec<PathBuf> = files.tags.iter().map(|t| inv.store.path("received").join(t)).collect();
        paths.extend(files.doubtful.then(|| inv.store.path("doubtful").join(key.to_string())));
        if paths.is_empty() {
            paths.extend([place.data, place.headers]);
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

/// The hours that the page shows, the oldest first.
fn columns(zone: &Zone, now_ms: i64, span: u64) -> Vec<Hour> {
    let back = i64::try_from(span.saturating_sub(1)).unwrap_or(i64::MAX).saturating_mul(3_600_000);
    let (mut hour, last) = (zone.hour_at(now_ms.saturating_sub(back)), zone.hour_at(now_ms));
    let mut all = Vec::new();
    while hour <= last {
        // One that the clock skips does not exist.
        all.extend(zone.ends_ms(hour).map(|_| hour));
        let next = zone.next(hour);
        if next <= hour {
            break;
        }
        hour = next;
    }
    all
}

/// The hours that expected hosts should have and have not: from the store's first hour to the last that is over.
fn silent(
    o: &Overview,
    inv: &Inventory,
    keys: &BTreeSet<&HourKey>,
    columns: &[Hour],
    zone: &Zone,
    now_ms: i64,
) -> Vec<HostHour> {
    let first = keys.iter().filter(|k| !k.hour.is_daily()).map(|k| k.hour).min();
    // Nothing at all is stored yet, or only files of days: nobody knows from when on a host is expected.
    let first = if inv.older { columns.first().copied() } else { first };
    let Some(first) = first else { return Vec::new() };
    let over = |hour: &Hour| zone.ends_ms(*hour).is_some_and(|ends| now_ms.saturating_sub(ends) > OVERDUE_MS);
    let hours: Vec<Hour> = columns.iter().copied().filter(|h| *h >= first && over(h)).collect();
    let daily: BTreeSet<&str> = keys.iter().filter(|k| k.hour.is_daily()).map(|k| k.name.as_str()).collect();
    let mut all = Vec::new();
    for name in o.expected.iter().filter(|n| !daily.contains(n.as_str())) {
        for hour in &hours {
            let key = HourKey { name: name.clone(), hour: *hour };
            if !keys.contains(&key) {
                all.push(cell(&Row::new(&key, State::Silent), zone, now_ms));
            }
        }
    }
    all
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
    let word = word(row.state);
    HostHour {
        name: row.key.name.clone(),
        hour: row.key.hour.to_string(),
        state: state.into(),
        word: if word == state { String::new() } else { word.into() },
        wrong: row.wrong() || late,
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
    use crate::overview::STATES;

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
        let names: Vec<String> = columns(&zone, noon + 5, 12).iter().map(ToString::to_string).collect();
        assert_eq!((names.len(), names.last().unwrap().as_str()), (12, "2026032912"));
        assert!(!names.contains(&"2026032902".to_owned()), "the clock skips it: {names:?}");
    }
}

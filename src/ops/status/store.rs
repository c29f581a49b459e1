//! The store's side of `logd status`: every hour judged, counted and, where somebody must act, named.

use super::super::hour::{self, Row, State};
use super::super::inventory::{Filter, Inventory, OVERDUE_MS};
use super::super::out;
use super::keys::Keys;
use super::queue::{Queue, paused};
use crate::auth::{Mode, host_of};
use crate::clock::{Hour, Zone};
use crate::config::{Role, SpoolConfig};
use crate::disk::Disk;
use crate::footprint;
use crate::inventory::hosts::Host;
use crate::pack::HourKey;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Expected hosts are looked for in so many hours: one old file must not make a report of 90,000 lines.
const EXPECTED_MAX: i64 = 10_000;
/// Hours that are named one by one, per state.
const NAMED_MAX: usize = 10;
/// The same for hosts that do not sign, on one line.
const UNSIGNED_SHOWN: usize = 20;

/// Where to look.
pub struct Place<'a> {
    /// The store.
    pub save_dir: &'a Path,
    /// Which of the roles that store; without a config nobody knows.
    pub role: Role,
    /// State directory and spool, if a config told.
    pub state: Option<(PathBuf, SpoolConfig)>,
    /// Expected names.
    pub hosts: Vec<Host>,
    /// Who may send, if a config told.
    pub keys: Keys,
}

/// See the module's header.
pub struct Report<'a> {
    save_dir: PathBuf,
    keys: &'a Keys,
    /// Sorted by name, then hour.
    rows: Vec<Row>,
    queue: Option<Queue>,
    /// What the disk of the hour files is short of, if a config told how much is to be left free.
    short: Option<String>,
    now_ms: i64,
}

/// What each host must have by now, if its files hold an hour, or a day: from the store's first one to the last that
/// is over. Hours that every host lacks are among them.
fn expected(inv: &Inventory, daily: bool, zone: Option<&Zone>, now_ms: i64) -> Vec<Hour> {
    let first = inv.hours.keys().map(|key| key.hour).filter(|hour| hour.is_daily() == daily).min();
    let (Some(zone), Some(first)) = (zone, first) else { return Vec::new() };
    let back = now_ms.saturating_sub(EXPECTED_MAX * 3_600_000);
    let mut hour = first.max(if daily { zone.day_at(back) } else { zone.hour_at(back) });
    let mut hours = Vec::new();
    loop {
        match zone.ends_ms(hour) {
            Some(ends) if now_ms.saturating_sub(ends) > OVERDUE_MS => hours.push(hour),
            Some(_) => break,
            // The clock skips it.
            None => {}
        }
        let next = zone.next(hour);
        if next <= hour {
            break;
        }
        hour = next;
    }
    hours
}

impl<'a> Report<'a> {
    /// Judges the hours that `filter` takes. `zone` tells which of them are over.
    pub fn read(
        disk: &Disk,
        place: &'a Place,
        filter: &Filter,
        zone: Option<&Zone>,
        now_ms: i64,
    ) -> Result<Self, String> {
        // All of it: the store's first hour tells from when on a host is expected.
        let inv = Inventory::read(disk, place.save_dir, &Filter::default())?;
        let state = place.state.as_ref();
        let prints = state.and_then(|(dir, _)| footprint::load_json(disk, dir)).unwrap_or_default();
        let queue = match state {
            Some((dir, conf)) => Some(Queue::read(disk, dir, place.role, conf).map_err(|e| e.to_string())?),
            None => None,
        };
        let short = match state {
            Some((_, conf)) if disk.stat(place.save_dir).map_err(|e| e.to_string())?.is_some() => {
                disk.shortage(place.save_dir, conf.min_free).map_err(|e| e.to_string())?
            }
            _ => None,
        };
        let over_ms = |key: &HourKey| {
            let ends = zone.and_then(|z| z.ends_ms(key.hour))?;
            Some(now_ms.saturating_sub(ends)).filter(|over| *over > OVERDUE_MS).map(i64::unsigned_abs)
        };
        let mut rows = Vec::new();
        // An hour of which nothing is stored yet may still have accepted packs.
        let printed = prints.keys().filter(|key| !inv.known.is_pruned(key.hour));
        let known: BTreeSet<&HourKey> = inv.hours.keys().chain(printed).collect();
        for key in known.into_iter().filter(|key| filter.takes(key)) {
            let mut row = hour::judge(&inv, key, prints.get(key)).map_err(|e| e.to_string())?;
            if matches!(row.state, State::Open | State::Complete) {
                row.overdue_ms = over_ms(key);
            }
            inv.known.settle(&mut row);
            rows.push(row);
        }
        let [hours, days] = [false, true].map(|daily| {
            let names = inv.hours.keys().filter(|key| key.hour.is_daily() == daily);
            let names: BTreeSet<&str> = names.map(|key| key.name.as_str()).collect();
            (names, expected(&inv, daily, zone, now_ms))
        });
        for host in place.hosts.iter().filter(|host| filter.takes_name(&host.name)) {
            // Of a host that never sent anything nobody knows whether its files hold an hour or a day.
            let name = &host.name;
            let (has_hours, has_days) = (hours.0.contains(&**name), days.0.contains(&**name));
            let daily = !has_hours && (has_days || hours.1.is_empty());
            for hour in (if daily { &days.1 } else { &hours.1 }).iter().filter(|hour| host.has(**hour)) {
                let key = HourKey { name: name.clone(), hour: *hour };
                let is_here = inv.hours.contains_key(&key) || prints.contains_key(&key);
                if filter.takes(&key) && !is_here && !inv.known.is_pruned(*hour) {
                    let mut row = Row::new(&key, State::Silent);
                    row.detail = "expected by hosts_file; nothing of it is here".into();
                    // A host that is off for a year is no list of 8,760 hours.
                    if !inv.known.is_retired(&key) {
                        inv.known.settle(&mut row);
                        rows.push(row);
                    }
                }
            }
        }
        rows.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { save_dir: place.save_dir.to_owned(), keys: &place.keys, rows, queue, short, now_ms })
    }

    /// Is there no hour?
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Stored bytes of all hours.
    pub fn bytes(&self) -> u64 {
        self.rows.iter().map(|r| r.bytes).sum()
    }

    /// The row of an hour, if there is one.
    pub fn row(&self, key: &HourKey) -> Option<&Row> {
        self.rows.iter().find(|row| row.key == *key)
    }

    fn of(&self, want: impl Fn(&Row) -> bool) -> Vec<&Row> {
        self.rows.iter().filter(|row| want(row)).collect()
    }

    /// The counts, for people.
    pub fn text(&self) -> String {
        let stored = self.of(|r| r.state != State::Silent);
        let hosts: BTreeSet<&str> = stored.iter().map(|r| r.key.name.as_str()).collect();
        let bytes: u64 = stored.iter().map(|r| r.bytes).sum();
        let span = match (stored.iter().map(|r| r.key.hour).min(), stored.iter().map(|r| r.key.hour).max()) {
            (Some(first), Some(last)) => format!(" from {first} to {last}"),
            _ => String::new(),
        };
        let mut text = format!(
            "  {}, {}{span}, {}\n",
            out::count(hosts.len(), "host"),
            out::count(stored.len(), "hour"),
            out::bytes(bytes)
        );
        let counts = |want: fn(State) -> bool| {
            let mut by_state: BTreeMap<State, usize> = BTreeMap::new();
            for row in self.rows.iter().filter(|r| want(r.state)) {
                let n = by_state.entry(row.state).or_default();
                *n = n.saturating_add(1);
            }
            let all: usize = by_state.values().sum();
            let list: Vec<String> = by_state.iter().map(|(s, n)| format!("{n} {}", s.word())).collect();
            (all, list.join(", "))
        };
        for (title, want) in [
            ("certified", State::certified as fn(State) -> bool),
            ("doubtful", State::doubtful),
            ("under way", |s| matches!(s, State::Open | State::Complete)),
            ("of the original", |s| s == State::Original),
            ("not certified", |s| s.wrong() && !s.doubtful() && s != State::Silent),
            ("expected and silent", |s| s == State::Silent),
        ] {
            let (all, list) = counts(want);
            if all > 0 {
                let _ = writeln!(text, "  {all} {title} ({list})");
            }
        }
        let known = self.of(|r| r.known.is_some());
        if !known.is_empty() {
            let _ = writeln!(text, "  {} of these known loss, by an operator's word", known.len());
            for row in known.iter().take(NAMED_MAX) {
                let _ = writeln!(text, "    {} {}  {}", row.key.name, row.key.hour, row.why());
            }
            if let more @ 1.. = known.len().saturating_sub(NAMED_MAX) {
                let _ = writeln!(text, "    and {more} more: `--all` lists them");
            }
        }
        text += &self.keys.text();
        if self.keys.mode == Some(Mode::Accept) {
            text += &self.unsigned();
        }
        if let Some(queue) = &self.queue {
            let _ = writeln!(text, "  {}", queue.summary("spool"));
        }
        text
    }

    /// Hosts whose newest hour is not signed: a line, with the names of some.
    fn unsigned(&self) -> String {
        let mut newest: BTreeMap<&str, (Hour, bool)> = BTreeMap::new();
        for row in self.of(|r| r.authentic.is_some()) {
            let signed = row.authentic == Some(true);
            let host = newest.entry(host_of(&row.key.name)).or_insert((row.key.hour, signed));
            if row.key.hour > host.0 {
                *host = (row.key.hour, signed);
            } else if row.key.hour == host.0 {
                host.1 &= signed;
            }
        }
        let open: Vec<&str> =
            newest.iter().filter(|(_, (_, signed))| !signed).map(|(host, _)| *host).collect();
        let all = out::count(newest.len(), "host");
        if open.is_empty() {
            return format!(
                "  in accept: the newest hours of all {all} are signed; see logd-security(7) for the next step\n"
            );
        }
        let shown = open.iter().take(UNSIGNED_SHOWN).copied().collect::<Vec<_>>().join(", ");
        let more = match open.len().saturating_sub(UNSIGNED_SHOWN) {
            0 => String::new(),
            n => format!(" and {n} more"),
        };
        format!("  in accept: {} of {all} not signed: {shown}{more}\n", open.len())
    }

    /// What somebody must look at: hours of one state together, with what to do.
    pub fn wrong(&self) -> Vec<String> {
        let mut list: Vec<String> = self.short.iter().map(|what| paused(what)).collect();
        for state in State::ALL {
            let rows = self.of(|r| r.state == state && r.wrong());
            if rows.is_empty() {
                continue;
            }
            let word =
                if state.wrong() { state.word().to_owned() } else { format!("{}, overdue", state.word()) };
            let mut text = format!("{word} ({}): {}", out::count(rows.len(), "hour"), state.next_step());
            if state == State::Silent {
                // One line a host: a host that is off is silent in every hour.
                let hosts: BTreeSet<&str> = rows.iter().map(|r| r.key.name.as_str()).collect();
                for name in hosts {
                    let mine: Vec<_> =
                        rows.iter().filter(|r| r.key.name == name).map(|r| r.key.hour).collect();
                    let (first, last) = (mine.first(), mine.last());
                    if let (Some(first), Some(last)) = (first, last) {
                        let hours = out::count(mine.len(), "hour");
                        let _ = write!(text, "\n    {name}  {hours}, {first} to {last}");
                    }
                }
            } else {
                for row in rows.iter().take(NAMED_MAX) {
                    let _ = write!(text, "\n    {} {}  {}", row.key.name, row.key.hour, row.why());
                }
                if let more @ 1.. = rows.len().saturating_sub(NAMED_MAX) {
                    let _ = write!(text, "\n    and {more} more: `--all` lists them");
                }
            }
            list.push(text);
        }
        list.extend(self.keys.wrong());
        list.extend(self.queue.iter().flat_map(|queue| queue.wrong(0, self.now_ms)));
        list
    }

    /// A table of all hours.
    pub fn table(&self) -> String {
        let head =
            ["HOST", "HOUR", "STATE", "AUTHENTIC", "PACKS", "LINES", "BYTES", "DETAIL"].map(String::from);
        let rows = self.rows.iter().map(|r| {
            // The state has a column of its own.
            let why = r.why();
            let detail = why
                .strip_prefix(r.state.word())
                .unwrap_or_default()
                .trim_start_matches([':', ';', ' '])
                .to_owned();
            let numbers = [r.packs, r.lines, r.bytes].map(|n| n.to_string());
            let [packs, lines, bytes] = numbers;
            let authentic = match r.authentic {
                Some(true) => "yes",
                Some(false) => "no",
                None => "-",
            };
            let [name, hour, state, authentic] =
                [&r.key.name, &r.key.hour.to_string(), r.state.word(), authentic].map(str::to_owned);
            [name, hour, state, authentic, packs, lines, bytes, detail]
        });
        let all: Vec<[String; 8]> = std::iter::once(head).chain(rows).collect();
        let mut widths = [0; 8];
        for row in &all {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.len().max(*width);
            }
        }
        let mut text = String::new();
        for row in &all {
            let mut line = String::new();
            for (i, (cell, width)) in row.iter().zip(widths).enumerate() {
                // Numbers to the right.
                let _ = match i {
                    4..7 => write!(line, "{cell:>width$}  "),
                    _ => write!(line, "{cell:<width$}  "),
                };
            }
            text += line.trim_end();
            text.push('\n');
        }
        text + &self.keys.table()
    }

    /// `HOST HOUR FROM-TO,…` or `HOST HOUR`, and nothing else: what is to be sent again.
    pub fn missing(&self) -> String {
        let mut text = String::new();
        for row in self.of(Row::mended_by_resend) {
            let gap = if row.missing.is_empty() { "" } else { " " };
            let _ = writeln!(text, "{} {}{gap}{}", row.key.name, row.key.hour, out::ranges(&row.missing));
        }
        text
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|r| {
                let missing: Vec<[u64; 2]> = r.missing.iter().map(|(from, to)| [*from, *to]).collect();
                json!({
                    "name": r.key.name, "hour": r.key.hour.to_string(), "state": r.state.word(),
                    "wrong": r.wrong(), "gen": r.generation, "packs": r.packs, "lines": r.lines,
                    "bytes": r.bytes, "authentic": r.authentic, "missing": missing, "detail": r.detail, "certified": r.certified,
                    "overdue_ms": r.overdue_ms, "known": r.known, "cut": if r.by_clock { "clock" } else { "" },
                    "next_step": if r.wrong() { r.next_step() } else { "" },
                })
            })
            .collect();
        json!({
            "role": "fcollector", "save_dir": self.save_dir.display().to_string(), "hours": rows,
            "queue": self.queue.as_ref().map(Queue::json), "paused": self.short, "keys": self.keys.json(),
        })
    }
}

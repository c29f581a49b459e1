//! `logd status CONFIG|SAVE_DIR`: what is there, what is wrong, what to do about it.
//!
//! It asks the disk and not the process, so it answers when the role is down too, and on a copy of a store. What a
//! running role knows and has not written yet shows a moment later.

mod certificates;
mod follower;
mod keys;
mod monitor;
mod queue;
mod store;

use super::inventory::{Filter, PARTS};
use super::out::{self, Out, Paint};
use super::{ERROR, YES};
use super::{control, effect};
use crate::clock::{Clock, Zone};
use crate::config::{Config, Errors, MonitorConfig, Role, SpoolConfig, StoreConfig, TailConfig};
use crate::disk::Disk;
use crate::etl::marks;
use crate::integrity::Store;
use crate::inventory::hosts::{read_hosts, read_if_set};
use crate::inventory::hour::Row;
use crate::pack::HourKey;
use crate::roles::tables::wrong_rules;
use crate::{documents, instance, state};
use follower::Follower;
use keys::Keys;
use queue::{Queue, Shows};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use store::{Place, Report};

/// What to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// Counts, and what is wrong.
    Summary,
    /// The same with a table of all hours.
    All,
    /// Only what is to be sent again.
    Missing,
    /// Everything, for programs.
    Json,
}

/// How often `--watch` looks.
const AGAIN: Duration = Duration::from_secs(2);

/// The status again and again, with what moves; it ends with its reader.
pub fn watch(path: &Path, filter: &Filter, out: &mut Out) -> u8 {
    let mut before: Option<(Instant, BTreeMap<String, u64>)> = None;
    loop {
        let (disk, now_ms, zone) = (Disk::real(), Clock::real().now_ms(), Zone::local().ok());
        if out.is_screen() {
            // To the top left; what was there is cleared.
            out.text("\x1b[H\x1b[2J");
        }
        let time = zone.as_ref().map_or(String::new(), |z| z.format_ms(now_ms));
        out.line(format_args!("{time}  {}  every {} s, ends by ^C", path.display(), AGAIN.as_secs()));
        let s = Status {
            disk,
            filter,
            view: View::Summary,
            zone,
            now_ms,
            out: &mut *out,
            json: Vec::new(),
            also: Vec::new(),
            moved: BTreeMap::new(),
            stores: 0,
            failed: false,
        };
        let (code, moved) = run_at(path, s);
        let at = Instant::now();
        if let Some((then, old)) = &before {
            let ms = u64::try_from(at.saturating_duration_since(*then).as_millis()).unwrap_or(u64::MAX);
            for (what, bytes) in &moved {
                let more = old.get(what).map_or(0, |b| bytes.saturating_sub(*b));
                let rate = more.saturating_mul(1000).checked_div(ms).unwrap_or(0);
                out.line(format_args!("{what}: {}/s", out::bytes(rate)));
            }
        }
        before = Some((at, moved));
        if code != YES || out.gone() {
            return code;
        }
        std::thread::sleep(AGAIN);
    }
}

struct Status<'a, 'b> {
    disk: Disk,
    filter: &'a Filter,
    view: View,
    zone: Option<Zone>,
    now_ms: i64,
    out: &'a mut Out<'b>,
    json: Vec<Value>,
    /// What is wrong with the role that is told next, whichever it is.
    also: Vec<String>,
    /// Bytes that have come as far as this, by role.
    moved: BTreeMap<String, u64>,
    stores: usize,
    failed: bool,
}

/// Prints the status of a store, or of every role of a config in turn.
pub fn run(path: &Path, filter: &Filter, view: View, out: &mut Out) -> u8 {
    let (disk, now_ms) = (Disk::real(), Clock::real().now_ms());
    // Without a zone nobody can say which hours are over; everything else still holds.
    let zone = Zone::local().ok();
    run_at(
        path,
        Status {
            disk,
            filter,
            view,
            zone,
            now_ms,
            out,
            json: Vec::new(),
            also: Vec::new(),
            moved: BTreeMap::new(),
            stores: 0,
            failed: false,
        },
    )
    .0
}

fn run_at(path: &Path, mut s: Status) -> (u8, BTreeMap<String, u64>) {
    if path.is_dir() {
        s.store(
            &path.display().to_string(),
            &Place {
                role: Role::Fcollector,
                save_dir: path,
                state: None,
                hosts: Vec::new(),
                keys: Keys::default(),
            },
        );
    } else {
        s.config(path);
    }
    if s.view == View::Json {
        let all = json!({"format": 1, "roles": s.json});
        s.out.line(format_args!("{all:#}"));
    }
    (if s.failed { ERROR } else { YES }, s.moved)
}

/// The next step for somebody who may not read a store: whose it is, if it is not this user's.
fn owner(save_dir: &Path) -> String {
    let me = rustix::process::geteuid();
    match std::fs::metadata(save_dir) {
        Ok(meta) if !me.is_root() && meta.uid() != me.as_raw() => {
            format!("; {} belongs to user {}: run it as that user", save_dir.display(), meta.uid())
        }
        _ => String::new(),
    }
}

/// What a follower follows, in few words.
fn files(conf: &TailConfig) -> String {
    match conf.streams.as_slice() {
        [one] => one.log_file.clone(),
        many => out::count(many.len(), "section"),
    }
}

fn no_host(hosts_file: &Path) -> String {
    format!(
        "hosts_file {}: names no host, so `logd ready` and received/all_HOUR have none to wait for; list the expected ones",
        hosts_file.display()
    )
}

/// Where the store of a config lies.
pub fn save_dir_of(path: &Path) -> Result<PathBuf, String> {
    let config = Config::load(path).map_err(|e| e.to_string())?;
    config.any_store(false).map(|(_, c)| c.save_dir).map_err(|e| e.to_string())
}

/// Where the store of a config lies, and what it has of an hour: `None` = nothing, and nobody expects it.
pub fn row_of(path: &Path, key: &HourKey) -> Result<(PathBuf, Option<Row>), String> {
    let config = Config::load(path).map_err(|e| e.to_string())?;
    let (role, c) = config.any_store(false).map_err(|e| e.to_string())?;
    let hosts = read_if_set(c.hosts_file.as_deref())?;
    let state = Some((state::resolve(&role, c.state_dir.as_deref()), c.spool.clone()));
    let place = Place { role, save_dir: &c.save_dir, state, hosts, keys: Keys::default() };
    let filter = Filter { host: Some(key.name.clone()), since: Some(key.hour) };
    let zone = Zone::local()?;
    let report = Report::read(&Disk::real(), &place, &filter, Some(&zone), Clock::real().now_ms())?;
    let row = report.row(key).cloned();
    drop(report);
    Ok((c.save_dir, row))
}

impl Status<'_, '_> {
    fn fail(&mut self, why: impl std::fmt::Display) {
        self.out.complain(format_args!("logd: status: {why}"));
        self.failed = true;
    }

    fn config(&mut self, path: &Path) {
        let config = match Config::load(path) {
            Ok(config) => config,
            Err(errors) => return self.refuse(&errors),
        };
        let roles = config.roles();
        for role in &roles {
            self.also = effect::differs(&self.disk, &config, *role);
            let running = instance::is_running(&control::place(&config, *role).0) == Some(true);
            let wrong = certificates::wrong(&config, *role, running, self.zone.as_ref(), self.now_ms);
            self.also.extend(wrong);
            match role {
                Role::Tail => match config.tail(false) {
                    Ok((c, _)) => {
                        let dir = state::resolve(role, c.state_dir.as_deref());
                        match Follower::read(&self.disk, &c, &dir, self.filter, self.now_ms) {
                            Ok(f) => {
                                self.moved.insert("tail: acknowledged".into(), f.acknowledged());
                                self.show(
                                    ("tail", &format!("{} to {}", files(&c), c.sender.send_to.join(","))),
                                    Some(&dir),
                                    &f.text(),
                                    &f.wrong(),
                                    || f.json(),
                                );
                            }
                            Err(e) => self.fail(format_args!("tail: {}", super::rights(&e))),
                        }
                    }
                    Err(errors) => self.refuse(&errors),
                },
                Role::Collector => match config.relay(false) {
                    Ok((c, _)) => {
                        let dir = state::resolve(role, c.state_dir.as_deref());
                        let read = Queue::read(&self.disk, &dir, *role, &c.spool)
                            .and_then(|q| Ok((q, Keys::read(&self.disk, &c.receiver, &dir, self.now_ms)?)));
                        let certificate = c.sender.tls.as_ref().is_some_and(|tls| tls.own.is_some());
                        let shows = Shows { key: false, certificate, relay: true };
                        let read = read.map(|(q, keys)| (Queue { shows, ..q }, keys));
                        match read {
                            Ok((q, keys)) => self.show(
                                (
                                    "collector",
                                    &format!("{} to {}", c.receiver.listen, c.sender.send_to.join(",")),
                                ),
                                Some(&dir),
                                &format!("{}  {}\n", keys.text(), q.summary("spool")),
                                &[keys.wrong(), q.wrong(0, self.now_ms)].concat(),
                                || json!({"role": "collector", "queue": q.json(), "keys": keys.json()}),
                            ),
                            Err(e) => {
                                self.fail(format_args!("collector: {}", super::rights(&e)));
                            }
                        }
                    }
                    Err(errors) => self.refuse(&errors),
                },
                Role::Fcollector | Role::Etlcollector | Role::Mgocollector => {
                    match config.store_of(*role, false) {
                        Ok((c, _)) => {
                            let hosts = match c.hosts_file.as_deref().map(read_hosts) {
                                None => Vec::new(),
                                Some(Ok(names)) => {
                                    let empty = c.hosts_file.as_ref().filter(|_| names.is_empty());
                                    self.also.extend(empty.map(|path| no_host(path)));
                                    names
                                }
                                Some(Err(why)) => {
                                    let why = format!("{why}; silent hosts cannot be told");
                                    self.fail(&why);
                                    // Who reads the output alone must not read that nothing is wrong.
                                    self.also.push(why);
                                    Vec::new()
                                }
                            };
                            let dir = state::resolve(role, c.state_dir.as_deref());
                            let title = c.save_dir.display().to_string();
                            match Keys::read(&self.disk, &c.receiver, &dir, self.now_ms) {
                                Ok(keys) => {
                                    let state = Some((dir.clone(), c.spool.clone()));
                                    self.store(
                                        &title,
                                        &Place { role: *role, save_dir: &c.save_dir, state, hosts, keys },
                                    );
                                    match role {
                                        _ if self.view == View::Missing => {}
                                        Role::Mgocollector => self.documents(&config, &dir),
                                        Role::Etlcollector => self.tables(&config, &c, &dir),
                                        _ => {}
                                    }
                                }
                                Err(e) => {
                                    let role = role.command();
                                    self.fail(format_args!("{role}: {}", super::rights(&e)));
                                }
                            }
                        }
                        Err(errors) => self.refuse(&errors),
                    }
                }
                Role::Monitor => match config.monitor(false) {
                    Ok((c, _)) => self.monitor(&c),
                    Err(errors) => self.refuse(&errors),
                },
            }
        }
        if roles.is_empty() {
            self.fail(format_args!("{}: no role in this file; `logd check` tells more", path.display()));
        } else if self.view == View::Missing && self.stores == 0 && !self.failed {
            self.fail(format_args!(
                "{}: --missing is a question to a store; ask on the collector's host",
                path.display()
            ));
        }
    }

    fn monitor(&mut self, conf: &MonitorConfig) {
        let dir = state::resolve(&Role::Monitor, conf.state_dir.as_deref());
        match monitor::Report::read(&self.disk, conf, &dir, self.zone.as_ref()) {
            Ok(r) => self.show(("monitor", &conf.listen), Some(&dir), &r.text(), &r.wrong(), || r.json()),
            Err(e) => self.fail(format_args!("monitor: {}", super::rights(&e))),
        }
    }

    fn refuse(&mut self, errors: &Errors) {
        self.out.complain(errors);
        self.failed = true;
    }

    fn store(&mut self, title: &str, place: &Place) {
        self.stores = self.stores.saturating_add(1);
        if let Some((dir, conf)) = place.state.as_ref().filter(|(dir, _)| self.untouched(place.save_dir, dir))
        {
            return self.not_begun(title, place.role, (dir, conf), &place.keys);
        }
        let report = match Report::read(&self.disk, place, self.filter, self.zone.as_ref(), self.now_ms) {
            Ok(report) => report,
            Err(why) => return self.fail(format_args!("{why}{}", owner(place.save_dir))),
        };
        if let Some(host) = self.filter.host.as_ref().filter(|_| report.is_empty()) {
            let since = self.filter.since.map_or(String::new(), |hour| format!(" since {hour}"));
            return self.fail(format_args!(
                "{title}: there is no hour of {host}{since}, nor does hosts_file expect one; is it the right name, and the right \
                 store?"
            ));
        }
        if self.view == View::Missing {
            return self.out.text(&report.missing());
        }
        self.moved.insert(format!("store {title}: stored"), report.bytes());
        let mut text = report.text();
        if self.view == View::All {
            text += &report.table();
        }
        let state_dir = place.state.as_ref().map(|(dir, _)| dir.as_path());
        self.show(("store", title), state_dir, &text, &report.wrong(), || report.json());
    }

    /// How far the database of a store is behind it.
    fn documents(&mut self, config: &Config, state_dir: &Path) {
        let conf = match config.mongo(false) {
            Ok((conf, _)) => conf,
            Err(errors) => return self.refuse(&errors),
        };
        let filter = self.filter;
        // Who may not ask believes what is written there.
        let runs = crate::instance::is_running(state_dir) != Some(false);
        let asked = |key: &HourKey| filter.takes(key);
        let waits = match documents::waits::Waits::read(&self.disk, &conf, state_dir, runs, &asked) {
            Ok(waits) => waits,
            Err(e) => return self.fail(format_args!("mgocollector: {}", super::rights(&e))),
        };
        let title = format!("{}, {}YYYYMMDD.{}", conf.hosts(), conf.db, conf.collection);
        self.show(("database", &title), None, &waits.text(), &waits.wrong(), || waits.json());
    }

    /// Which hours have no rows.
    fn tables(&mut self, config: &Config, c: &StoreConfig, state_dir: &Path) {
        let rules = config.etl(false).map_or(Vec::new(), |(etl, _)| wrong_rules(&self.disk, &etl));
        let store = Store::new(&self.disk, &c.save_dir, state_dir, c.file_mode, c.dir_mode);
        let secs = self.now_ms.div_euclid(1000);
        let waits = match marks::Waits::read(&self.disk, &store, rules, secs) {
            Ok(waits) => waits,
            Err(e) => return self.fail(format_args!("etlcollector: {}", super::rights(&e))),
        };
        let title = c.save_dir.join("etl").display().to_string();
        self.show(("tables", &title), None, &waits.text(), &waits.wrong(), || waits.json());
    }

    /// Neither side of a store has ever been written. One that has served and lost its `save_dir` is another matter.
    fn untouched(&self, save_dir: &Path, state_dir: &Path) -> bool {
        let none = |path: &Path| matches!(self.disk.stat(path), Ok(None));
        none(&state_dir.join("role.json")) && PARTS.iter().all(|part| none(&save_dir.join(part)))
    }

    fn not_begun(&mut self, title: &str, role: Role, (dir, conf): (&Path, &SpoolConfig), keys: &Keys) {
        let role_word = role.command();
        let what =
            format!("it has not started yet; `logd {role_word} CONFIG` starts it and makes its directories");
        if self.view == View::Missing {
            return self.fail(format_args!("{title}: {what}"));
        }
        match Queue::read(&self.disk, dir, role, conf) {
            Ok(q) => {
                let text = format!("  {what}\n{}", keys.text());
                let wrong = [keys.wrong(), q.wrong(0, self.now_ms)].concat();
                self.show(("store", title), Some(dir), &text, &wrong, || {
                    json!({
                        "role": role_word, "save_dir": title, "hours": [], "queue": q.json(), "paused": null,
                        "keys": keys.json(),
                    })
                });
            }
            Err(e) => self.fail(format_args!("{role_word}: {}", super::rights(&e))),
        }
    }

    fn show(
        &mut self,
        (role, title): (&str, &str),
        state_dir: Option<&Path>,
        text: &str,
        wrong: &[String],
        json: impl FnOnce() -> Value,
    ) {
        let mut also = std::mem::take(&mut self.also);
        let stopped = state_dir.filter(|dir| instance::is_running(dir) == Some(false));
        let begun = stopped.and_then(|dir| instance::begun_by(&self.disk, dir));
        let begun = begun.filter(|(_, config)| !config.as_os_str().is_empty());
        if let Some((command, _)) = begun.filter(|_| !wrong.iter().any(|w| w.starts_with("NOT RUNNING"))) {
            also.insert(
                0,
                format!(
                    "NOT RUNNING: start it with `logd {command} CONFIG`, if it was not stopped on purpose"
                ),
            );
        }
        match self.view {
            View::Json => {
                let mut all = json();
                if let Some(map) = all.as_object_mut().filter(|_| !also.is_empty()) {
                    map.insert("also".into(), json!(also));
                }
                self.json.push(all);
            }
            View::Missing => {}
            View::Summary | View::All => {
                let running = match state_dir.map(instance::is_running) {
                    Some(Some(true)) => ", running",
                    Some(Some(false)) => ", NOT RUNNING",
                    _ => "",
                };
                let paint = if running == ", running" { Paint::Good } else { Paint::Bad };
                let running = self.out.paint(paint, running);
                self.out.line(format_args!("{role} {title}{running}"));
                self.out.text(text);
                if also.is_empty() && wrong.is_empty() {
                    self.out.line(self.out.paint(Paint::Good, "  nothing is wrong"));
                } else {
                    self.out.line(self.out.paint(Paint::Bad, "  wrong:"));
                    for one in also.iter().chain(wrong) {
                        self.out.line(format_args!("  - {one}"));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;

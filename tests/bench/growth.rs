//! Does anything cost more the more there is of it? On loopback, on one disk; each ratio from one run.
//!
//! **A larger hour**: a past hour of 50 MB (10^6 bytes) of access-log lines, and one of 500 MB, go from `logd tail` to
//! `logd fcollector` at level 1 until they are certified. *CPU*: user and system seconds of both processes from their starts
//! until the tag is there. The smaller one is shipped five times, the larger one once, the smaller one five times
//! again, and all of this twice: the kernel tells CPU time in hundredths of a second, and other load comes and goes.
//!
//! **More packs known**: packs of ten lines from [`super::load`], over 64 connections at once, to two collectors, of which
//! one has stored 10^3 packs before and the other 10^5. Each then gets 20,000 further ones, in turns of 4,000, so that
//! whatever else the machine does meets both. *CPU*: user and system time of all threads of a collector from before its first
//! turn until after its last, when all is in hour files and proofs. Once as one hour (whose packs come by 64 connections, many of
//! them before their turn), once as hours of 100 packs each, of up to a thousand hosts, until each has its tag. Stored
//! bytes are compared.
//!
//! **More hours in the store**: two collectors, and beside the hours of one stand the files of 25,200 certified hours, those
//! of 35 other hosts and 30 days with their days' tags. They are written by this program, without data files and with proofs
//! that nobody reads. Both get 60 hours of 100 packs, in turns of 20. *CPU* as above, until each hour has its tag.
//!
//! **Start-up**: seconds from starting the process until it says that it listens, with the files in the page cache.
//! Of the collectors with 10^5 packs after a clean stop, and after kill -9 with 20,000 acknowledged packs in the spool that no proof
//! has. Of the collector in whose store stand 25,200 certified hours. Of a follower with a journal of 10^5 sealed and acknowledged packs of the current hour, until it says that it follows.
//!
//! `LOGD_SOAK=1`: 5 GB too, 10^6 packs instead of 10^5, and 252,000 hours.

use super::lines;
use super::load::*;
use super::measure::*;
use super::support::{Node, Temp, assert_same, soak, store, tag, until};
use logd::clock::Zone;
use logd::disk::Disk;
use logd::integrity::Certificate;
use logd::journal::{Cut, Event, Journal};
use logd::pack::{HourKey, Seal};
use logd::record::to_json;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

const NAME: &str = "web-01.example.com";
const PATIENCE: Duration = Duration::from_mins(30);
/// What no cost may grow by.
const LEVEL: Target = Target::AtMost(1.1);

/// See the header.
pub fn growth(report: &mut Report) {
    raise_fd_limit();
    larger_hours(report);
    let many = if soak() { 1_000_000 } else { 100_000 };
    let pool = Pool::new(500, 10..=10);
    known(&pool, Shape::OneHour, many, report);
    known(&pool, Shape::ManyHours, many, report);
    older_store(&pool, if soak() { MUCH_OLDER } else { OLDER }, report);
    follower(many, report);
}

// ---- a larger hour ----

/// An hour file of so many MB, in a directory of its own.
fn source(temp: &Temp, megabytes: u64) -> PathBuf {
    let dir = temp.path(&format!("{megabytes}MB"));
    fs::create_dir_all(&dir).unwrap();
    let path = dir.join(format!("access.log.{}", hours_ago(2)));
    println!("{megabytes} MB: {}", lines::write(&path, megabytes * 1_000_000));
    path
}

/// CPU seconds of both ends: user and system time of the follower, then of the collector.
fn ship(source: &Path) -> [f64; 4] {
    let temp = scratch("grown");
    let mut store = collector(&temp, &[]);
    store.restart();
    let (to, hour) = (store.addr().to_string(), hours_ago(2).to_string());
    let pattern = source.with_file_name("access.log.<%Y%m%d%H>").display().to_string();
    let mut keys =
        vec![("log_file", pattern.as_str()), ("send_to", &to), ("name", NAME), ("timezone", "UTC")];
    keys.extend([("start", hour.as_str()), ("quiet", "0"), ("close_wait", "0"), ("compress_level", "1")]);
    let tail = Node::spawn(&temp, "web", "tail", &keys, &[]);
    let save = temp.path("save");
    let cert = until(PATIENCE, "the certificate", || tag(&save, NAME, &hour));
    let [tail_used, store_used] = [usage(&tail).cpu, usage(&store).cpu];
    assert_eq!(cert["verified"], true, "{cert}");
    drop((tail, store));
    assert_same(&save.join("log_data").join(format!("{NAME}_{hour}")), source);
    [tail_used.user, tail_used.sys, store_used.user, store_used.sys]
}

/// Ships a source so many times; the sum.
fn ships(source: &Path, times: u32) -> f64 {
    let mut sum = [0.0; 4];
    for _ in 0..times {
        sum.iter_mut().zip(ship(source)).for_each(|(all, one)| *all += one);
    }
    let [user, sys, store_user, store_sys] = sum;
    let what = source.parent().and_then(Path::file_name).unwrap().display();
    println!(
        "{what}, {times} times: CPU s of tail {user:.2} user, {sys:.2} system; of fcollector {store_user:.2} user, \
         {store_sys:.2} system"
    );
    sum.iter().sum()
}

fn larger_hours(report: &mut Report) {
    let temp = scratch("sources");
    let (small, large) = (source(&temp, 50), source(&temp, 500));
    // Not counted: a virtual machine gets memory for the page cache when it is first touched, at the cost of who does it.
    ship(&large);
    let (mut at_50, mut at_500) = (0.0, 0.0);
    for _ in 0..2 {
        // Ten of the smaller ones are as much as the larger one.
        at_50 += ships(&small, 5);
        at_500 += ships(&large, 1);
        at_50 += ships(&small, 5);
    }
    let (at_50, at_500) = (at_50 / 2.0, at_500 / 2.0);
    report.row("growth: CPU for 100 MB, in hours of 50 MB", at_50 / 5.0, "s", Target::None);
    report.row("growth: CPU for 100 MB, in an hour of 500 MB", at_500 / 5.0, "s", Target::None);
    report.row("growth: CPU per MB at 500 MB by that at 50 MB", at_500 / at_50, "", LEVEL);
    fs::remove_file(large).unwrap();
    if soak() {
        let at_5000 = ships(&source(&temp, 5_000), 1) / 10.0;
        report.row("growth: CPU for 100 MB, in an hour of 5 GB", at_5000 / 5.0, "s", Target::None);
        report.row("growth: CPU per MB at 5 GB by that at 50 MB", at_5000 / at_50, "", LEVEL);
    }
}

// ---- more packs known ----

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    OneHour,
    ManyHours,
}

impl Shape {
    fn label(self) -> &'static str {
        match self {
            Self::OneHour => "one hour",
            Self::ManyHours => "many hours",
        }
    }
}

/// Packs of an hour, where there are many hours.
const PER_HOUR: usize = 100;
const CONNECTIONS: usize = 64;
const HOSTS: usize = 1_000;
const BATCH: usize = 20_000;
/// Hours in an older store: 35 hosts for 30 days, and ten times as many.
const OLDER: usize = 35 * 30 * 24;
const MUCH_OLDER: usize = 10 * OLDER;
const TURN: usize = 4_000;

/// A collector, and all that it was sent.
struct Load<'a> {
    pool: &'a Pool,
    shape: Shape,
    temp: Temp,
    store: Node,
    hours: Vec<Sending>,
}

impl<'a> Load<'a> {
    fn new(pool: &'a Pool, shape: Shape, packs: usize) -> Self {
        let temp = scratch("known");
        let store = Self::prepare(&temp, "1s");
        let mut me = Self { pool, shape, temp, store, hours: Vec::new() };
        me.start();
        me.send(packs, true);
        me
    }

    fn prepare(temp: &Temp, checkpoint: &str) -> Node {
        collector(temp, &[("checkpoint", checkpoint)])
    }

    /// Seconds until it listens.
    fn start(&mut self) -> f64 {
        let begun = Instant::now();
        self.store.restart();
        self.store.ready();
        begun.elapsed().as_secs_f64()
    }

    /// The number of a new hour, of the next host.
    fn new_hour(&mut self) -> usize {
        let n = self.hours.len();
        self.hours.push(Sending::new(n % HOSTS, hours_ago(2 + (n / HOSTS) as u64)));
        n
    }

    /// Sends so many packs and waits until they are acknowledged; with `close`, whole hours where there are many.
    fn send(&mut self, packs: usize, close: bool) {
        let mut fleet = Fleet::connect(self.store.addr(), CONNECTIONS);
        let one =
            (self.shape == Shape::OneHour).then(|| if self.hours.is_empty() { self.new_hour() } else { 0 });
        let mut left = packs;
        // The hour that a connection sends, and how many of its packs are left.
        let mut mine = [(0, 0); CONNECTIONS];
        fleet.drive(|who| {
            if let Some(hour) = one {
                left = left.checked_sub(1)?;
                return Some(self.hours[hour].next(self.pool, false));
            }
            if mine[who].1 == 0 {
                left = left.checked_sub(PER_HOUR)?;
                mine[who] = (self.new_hour(), PER_HOUR);
            }
            let (hour, packs) = &mut mine[who];
            *packs -= 1;
            Some(self.hours[*hour].next(self.pool, close && *packs == 0))
        });
        assert_eq!(fleet.refused, 0, "the load is too much for the spool");
    }

    /// Waits until everything is in hour files and proofs, and has its tags.
    fn settle(&self) {
        let save = self.temp.path("save");
        until(PATIENCE, "all packs to be stored", || {
            let stored = |h: &Sending| h.stored(&save) == h.bytes(self.pool);
            if self.shape == Shape::OneHour {
                return self.hours.iter().all(stored).then_some(());
            }
            thread::sleep(Duration::from_millis(200));
            let tags = fs::read_dir(save.join("received")).unwrap();
            let mine =
                tags.filter(|t| t.as_ref().unwrap().file_name().as_encoded_bytes().starts_with(b"web-"));
            (mine.count() >= self.hours.len()).then_some(())
        });
        // The last checkpoint.
        thread::sleep(Duration::from_millis(1_500));
    }

    fn check(&self) {
        self.hours.iter().for_each(|h| h.check(self.pool, &self.temp.path("save")));
    }
}

fn known(pool: &Pool, shape: Shape, many: usize, report: &mut Report) {
    let what = format!("growth, {}", shape.label());
    let begun = Instant::now();
    let mut loads = [1_000, many].map(|packs| Load::new(pool, shape, packs));
    loads.iter().for_each(Load::settle);
    println!("{what}: {many} packs stored after {:.0} s", begun.elapsed().as_secs_f64());
    let before = [0, 1].map(|i| cpu(&loads[i].store));
    for _ in 0..BATCH / TURN {
        for l in &mut loads {
            l.send(TURN, true);
        }
    }
    loads.iter().for_each(Load::settle);
    let per_1000 = [0, 1].map(|i| (cpu(&loads[i].store) - before[i]) * 1e3 / (BATCH / 1_000) as f64);
    for (packs, used) in [1_000, many].iter().zip(per_1000) {
        report.row(&format!("{what}: CPU for 1,000 packs with {packs} known"), used, "ms", Target::None);
    }
    let ratio = per_1000[1] / per_1000[0];
    report.row(&format!("{what}: CPU per pack with {many} known packs by that with 1000"), ratio, "", LEVEL);
    for l in &loads {
        println!("{what}: RSS {:.1} MB", usage(&l.store).rss_mb);
    }

    let [mut small, mut large] = loads;
    assert_eq!(small.store.terminate(), 0);
    small.check();
    drop(small);
    let stopping = Instant::now();
    assert_eq!(large.store.terminate(), 0);
    println!("{what}: stopped cleanly in {:.2} s", stopping.elapsed().as_secs_f64());
    large.check();
    // From here on nothing becomes durable but the spool.
    large.store = Load::prepare(&large.temp, "1h");
    let clean = large.start();
    report.row(
        &format!("{what}: start-up with {many} packs after a clean stop"),
        clean,
        "s",
        Target::AtMost(2.0),
    );
    large.send(BATCH, false);
    large.store.kill();
    let killed = large.start();
    let what = format!("{what}: start-up with {many} packs after kill -9 with {BATCH} in the spool");
    report.row(&what, killed, "s", Target::AtMost(2.0));
    let said = large.store.log();
    assert!(said.contains(&format!("{BATCH} packs of the spool to be applied")), "{said}");
    assert_eq!(large.store.terminate(), 0);
    large.check();
}

// ---- an older store ----

/// Puts the files of so many certified hours of other hosts beside those of a collector that does not run.
fn grow_older(temp: &Temp, hours: usize) {
    let [headers, received, closed] =
        ["save/headers", "save/received", "store.state/closed"].map(|d| temp.path(d));
    let zone = Zone::named("UTC").unwrap();
    // Whole days, none of which the load has.
    let first = zone.starts_ms(hours_ago(0).day_of()).unwrap() - 60 * 24 * 3_600_000;
    for n in 0..hours {
        let hour = zone.hour_at(first + (n % (30 * 24)).cast_signed() as i64 * 3_600_000);
        let key = HourKey { name: format!("old-{:05}", n / (30 * 24)), hour };
        let cert = Certificate {
            format: 1,
            name: key.name.clone(),
            hour,
            generation: 0,
            revision: 1,
            packs: 1,
            lines: 1,
            bytes: 7,
            digest: String::new(),
            sha256: String::new(),
            verified: true,
            authentic: false,
            empty: false,
            state: String::new(),
            loss: String::new(),
            day_hours: 24,
            cut: String::new(),
            certified: 0,
        };
        let json = to_json(&cert);
        let files = [
            (headers.join(key.to_string()), &b"{}\n"[..]),
            (received.join(cert.tag_name()), &json),
            (closed.join(key.to_string()), &json),
        ];
        for (path, content) in files {
            fs::write(path, content).unwrap();
        }
        if hour.hour() == Some(23) {
            fs::write(received.join(format!("{}_{}", key.name, hour.day_of())), "{}").unwrap();
        }
    }
    // Writing all of this to the disk is not the collector's.
    rustix::fs::sync();
}

fn older_store(pool: &Pool, hours: usize, report: &mut Report) {
    let mut loads = [0, hours].map(|_| Load::new(pool, Shape::ManyHours, 1_000));
    loads.iter().for_each(Load::settle);
    assert_eq!(loads[1].store.terminate(), 0);
    grow_older(&loads[1].temp, hours);
    let seconds = loads[1].start();
    let what = format!("growth: start-up with {hours} certified hours in the store");
    report.row(&what, seconds, "s", Target::AtMost(2.0));
    let before = [0, 1].map(|i| cpu(&loads[i].store));
    let (turns, turn) = (3, 20);
    for _ in 0..turns {
        for l in &mut loads {
            l.send(turn * PER_HOUR, true);
        }
        loads.iter().for_each(Load::settle);
    }
    let used = [0, 1].map(|i| (cpu(&loads[i].store) - before[i]) * 1e3 / (turns * turn) as f64);
    for (hours, used) in [0, hours].iter().zip(used) {
        let what = format!("growth: CPU for an hour of {PER_HOUR} packs with {hours} others in the store");
        report.row(&what, used, "ms", Target::None);
    }
    let what = format!("growth: CPU for an hour with {hours} others in the store by that with none");
    report.row(&what, used[1] / used[0], "", LEVEL);
    for mut l in loads {
        assert_eq!(l.store.terminate(), 0);
        l.check();
    }
}

// ---- the follower ----

/// Lets a follower begin an hour, puts further packs into its journal while it is stopped, and starts it again.
fn follower(packs: usize, report: &mut Report) {
    let temp = scratch("journal");
    let (hour, mut collector) = (hours_ago(0), store(&temp, &[]));
    let path = temp.file(&format!("access.log.{hour}"), "a line\n");
    let pattern = temp.path("access.log.<%Y%m%d%H>").display().to_string();
    let to = collector.addr().to_string();
    let mut keys =
        vec![("log_file", pattern.as_str()), ("send_to", &to), ("name", NAME), ("timezone", "UTC")];
    keys.push(("flush_interval", "100ms"));
    let mut tail = Node::start(&temp, "web", "tail", &keys, &[]);
    let stored = temp.path("save").join("log_data").join(format!("{NAME}_{hour}"));
    until(PATIENCE, "the first pack", || fs::metadata(&stored).ok().filter(|m| m.len() > 0));
    assert_eq!(tail.terminate(), 0);

    let state = temp.path("web.state");
    let mut journal = Journal::open(&Disk::real(), &state, true, &mut |t| panic!("{t}")).unwrap().0;
    let (key, log) = journal.hours().iter().next().map(|(k, l)| (k.to_string(), l.clone())).unwrap();
    let (mut id, mut pos, mut raw, mut all) = (log.next_id(), log.pos, String::new(), String::new());
    let mut count = 0;
    lines::each(|line| {
        raw.push_str(line);
        count += 1;
        if count < 10 {
            return true;
        }
        let cut = Cut::new(id, pos, count, &Seal::of(raw.as_bytes()), false);
        (id, pos) = (id + 1, cut.end);
        journal.append(&Event::Cut { hour: key.clone(), cut });
        all.write_str(&raw).unwrap();
        raw.clear();
        count = 0;
        id <= packs as u64
    });
    let ids: Vec<u64> = (log.next_id()..id).collect();
    for ids in ids.chunks(1_000) {
        let (hour, ids) = (key.clone(), ids.to_vec());
        journal.append(&Event::Acked { hour, generation: log.generation, ids, to: None });
    }
    journal.commit().unwrap();
    drop(journal);
    OpenOptions::new().append(true).open(&path).unwrap().write_all(all.as_bytes()).unwrap();

    let begun = Instant::now();
    tail.restart();
    let said = tail.says("following ");
    let seconds = begun.elapsed().as_secs_f64();
    assert!(said.contains(&format!("from byte {pos} ")), "{said}");
    let what = format!("growth: start-up of a follower with {packs} packs in its journal");
    report.row(&what, seconds, "s", Target::AtMost(2.0));
    println!("growth: the follower's RSS is {:.1} MB then", usage(&tail).rss_mb);
}

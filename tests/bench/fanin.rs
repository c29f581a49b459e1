//! One collector, many senders, on loopback. Packs are made by [`super::load`]: 500 packs of access-log lines, deflated at level 6
//! before time counts, which hours take in turn; the senders are one thread of this program, with an epoll.
//!
//! **A thousand senders**, each with a connection and an address of its own in 127.0.0.0/8, a name and an hour file of its own;
//! packs of 20 to 200 lines (about 25 kB). 500 packs a second are due, evenly, for 30 s, each sender's turn comes every 2 s. In
//! the middle all of them change the hour: within 2 s each sends the last pack of the first hour, and goes on with the next.
//! Both hours are in the past. At the end every first hour must have its tag, `verified`, and every stored byte is compared
//! with what was sent.
//!
//! - *packs a second*: packs by the time from the first one's turn to the last `ok`.
//! - *ack time*: from the moment at which the frame is handed to the socket until `ok` was read, by this program's monotonic
//!   clock. *From its turn on*: the same from the moment at which the pack was due. A sender whose last pack is not
//!   acknowledged waits, and its next pack's second time shows it.
//! - *CPU*: user and system time of all threads of the collector from the first pack until the last of the thousand tags,
//!   with the reading again that comes before a tag.
//! - *RSS*: the most memory that it ever had (`VmHWM`), MB = 10^6 bytes.
//! - *fsyncs*: all fsync and fdatasync calls of the collector from its start to the end of its clean stop (spool, data, proofs,
//!   tags, directories), by the packs. `perf stat` counts them in the kernel, in the same run.
//! - *told to wait*: a sender that gets `busy` sends the pack again 200 ms later over a new connection; its ack time goes on.
//!
//! **Fifty busy senders**, the same packs: each sends its next one as soon as it has read `ok`, for 15 s, one hour each. The same
//! numbers; *CPU* until the last pack is in its hour file. Stored bytes are compared.

use super::load::*;
use super::measure::*;
use super::support::{Node, SOON, Temp, until};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

const SENDERS: usize = 1_000;
const PER_SECOND: u64 = 500;
/// Turns of each sender in the measured run.
const ROUNDS: u64 = 15;
const BUSY: usize = 50;
/// Longer than the receiver lets a body wait for room.
const PATIENCE: Duration = Duration::from_mins(2);

/// See the header.
pub fn fanin(report: &mut Report) {
    raise_fd_limit();
    let pool = Pool::new(500, 20..=200);
    println!("packs: mean {:.1} kB of lines", pool.mean() / 1e3);
    let what = format!("fanin, {SENDERS} senders");
    paced(&pool, report, &what);
    let what = format!("fanin, {BUSY} busy senders");
    busy(&pool, report, &what);
}

fn started(temp: &Temp) -> Node {
    let mut store = collector(temp, &[]);
    store.restart();
    store.ready();
    store
}

/// Milliseconds that half and 99 of 100 do not exceed, and the longest one.
fn percentiles(times: &mut [Duration]) -> [f64; 3] {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e3;
    [at(50), at(99), at(100)]
}

fn rows_of_times(report: &mut Report, what: &str, times: &mut [Duration], p99: Target) {
    let [half, most, max] = percentiles(times);
    report.row(&format!("{what}, p50"), half, "ms", Target::None);
    report.row(&format!("{what}, p99"), most, "ms", p99);
    report.row(&format!("{what}, max"), max, "ms", Target::None);
}

/// The collector has ended.
fn row_of_syncs(report: &mut Report, what: &str, counter: Option<SyncCounter>, packs: f64, target: Target) {
    let Some(counter) = counter else {
        return println!(
            "{what}: fsyncs are not counted: there is no perf, or it may not count system calls here"
        );
    };
    report.row(&format!("{what}: fsyncs"), counter.end() as f64 / packs, "a pack", target);
}

// ---- a thousand ----

struct Paced<'a> {
    pool: &'a Pool,
    rounds: u64,
    /// The hour before the change, and the one after it.
    hours: [Vec<Sending>; 2],
    /// Ack times, from the socket and from the pack's turn on.
    acks: Vec<Duration>,
    turns: Vec<Duration>,
}

impl<'a> Paced<'a> {
    fn new(pool: &'a Pool, rounds: u64) -> Self {
        let hours = [3, 2].map(hours_ago).map(|h| (0..SENDERS).map(|host| Sending::new(host, h)).collect());
        Self { pool, rounds, hours, acks: Vec::new(), turns: Vec::new() }
    }

    fn packs(&self) -> u64 {
        self.rounds * SENDERS as u64
    }

    /// The next frame of a sender, in its turn of this round.
    fn frame(&mut self, who: usize, round: u64) -> Vec<u8> {
        let last = self.rounds / 2;
        self.hours[usize::from(round > last)][who].next(self.pool, round == last)
    }

    /// Seconds until everything was acknowledged.
    fn run(&mut self, fleet: &mut Fleet) -> f64 {
        let begun = Instant::now();
        let due = |n: u64| begun + Duration::from_secs(n) / PER_SECOND as u32;
        // How many turns each sender has used, and how many it has had.
        let (mut used, mut had) = (vec![0u64; SENDERS], vec![0u64; SENDERS]);
        let (mut next, mut last) = (0, begun);
        while (self.acks.len() as u64) < self.packs() {
            let mut ready = Vec::new();
            while next < self.packs() && due(next) <= Instant::now() {
                let who = next as usize % SENDERS;
                had[who] += 1;
                next += 1;
                ready.push(who);
            }
            if ready.is_empty() {
                let wait = if next < self.packs() { due(next) } else { Instant::now() + SOON };
                for (who, took) in fleet.answers(wait.saturating_duration_since(Instant::now())) {
                    last = Instant::now();
                    self.acks.push(took);
                    self.turns.push(due((used[who] - 1) * SENDERS as u64 + who as u64).elapsed());
                    ready.push(who);
                }
                assert!(last.elapsed() < PATIENCE, "no answer in {PATIENCE:?}");
            }
            for who in ready {
                if fleet.is_free(who) && used[who] < had[who] {
                    let frame = self.frame(who, used[who]);
                    used[who] += 1;
                    fleet.send(who, frame);
                }
            }
        }
        begun.elapsed().as_secs_f64()
    }

    /// Waits until every first hour has its tag, and looks what it says.
    fn certified(&self, save: &Path) {
        let found = until(Duration::from_mins(3), "a tag for every host", || {
            Some(tags(save, hours_ago(3))).filter(|t| t.len() >= SENDERS)
        });
        for (host, hour) in self.hours[0].iter().enumerate() {
            let tag: Value = serde_json::from_slice(&fs::read(&found[&name(host)]).unwrap()).unwrap();
            assert_eq!(
                (&tag["verified"], tag["packs"].as_u64()),
                (&true.into(), Some(hour.packs())),
                "{tag}"
            );
        }
    }
}

fn paced(pool: &Pool, report: &mut Report, what: &str) {
    let temp = scratch("fanin");
    let save = temp.path("save");
    let mut store = started(&temp);
    let counter = SyncCounter::of(&store, &temp);
    let begun = Instant::now();
    let mut fleet = Fleet::connect(store.addr(), SENDERS);
    println!("{what}: connected after {:.2} s", begun.elapsed().as_secs_f64());
    let (before, own) = (cpu(&store), own_cpu());
    let mut load = Paced::new(pool, ROUNDS);
    let seconds = load.run(&mut fleet);
    let own = (own_cpu() - own) / seconds;
    let waiting = Instant::now();
    load.certified(&save);
    let used = cpu(&store) - before;
    println!("{what}: the last tag {:.2} s after the last pack", waiting.elapsed().as_secs_f64());
    let (packs, threads, rss) = (load.packs() as f64, store.proc_status("Threads"), usage(&store).rss_mb);
    let refused = fleet.refused;
    drop(fleet);
    assert_eq!(store.terminate(), 0);
    load.hours.iter().flatten().for_each(|h| h.check(pool, &save));

    println!("{what}: {refused} packs were told to wait; {:.0} % of a core for making the load", own * 100.0);
    report.row(
        &format!("{what}: packs"),
        packs / seconds,
        "a second",
        Target::AtLeast(PER_SECOND as f64 * 0.98),
    );
    let p99 = Target::AtMost(500.0);
    rows_of_times(report, &format!("{what}: ack time"), &mut load.acks, p99);
    rows_of_times(report, &format!("{what}: ack time from its turn on"), &mut load.turns, Target::None);
    report.row(&format!("{what}: CPU"), used * 1e3 / packs, "ms a pack", Target::None);
    report.row(&format!("{what}: RSS"), rss, "MB", Target::AtMost(200.0));
    report.row(&format!("{what}: threads"), threads as f64, "", Target::None);
    row_of_syncs(report, what, counter, packs, Target::None);
}

// ---- fifty ----

/// The hours that were sent, and the ack times.
fn closed_loop(fleet: &mut Fleet, pool: &Pool, time: Duration) -> (Vec<Sending>, Vec<Duration>) {
    let mut hours: Vec<Sending> = (0..BUSY).map(|host| Sending::new(host, hours_ago(2))).collect();
    let end = Instant::now() + time;
    let times = fleet.drive(|who| (Instant::now() < end).then(|| hours[who].next(pool, false)));
    (hours, times)
}

fn busy(pool: &Pool, report: &mut Report, what: &str) {
    let temp = scratch("busy");
    let mut store = started(&temp);
    let counter = SyncCounter::of(&store, &temp);
    let mut fleet = Fleet::connect(store.addr(), BUSY);
    let (before, own, begun) = (cpu(&store), own_cpu(), Instant::now());
    let (hours, mut times) = closed_loop(&mut fleet, pool, Duration::from_secs(15));
    let (seconds, own) = (begun.elapsed().as_secs_f64(), own_cpu() - own);
    let (rss, refused) = (usage(&store).rss_mb, fleet.refused);
    drop(fleet);
    // What was acknowledged and is not applied yet belongs to the packs' cost.
    let (save, waiting) = (temp.path("save"), Instant::now());
    until(Duration::from_mins(3), "all packs to be applied", || {
        hours.iter().all(|h| h.stored(&save) == h.bytes(pool)).then_some(())
    });
    let applied = waiting.elapsed().as_secs_f64();
    let used = cpu(&store) - before;
    assert_eq!(store.terminate(), 0);
    for h in &hours {
        h.check(pool, &save);
    }

    let own = own / seconds * 100.0;
    println!("{what}: {refused} packs were told to wait; {own:.0} % of a core for making the load");
    println!("{what}: all in the hour files {applied:.2} s after the last pack");
    let packs = times.len() as f64;
    report.row(&format!("{what}: packs"), packs / seconds, "a second", Target::None);
    rows_of_times(report, &format!("{what}: ack time"), &mut times, Target::None);
    report.row(&format!("{what}: CPU"), used * 1e3 / packs, "ms a pack", Target::None);
    report.row(&format!("{what}: RSS"), rss, "MB", Target::None);
    row_of_syncs(report, what, counter, packs, Target::AtMost(0.2));
}

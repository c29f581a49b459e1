//! Numbers about this process for Prometheus: counters and gauges, and the text of `/metrics`.
//!
//! They are plain atomics that live as long as the process, counted where the event is, and cost as much as an
//! addition. Each is in the one table [`ALL`], from which the text is written; the manual has the same names, and a test
//! compares them. What a role never counts it does not show. A process that tests run several roles in counts for all.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Roles that have a metric, as bits.
pub type Roles = u8;
/// `logd tail`.
pub const TAIL: Roles = 1;
/// `logd collector`.
pub const RELAY: Roles = 2;
/// `logd fcollector`.
pub const STORE: Roles = 4;
/// `logd monitor`.
pub const MONITOR: Roles = 8;
/// `logd etlcollector`, beside what a store has.
pub const TABLES: Roles = 16;
/// `logd mgocollector`, beside what a store has.
pub const DATABASE: Roles = 32;

const SENDS: Roles = TAIL | RELAY;
const TAKES: Roles = RELAY | STORE;
const WRITES: Roles = TAIL | RELAY | STORE;
const EVERY: Roles = TAIL | RELAY | STORE | MONITOR;

/// What a number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A gauge that is kept in milliseconds and shown in seconds.
    GaugeMs,
}

/// One number. Those of one name stand together in [`ALL`] and differ in their label.
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What it tells, for people.
    pub help: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Its label and the value of that; empty = none.
    pub label: (&'static str, &'static str),
    roles: Roles,
    value: AtomicU64,
}

impl Metric {
    const fn new(name: &'static str, kind: Kind, roles: Roles, help: &'static str) -> Self {
        Self { name, help, kind, label: ("", ""), roles, value: AtomicU64::new(0) }
    }

    const fn counter(name: &'static str, roles: Roles, help: &'static str) -> Self {
        Self::new(name, Kind::Counter, roles, help)
    }

    const fn gauge(name: &'static str, roles: Roles, help: &'static str) -> Self {
        Self::new(name, Kind::Gauge, roles, help)
    }

    const fn of(self, label: &'static str, value: &'static str) -> Self {
        Self { label: (label, value), ..self }
    }

    /// Counts `n` more.
    pub fn add(&self, n: u64) {
        self.value.fetch_add(n, Ordering::Relaxed);
    }

    /// Counts one more.
    pub fn inc(&self) {
        self.add(1);
    }

    /// One less, of a gauge.
    pub fn dec(&self) {
        self.value.fetch_sub(1, Ordering::Relaxed);
    }

    /// Sets a gauge.
    pub fn set(&self, n: u64) {
        self.value.store(n, Ordering::Relaxed);
    }

    /// The number now.
    pub fn get(&self) -> u64 {
        self.value.load(Ordering::Relaxed)
    }
}

macro_rules! metrics {
    ($($(#[$doc:meta])* $name:ident = $make:expr;)*) => {
        $($(#[$doc])* pub static $name: Metric = $make;)*

        /// All of them, in the order of the text.
        pub static ALL: &[&Metric] = &[$(&$name,)*];
    };
}

const fn send_failure(reason: &'static str) -> Metric {
    let help = "Attempts with a pack that did not end with its acknowledgement; the pack is sent again.";
    Metric::counter("logd_send_failures_total", SENDS, help).of("reason", reason)
}

const fn refused(reason: &'static str) -> Metric {
    let help = "Packs that were refused; their senders keep them.";
    Metric::counter("logd_refused_packs_total", TAKES, help).of("reason", reason)
}

const fn rejected(reason: &'static str) -> Metric {
    let help = "Connections of senders that were closed at once.";
    Metric::counter("logd_rejected_connections_total", TAKES, help).of("reason", reason)
}

const fn certified(state: &'static str) -> Metric {
    let help = "Hours that were read again and filed, once for each time.";
    Metric::counter("logd_certifications_total", STORE, help).of("state", state)
}

const fn tabled(result: &'static str) -> Metric {
    let help = "Hours whose lines were made rows, once for each time, by what came of it.";
    Metric::counter("logd_etl_hours_total", TABLES, help).of("result", result)
}

const fn hours(state: &'static str) -> Metric {
    let help = "Hours that the page shows, by state.";
    Metric::gauge("logd_hour_states", STORE | MONITOR, help).of("state", state)
}

const fn nodes(state: &'static str) -> Metric {
    let help = "Nodes that the monitor knows, by whether they answer.";
    Metric::gauge("logd_nodes", MONITOR, help).of("state", state)
}

const fn beats(result: &'static str) -> Metric {
    let help = "Questions to nodes for their heart-beat, by what came of them.";
    Metric::counter("logd_heart_beats_total", MONITOR, help).of("result", result)
}

const fn node_messages(result: &'static str) -> Metric {
    let help = "Messages of nodes that came in, by what became of them.";
    Metric::counter("logd_node_messages_total", MONITOR, help).of("result", result)
}

const fn messages(level: &'static str) -> Metric {
    let help = "Messages of the program, repetitions too.";
    Metric::counter("logd_messages_total", EVERY, help).of("level", level)
}

const fn answers(code: &'static str) -> Metric {
    let help = "Requests for the page, the metrics and the like, by the answer's code.";
    Metric::counter("logd_http_requests_total", EVERY, help).of("code", code)
}

metrics! {
    /// When the process began (unix time).
    START = Metric::new("logd_start_time_seconds", Kind::GaugeMs, EVERY, "When the process started, in unix time.");

    /// Packs that a follower has cut.
    SEALED_PACKS = Metric::counter("logd_sealed_packs_total", TAIL, "Packs that were cut from log files.");
    /// Their lines.
    SEALED_LINES = Metric::counter("logd_sealed_lines_total", TAIL, "Lines that were read from log files and cut into packs.");
    /// Their raw bytes.
    SEALED_BYTES = Metric::counter("logd_sealed_bytes_total", TAIL, "Bytes that were read from log files and cut into packs.");

    /// Packs that the next receiver has acknowledged.
    SENT_PACKS = Metric::counter("logd_sent_packs_total", SENDS, "Packs that the receiver has acknowledged.");
    /// Bytes on the wire of these.
    SENT_WIRE_BYTES = Metric::counter("logd_sent_wire_bytes_total", SENDS, "Bytes of acknowledged packs as they were sent, compressed and with their headers.");
    /// Lines in these.
    SENT_LINES = Metric::counter("logd_sent_lines_total", TAIL, "Lines in acknowledged packs.");
    /// Raw bytes in these.
    SENT_BYTES = Metric::counter("logd_sent_bytes_total", TAIL, "Bytes of lines in acknowledged packs.");
    /// No connection came about.
    FAILED_CONNECTION = send_failure("no connection");
    /// No answer came.
    FAILED_ANSWER = send_failure("no answer");
    /// The receiver asked to wait.
    FAILED_BUSY = send_failure("busy");
    /// The receiver refused.
    FAILED_REFUSED = send_failure("refused");

    /// Packs that came in whole and were what their headers say.
    RECEIVED_PACKS = Metric::counter("logd_received_packs_total", TAKES, "Packs that came in and were acknowledged, those that came again too.");
    /// Their compressed bytes.
    RECEIVED_WIRE_BYTES = Metric::counter("logd_received_wire_bytes_total", TAKES, "Bytes of these packs as they came, compressed, without their headers.");
    /// Their lines.
    RECEIVED_LINES = Metric::counter("logd_received_lines_total", TAKES, "Lines in these packs.");
    /// Their raw bytes.
    RECEIVED_BYTES = Metric::counter("logd_received_bytes_total", TAKES, "Bytes of lines in these packs.");
    /// Packs that were here already.
    KNOWN_PACKS = Metric::counter("logd_known_packs_total", TAKES, "Packs that came again and were not taken twice.");
    /// The header or the body is wrong.
    REFUSED_WRONG = refused("wrong");
    /// Come again later.
    REFUSED_BUSY = refused("busy");
    /// No key, or a wrong one.
    REFUSED_DENIED = refused("denied");
    /// What came was no frame.
    REFUSED_CLOSED = refused("no frame");

    /// Packs applied to hour files.
    STORED_PACKS = Metric::counter("logd_stored_packs_total", STORE, "Packs that were written to hour files.");
    /// Their lines.
    STORED_LINES = Metric::counter("logd_stored_lines_total", STORE, "Lines that were written to hour files.");
    /// Their raw bytes.
    STORED_BYTES = Metric::counter("logd_stored_bytes_total", STORE, "Bytes that were written to hour files.");
    /// Hours whose rows were put in place.
    TABLED_HOURS = tabled("done");
    /// Hours that failed.
    FAILED_HOURS = tabled("failed");
    /// Hours in `etl_fail`.
    HOURS_WITHOUT_ROWS = Metric::gauge("logd_etl_failed_hours", TABLES, "Hours whose rows could not be made; they are in etl_fail.");
    /// Rows put in place.
    ROWS = Metric::counter("logd_etl_rows_total", TABLES, "Rows that were put in place.");
    /// Lines that could not be read.
    REJECTED_LINES = Metric::counter("logd_etl_rejected_lines_total", TABLES, "Lines of these hours that could not be read; they are in etl_reject.");
    /// Hours that wait for a worker.
    WAITING_HOURS = Metric::gauge("logd_etl_waiting_hours", TABLES, "Whole hours whose rows are not made yet.");
    /// Lines that a database has acknowledged.
    DOCUMENTS = Metric::counter("logd_documents_total", DATABASE, "Lines that the database has acknowledged as documents or changes of them.");
    /// Lines that can be no document.
    REJECTED_DOCUMENTS = Metric::counter("logd_rejected_documents_total", DATABASE, "Lines that can be no document; they are in documents_reject.");
    /// Hours that wait for a saver.
    WAITING_DOCUMENTS = Metric::gauge("logd_documents_waiting_hours", DATABASE, "Hours with lines that wait for the database, or are being written to it.");
    /// Tags of verified hours.
    CERTIFIED_VERIFIED = certified("verified");
    /// Tags of hours without bytes.
    CERTIFIED_EMPTY = certified("empty");
    /// Tags of hours of an original sender.
    CERTIFIED_UNVERIFIED = certified("unverified");
    /// No tag.
    CERTIFIED_DOUBTFUL = certified("doubtful");
    /// See [`set_hours`].
    HOURS_VERIFIED = hours("verified");
    /// See [`set_hours`].
    HOURS_EMPTY = hours("empty");
    /// See [`set_hours`].
    HOURS_UNVERIFIED = hours("unverified");
    /// See [`set_hours`].
    HOURS_OPEN = hours("open");
    /// See [`set_hours`].
    HOURS_DOUBTFUL = hours("doubtful");
    /// See [`set_hours`].
    HOURS_GAPS = hours("gaps");
    /// See [`set_hours`].
    HOURS_CONFLICT = hours("conflict");
    /// See [`set_hours`].
    HOURS_NO_DATA = hours("no data");

    /// Bytes in the spool.
    SPOOL_BYTES = Metric::gauge("logd_spool_bytes", WRITES, "Disk space that the spool takes.");
    /// What it may take.
    SPOOL_LIMIT = Metric::gauge("logd_spool_limit_bytes", WRITES, "Disk space that the spool may take (spool_size).");
    /// Packs in it that are not done.
    SPOOL_PACKS = Metric::gauge("logd_spool_packs", WRITES, "Packs in the spool that are not yet sent, or not yet stored.");
    /// Packs that are not acknowledged.
    WAITING_PACKS = Metric::gauge("logd_waiting_packs", SENDS, "Packs that the receiver has not acknowledged, wherever they wait.");
    /// Age of the oldest of these.
    LAG = Metric::new("logd_lag_seconds", Kind::GaugeMs, WRITES, "Age of the oldest line or pack that is not yet acknowledged by the receiver or, of a store, not yet in its hour file.");
    /// What of the followed files is in no pack.
    UNREAD_BYTES = Metric::gauge("logd_unread_bytes", TAIL, "Bytes of followed files that are not yet cut into packs.");
    /// The disk lacks room.
    PAUSED = Metric::gauge("logd_paused", WRITES, "1 while nothing is taken because the disk is nearly full, else 0.");

    /// Open connections of senders.
    CONNECTIONS = Metric::gauge("logd_connections", TAKES, "Connections of senders that are open.");
    /// Connections that were taken.
    ACCEPTED = Metric::counter("logd_accepted_connections_total", TAKES, "Connections of senders that were taken.");
    /// Not in `allow`.
    REJECTED_ALLOW = rejected("not allowed");
    /// Too many of one address, or in all.
    REJECTED_LIMIT = rejected("limit");
    /// Made room for others.
    EVICTED = Metric::counter("logd_evicted_connections_total", TAKES, "Connections of senders that were closed because others wanted to connect.");

    /// Nodes that answer.
    NODES_UP = nodes("up");
    /// Nodes that do not.
    NODES_DOWN = nodes("down");
    /// Nodes that were stopped.
    NODES_STOPPED = nodes("stopped");
    /// Nodes that were not asked, or must not be.
    NODES_NOT_ASKED = nodes("not asked");
    /// A heart-beat came.
    BEATS_ANSWERED = beats("answered");
    /// None came.
    BEATS_MISSED = beats("missed");
    /// Outages.
    OUTAGES = Metric::counter("logd_outages_total", MONITOR, "Outages of nodes that have begun.");
    /// Messages that were recorded.
    NODE_MESSAGES_KEPT = node_messages("kept");
    /// Messages that could not be recorded.
    NODE_MESSAGES_DROPPED = node_messages("dropped");
    /// What a database lacks.
    DATABASE_QUEUE = Metric::gauge("logd_database_queue_events", MONITOR, "Events that the database does not have yet.");

    /// Messages that a tap had no room for.
    UNSENT_MESSAGES = Metric::counter("logd_unsent_messages_total", WRITES, "Messages of the program that were too many to wait for the monitor; they are in this host's log only.");
    /// Errors in the log.
    ERRORS = messages("error");
    /// Warnings in the log.
    WARNINGS = messages("warning");

    /// Good answers.
    HTTP_OK = answers("200");
    /// Requests that are none.
    HTTP_BAD = answers("4xx");
    /// Too many requests.
    HTTP_MANY = answers("429");
    /// Not well, or not yet known.
    HTTP_UNWELL = answers("503");
}

/// The states of [`set_hours`].
pub static HOURS: &[&Metric] = &[
    &HOURS_VERIFIED,
    &HOURS_EMPTY,
    &HOURS_UNVERIFIED,
    &HOURS_OPEN,
    &HOURS_DOUBTFUL,
    &HOURS_GAPS,
    &HOURS_CONFLICT,
    &HOURS_NO_DATA,
];

/// Counts hours by their state.
pub fn set_hours<'a>(states: impl Iterator<Item = &'a str>) {
    let mut counts = vec![0u64; HOURS.len()];
    for state in states {
        let at = HOURS.iter().position(|m| m.label.1 == state);
        if let Some(n) = at.and_then(|at| counts.get_mut(at)) {
            *n = n.saturating_add(1);
        }
    }
    HOURS.iter().zip(counts).for_each(|(metric, n)| metric.set(n));
}

/// How long something took.
pub struct Histogram {
    /// Its name.
    pub name: &'static str,
    /// What it tells, for people.
    pub help: &'static str,
    roles: Roles,
    buckets: [AtomicU64; BOUNDS_US.len()],
    beyond: AtomicU64,
    sum_us: AtomicU64,
}

/// Upper bounds of the buckets in µs.
const BOUNDS_US: [u64; 12] =
    [100, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000];

/// Syncs of files and directories.
pub static FSYNC: Histogram = Histogram {
    name: "logd_fsync_seconds",
    help: "How long it took to make a file or a directory durable.",
    roles: EVERY,
    buckets: [const { AtomicU64::new(0) }; BOUNDS_US.len()],
    beyond: AtomicU64::new(0),
    sum_us: AtomicU64::new(0),
};

impl Histogram {
    /// Counts one.
    pub fn observe(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let fits = BOUNDS_US.iter().zip(&self.buckets).find(|(bound, _)| us <= **bound);
        fits.map_or(&self.beyond, |(_, bucket)| bucket).fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    fn write(&self, out: &mut String) {
        let name = self.name;
        head(out, name, self.help, "histogram");
        let mut sum: u64 = 0;
        for (bound, bucket) in BOUNDS_US.iter().zip(&self.buckets) {
            sum = sum.saturating_add(bucket.load(Ordering::Relaxed));
            let _ = writeln!(out, "{name}_bucket{{le=\"{}\"}} {sum}", *bound as f64 / 1e6);
        }
        sum = sum.saturating_add(self.beyond.load(Ordering::Relaxed));
        let _ = writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {sum}");
        let _ = writeln!(out, "{name}_sum {}", self.sum_us.load(Ordering::Relaxed) as f64 / 1e6);
        let _ = writeln!(out, "{name}_count {sum}");
    }
}

/// The name of the metric that is always 1 and tells version and role.
const BUILD: &str = "logd_build_info";

/// Every name that the text can have, without the suffixes of a histogram.
pub fn names() -> Vec<&'static str> {
    let mut all = vec![BUILD, FSYNC.name];
    all.extend(ALL.iter().map(|m| m.name));
    all.sort_unstable();
    all.dedup();
    all
}

fn head(out: &mut String, name: &str, help: &str, kind: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// The text of `/metrics` for a role; `word` is that role's name.
pub fn text(roles: Roles, word: &str) -> String {
    let mut out = String::with_capacity(8 << 10);
    head(&mut out, BUILD, "Always 1; the labels tell the version and the role.", "gauge");
    let version = env!("CARGO_PKG_VERSION");
    let _ = writeln!(out, "{BUILD}{{version=\"{version}\",role=\"{word}\"}} 1");
    let mut last = "";
    for m in ALL.iter().filter(|m| m.roles & roles != 0) {
        if std::mem::replace(&mut last, m.name) != m.name {
            head(&mut out, m.name, m.help, if m.kind == Kind::Counter { "counter" } else { "gauge" });
        }
        out.push_str(m.name);
        if !m.label.0.is_empty() {
            let _ = write!(out, "{{{}=\"{}\"}}", m.label.0, m.label.1);
        }
        let _ = match m.kind {
            Kind::GaugeMs => writeln!(out, " {}", m.get() as f64 / 1e3),
            Kind::Counter | Kind::Gauge => writeln!(out, " {}", m.get()),
        };
    }
    if FSYNC.roles & roles != 0 {
        FSYNC.write(&mut out);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_follow_the_conventions() {
        let mut seen = BTreeSet::new();
        let mut last = "";
        for m in ALL {
            let name = m.name;
            assert!(name.starts_with("logd_") && !name.contains("__"), "{name}");
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
            assert_eq!(name.ends_with("_total"), m.kind == Kind::Counter, "{name}");
            assert_eq!(m.kind == Kind::GaugeMs, name.ends_with("_seconds"), "{name}");
            assert!(m.help.ends_with('.') && !m.help.contains(['\n', '\\']), "{name}: {}", m.help);
            assert!(seen.insert((name, m.label)), "{name} twice");
            // Prometheus wants the lines of a name together, with one head.
            let new = last != name;
            assert!(!new || seen.iter().filter(|(n, _)| *n == name).count() == 1, "{name} is torn apart");
            last = name;
        }
        let roles: BTreeSet<_> = ALL.iter().map(|m| (m.name, m.help, m.kind as u8, m.roles)).collect();
        let count: BTreeSet<_> = ALL.iter().map(|m| m.name).collect();
        assert_eq!(roles.len(), count.len(), "metrics of one name have one text, kind and set of roles");
    }

    #[test]
    fn a_role_shows_what_it_counts_and_each_head_once() {
        let tail = text(TAIL, "tail");
        assert!(tail.contains("\nlogd_sealed_lines_total ") && !tail.contains("logd_stored_packs_total"));
        assert!(tail.contains("logd_build_info{version=\"0.1.0\",role=\"tail\"} 1\n"), "{tail}");
        let store = text(STORE, "fcollector");
        let heads: Vec<&str> = store.lines().filter(|l| l.starts_with("# TYPE ")).collect();
        let set: BTreeSet<&str> = heads.iter().copied().collect();
        assert_eq!(heads.len(), set.len());
        assert!(store.contains("logd_hour_states{state=\"no data\"} "), "{store}");
        for line in store.lines().filter(|l| !l.starts_with('#')) {
            let (_, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }

    #[test]
    fn a_histogram_adds_up() {
        let h = Histogram { name: "x_seconds", ..hist() };
        for us in [50, 100, 101, 4_000, 9_000_000] {
            h.observe(Duration::from_micros(us));
        }
        let mut out = String::new();
        h.write(&mut out);
        assert!(out.contains("x_seconds_bucket{le=\"0.0001\"} 2\n"), "{out}");
        assert!(out.contains("x_seconds_bucket{le=\"0.0005\"} 3\n"), "{out}");
        assert!(out.contains("x_seconds_bucket{le=\"5\"} 4\n"), "{out}");
        assert!(out.contains("x_seconds_bucket{le=\"+Inf\"} 5\nx_seconds_sum 9.004251\nx_seconds_count 5\n"));
    }

    fn hist() -> Histogram {
        Histogram {
            name: "",
            help: "Help.",
            roles: EVERY,
            buckets: [const { AtomicU64::new(0) }; BOUNDS_US.len()],
            beyond: AtomicU64::new(0),
            sum_us: AtomicU64::new(0),
        }
    }
}

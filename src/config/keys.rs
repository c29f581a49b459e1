//! The one table of keys: names, types, ranges, defaults, help. The parser, `check`, `etc/full.ini` and the manual's test all
//! read it, and a default is written nowhere else.
//!
//! Keys of the original that nothing reads are here too (`unused`), so that its files are accepted as they are. Keys of ours
//! are here only if something reads them.

use super::value::{Kind, Value};

/// Every section that a file may have, in the order in which they are printed, beside those that begin with [`STREAM`].
pub const SECTIONS: &[&str] = &[
    "tail",
    "collector",
    "fcollector",
    "etlcollector",
    "mgocollector",
    "logAgent",
    "http",
    "monitor",
    "receiver",
    "heart_beat",
];

/// `[tail:NAME]` is a further stream of the follower. In the table its keys belong to this section.
pub const STREAM: &str = "tail:";

/// One key of one or more sections.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::struct_excessive_bools)] // independent facts about a key, each read on its own
pub struct Key {
    /// The sections that have it.
    pub sections: &'static [&'static str],
    /// Its name, case-sensitive.
    pub name: &'static str,
    /// An older spelling, used when `name` is not set; empty if there is none.
    pub alias: &'static str,
    /// Type and range.
    pub kind: Kind,
    /// The default as one would write it; empty = none (the help says what that means).
    pub default: &'static str,
    /// One line for people.
    pub help: &'static str,
    /// The original has it too.
    pub original: bool,
    /// Prints as `***`.
    pub secret: bool,
    /// Accepted with any value: its feature comes with a later version.
    pub unused: bool,
    /// The section does not work without it.
    pub required: bool,
}

impl Key {
    /// Whether the section's key is called this, by name or by its older spelling.
    pub fn is(&self, section: &str, name: &str) -> bool {
        self.sections.contains(&table(section))
            && (self.name == name || !self.alias.is_empty() && self.alias == name)
    }

    const fn alias(self, alias: &'static str) -> Self {
        Self { alias, ..self }
    }

    const fn original(self) -> Self {
        Self { original: true, ..self }
    }

    const fn required(self) -> Self {
        Self { required: true, ..self }
    }

    const fn secret(self) -> Self {
        Self { secret: true, ..self }
    }
}

/// The key of a section by its name or alias.
pub fn find(section: &str, name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|k| k.is(section, name))
}

/// All keys of a section, in the table's order.
pub fn of(section: &str) -> impl Iterator<Item = &'static Key> {
    KEYS.iter().filter(move |k| k.sections.contains(&table(section)))
}

fn table(section: &str) -> &str {
    if section.starts_with(STREAM) { STREAM } else { section }
}

/// A numeric default, for a stage that needs the value where no section offers the key; 0 if there is none.
pub(super) fn default_number(section: &str, name: &str) -> u64 {
    match find(section, name).map(|k| k.kind.parse(k.default)) {
        Some(Ok(Value::Number(n))) => n,
        _ => 0,
    }
}

const fn key(
    sections: &'static [&'static str],
    name: &'static str,
    kind: Kind,
    default: &'static str,
    help: &'static str,
) -> Key {
    Key {
        sections,
        name,
        alias: "",
        kind,
        default,
        help,
        original: false,
        secret: false,
        unused: false,
        required: false,
    }
}

const T: &[&str] = &["tail"];
const TS: &[&str] = &["tail", STREAM];
const F: &[&str] = &["fcollector", "etlcollector", "mgocollector"];
const TC: &[&str] = &["tail", "collector"];
const CF: &[&str] = &["collector", "fcollector", "etlcollector", "mgocollector"];
const TCF: &[&str] = &["tail", "collector", "fcollector", "etlcollector", "mgocollector"];
const L: &[&str] = &["logAgent"];
const E: &[&str] = &["etlcollector"];
const FE: &[&str] = &["fcollector", "etlcollector"];
const M: &[&str] = &["mgocollector"];
const R: &[&str] = &["receiver"];
const CFR: &[&str] = &["collector", "fcollector", "etlcollector", "mgocollector", "receiver"];
const MON: &[&str] = &["monitor"];
const HB: &[&str] = &["heart_beat"];
const H: &[&str] = &["http"];

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
const SEC: u64 = 1_000;
const MIN: u64 = 60 * SEC;
const HOUR: u64 = 60 * MIN;
const DAY: u64 = 24 * HOUR;

const LEVELS: Kind = Kind::Choice(&["debug", "info", "warning", "error"]);
const DISK: Kind = Kind::Size(0, 64 * TIB);

/// Every key there is.
#[rustfmt::skip] // one key, one entry: a table is read by columns
pub static KEYS: &[Key] = &[
    // What to read, where to listen, where to write.
    key(TS, "log_file", Kind::LogFile, "", "The log file of an hour: a path with strftime inside <>, or without for one file that is rotated away; a * stands for a part of a name. Required unless there is a [tail:NAME].").original(),
    key(CF, "listen", Kind::Listen, "", "Address to listen on; `:1302` means every IPv4 address, `[::]:1302` IPv6.").original().required(),
    key(FE, "save_dir", Kind::Text, "", "Directory of the hour files; a relative one is below the working directory.").original().required(),
    key(M, "save_dir", Kind::Text, "", "Directory of the hour files. Empty: store below state_dir, or /var/lib/logd/mgocollector/store."),
    key(TC, "send_to", Kind::Addresses, "", "The collector to send to, host:port; others that take its place after commas.").original().required(),
    key(TC, "senders", Kind::Number(1, 1000), "2", "Connections to send on, one pack at a time each.").original(),
    key(CF, "allow", Kind::Networks, "", "Who may connect: addresses and networks separated by commas, or `any`. Empty: any, if the role has served so before."),

    key(T, "key_file", Kind::Text, "", "File with this host's key, made by `logd key`; packs are signed with it. Empty: they are not signed."),
    key(CF, "keys_file", Kind::Text, "", "File with the keys of the hosts that may send; it is read again when it changes. Empty: packs need no key."),
    key(CF, "keys", Kind::Choice(&["require", "accept"]), "require", "With keys_file, packs without a signature: refused, or taken and their hours not called authentic."),

    // TLS: the listener's side, then the sender's.
    key(CF, "tls_cert", Kind::Text, "", "PEM file with the listener's certificate and what stands between it and its CA. Empty: no TLS."),
    key(CF, "tls_key", Kind::Text, "", "PEM file with the private key of tls_cert."),
    key(CF, "tls_client_ca", Kind::Text, "", "PEM file with the CA of clients' certificates; a client must show one, and sends only for hosts that it names. Empty: none is asked for."),
    key(CF, "tls_relays", Kind::Text, "", "Names, separated by commas, whose certificates may send for every host; `*`: each may."),
    key(CF, "tls", Kind::Choice(&["require", "accept"]), "require", "With tls_cert, connections without TLS: refused, or taken."),
    key(TC, "tls_ca", Kind::Text, "", "PEM file with the CA of the certificate that answers at send_to. Empty: send without TLS."),
    key(TC, "tls_name", Kind::Text, "", "Name that must stand in that certificate. Empty: the host of send_to."),
    key(TC, "tls_client_cert", Kind::Text, "", "PEM file with this host's certificate, if the receiver wants one."),
    key(TC, "tls_client_key", Kind::Text, "", "PEM file with the private key of tls_client_cert."),

    // The follower.
    key(T, "record_file", Kind::Text, "", "Position file of the original (line.rec), read at the first start and kept current for a way back. Empty: none.").original(),
    key(T, "recv_buffer_size", Kind::Number(1, 10_000_000), "", "Lines after which a pack is cut. Empty: only bytes and time cut.").original(),
    key(T, "line_pattern", Kind::Ignored, "", "Never had an effect; accepted for old files.").original(),
    key(T, "name", Kind::Name, "", "This host's name at the collector. Empty: the address used towards send_to, or the host name.").alias("ip"),
    key(TCF, "state_dir", Kind::Text, "", "Directory of journal, spool and lock. Empty: $STATE_DIRECTORY, var/ROLE beside the program, or /var/lib/logd/ROLE."),
    key(TS, "start", Kind::Start, "", "Where a new state directory begins: beginning (of this hour), oldest, end, or an hour YYYYMMDDHH, or a day YYYYMMDD where files hold days. Empty: beginning, or end if the file's name has no date; with --once oldest."),
    key(T, "timezone", Kind::Zone, "", "Zone of the hours in file names, such as Asia/Shanghai. Empty: the machine's."),
    key(T, "pack_bytes", Kind::Size(4 * KIB, 16 * MIB), "1M", "Raw bytes after which a pack is cut."),
    key(T, "tail_memory", Kind::Size(MIB, GIB), "4M", "Raw bytes of cut packs that wait in memory to be compressed, and as many that are not cut yet, over all files."),
    key(T, "max_line", Kind::Size(KIB, 16 * MIB), "1M", "A line longer than this many bytes is sent in parts."),
    key(TS, "flush_interval", Kind::Duration(10, HOUR), "5s", "A pack is cut this long after its first line at the latest."),
    key(TS, "close_wait", Kind::Duration(0, DAY), "10m", "An hour is closed this long after its end even if the next file does not appear."),
    key(TS, "quiet", Kind::Duration(0, DAY), "60s", "An hour is closed only when its file did not change for this long."),
    key(TS, "late_watch", Kind::Duration(0, 30 * DAY), "48h", "How long a closed file is watched for late lines."),
    key(T, "scan_interval", Kind::Duration(10, 10 * SEC), "200ms", "Time between two looks at the files; also the time between two journal syncs."),
    key(T, "journal_days", Kind::Number(1, 365), "7", "Days for which the cuts of an hour are kept for a resend."),
    key(T, "window_packs", Kind::Number(1, 1_000_000), "4096", "Packs sealed and not yet acknowledged; beyond it reading stops, and nothing is lost."),
    key(T, "max_rate", Kind::Size(0, 64 * GIB), "0", "Packed bytes a second that are sent at most, over all connections; 0: no limit."),
    key(T, "nice", Kind::Number(0, 19), "0", "How much the follower gives way to other processes; 19 is the most."),
    key(T, "compressors", Kind::Number(1, 64), "1", "Packs that are compressed at the same time."),
    key(T, "compress_level", Kind::Number(1, 9), "6", "zlib level: 1 is fast, 9 is small."),

    // The sender.
    key(TC, "peer", Kind::Choice(&["logd", "original"]), "logd", "What answers at send_to: this program, or the original."),
    key(TC, "failover", Kind::Choice(&["hour", "any"]), "hour", "What may go to another address of send_to: hours not begun, or any pack (relays of one collector)."),
    key(TC, "failover_after", Kind::Number(1, 1000), "10", "Attempts in a row without an answer, after which the next address of send_to is used."),
    key(TC, "ack_timeout", Kind::Duration(100, HOUR), "60s", "How long to wait for the answer to a pack."),
    key(TC, "connect_timeout", Kind::Duration(100, 10 * MIN), "10s", "How long to wait for a connection."),
    key(TC, "backoff_max", Kind::Duration(200, HOUR), "60s", "Longest wait between two attempts with one pack."),
    key(TC, "held_after", Kind::Duration(SEC, 7 * DAY), "10m", "A pack that is refused for this long is held aside, so that it delays no other."),
    key(TC, "held_per_name", DISK, "256M", "Bytes held aside per host, all of its streams together."),
    key(TC, "held_total", DISK, "1G", "Bytes held aside in all."),

    // The receiver.
    key(CF, "max_connections", Kind::Number(1, 1_000_000), "4096", "Connections at once; also limited by the file descriptors."),
    key(CF, "max_connections_per_address", Kind::Number(1, 1_000_000), "1024", "Connections at once from one address."),
    key(CF, "max_unproven_per_address", Kind::Number(1, 1_000_000), "64", "With keys_file: connections at once from one address that have not yet shown a good signature."),
    key(CF, "header_timeout", Kind::Duration(100, HOUR), "10s", "A header must be complete this long after its first byte."),
    key(CF, "body_timeout", Kind::Duration(100, HOUR), "30s", "A body must be complete after this time plus its size divided by body_rate_min."),
    key(CF, "body_rate_min", Kind::Size(1, GIB), "64k", "Bytes per second that a slow sender is granted for a body."),
    key(CF, "idle_timeout", Kind::Duration(SEC, DAY), "5m", "A connection without a pack is closed after this time."),
    key(CF, "max_header", Kind::Size(1200, MIB), "64k", "Longest header in bytes."),
    key(CF, "max_body", Kind::Size(64 * KIB, GIB), "16M", "Largest compressed pack in bytes."),
    key(CF, "max_raw", Kind::Size(64 * KIB, 4 * GIB), "64M", "Largest pack in bytes after inflating."),
    key(CF, "inflight_bytes", Kind::Size(MIB, 64 * GIB), "32M", "Memory for packs that are being received, over all connections."),

    // The spool.
    key(T, "spool_size", DISK, "1G", "Disk space for packs that could not be sent at once. 0: none, they are read again from the log file."),
    key(CF, "spool_size", Kind::Size(MIB, 64 * TIB), "1G", "Disk space for accepted packs that are not yet passed on or stored; when full, senders are told to wait."),
    key(TCF, "segment_size", Kind::Size(64 * KIB, GIB), "16M", "Size of one spool file."),
    key(TC, "min_free", DISK, "256M", "Free space to leave on the disk; below it nothing is written."),
    key(F, "min_free", DISK, "2G", "Free space to leave on the disk; below it senders are told to wait."),
    key(CF, "group_commit", Kind::Duration(0, SEC), "5ms", "How long a pack may wait for others to share its disk sync."),

    // The store.
    key(F, "hosts_file", Kind::Text, "", "File with the names of hosts that are expected to have every hour, one a line, for received/all_HOUR. Empty: none."),
    key(F, "file_mode", Kind::Mode(0o600), "0644", "Permission bits of the stored files, octal."),
    key(F, "dir_mode", Kind::Mode(0o700), "0755", "Permission bits of the stored directories, octal."),
    key(F, "checkpoint", Kind::Duration(100, HOUR), "30s", "Hour files are synced to disk at least this often."),
    key(F, "gap_wait", Kind::Duration(SEC, 30 * DAY), "24h", "How long packs behind a missing one wait before they are put aside."),
    key(F, "early_per_name", DISK, "256M", "Bytes of packs behind a missing one, per host with all of its streams; beyond it that host is told to wait."),
    key(F, "early_total", DISK, "4G", "Bytes of packs behind a missing one, in all."),
    key(F, "max_verifying", Kind::Number(1, 1024), "16", "Hours that are read back for verification at once."),
    key(F, "compress_closed", Kind::Choice(&["no", "gzip"]), "no", "Whether the data file of an hour is compressed two days after it was certified."),

    // Alarms.
    key(CFR, "alarm_command", Kind::Command, "", "Program that is run when something changes for the worse or for the better, with the text in the place of %s; no shell reads it. Empty: none."),
    key(F, "alarm_after", Kind::Duration(MIN, 30 * DAY), "60m", "An hour that is not whole this long after its end is an alarm."),
    // The tables.
    key(E, "columns_file", Kind::Text, "", "JSON file with kinds of lines, their columns and partitions; it and the lists are read again when they change.").original().required(),
    key(E, "log_format", Kind::Text, "combined", "How lines look: combined, common, original, or what nginx's log_format takes."),
    key(E, "column_prefixes", Kind::Text, "", "What names in columns_file may begin with, without a meaning, separated by commas. Empty: nothing."),
    key(E, "spider_list", Kind::Text, "", "File with parts of spiders' user agents, one a line. Empty: none.").original(),
    key(E, "hosts_white_list", Kind::Text, "", "File with regular expressions of hosts whose lines are wanted, one a line. Empty: all.").original(),
    key(E, "ip_black_list", Kind::Text, "", "File with addresses and networks whose lines are dropped, one a line. Empty: none.").original(),
    key(E, "partition_style", Kind::Choice(&["hive", "bare"]), "hive", "Names of the folders: name=value, or the value alone as the original."),
    key(E, "etl_gzip", Kind::Choice(&["no", "yes"]), "no", "Whether the files of rows are compressed."),
    key(E, "etl_workers", Kind::Number(1, 64), "1", "Hours that are made into rows at the same time."),
    key(E, "max_partitions", Kind::Number(1, 10_000), "4096", "Files of rows that one hour may make; lines that ask for more are rejected."),
    key(E, "max_reject", Kind::Number(0, 100), "5", "Percent of an hour's lines that may be rejected; beyond it the hour fails and gets no rows."),

    // The documents.
    key(M, "mongos", Kind::Uri, "localhost:27017", "Addresses of mongos or of a server, host:port, separated by commas; when one does not answer another is used.").original(),
    key(M, "uri", Kind::Uri, "", "In the place of mongos: a connection string with user, password, TLS or a replica set."),
    key(M, "db", Kind::Text, "", "Database, with the day of the hour appended as YYYYMMDD.").original().required(),
    key(M, "collection", Kind::Text, "", "Collection.").original().required(),
    key(M, "savers", Kind::Number(1, 64), "4", "Senders whose lines are written at the same time, each over a connection of its own.").original(),
    key(M, "bulk_size", Kind::Number(1, 100_000), "1000", "Documents in one message to the database.").original(),
    key(M, "upsert", Kind::Choice(&["no", "yes", "false", "true"]), "no", "Whether a line changes the document with its transaction id, instead of being one.").original(),
    key(M, "journal", Kind::Choice(&["no", "yes", "false", "true"]), "yes", "Whether a write counts only when it is in the database's journal on disk."),
    key(M, "write_concern", Kind::Text, "2", "How many servers must have a write before it counts, or majority."),
    key(M, "write_concern_fallback", Kind::Choice(&["no", "yes", "false", "true"]), "no", "Whether one server will do where a single server cannot have write_concern."),
    key(M, "transaction_id_key", Kind::Text, "transaction_id", "The query parameter that is a line's transaction id."),
    key(M, "filter", Kind::Choice(&["id", "none"]), "id", "Whether lines without a transaction id are left out (id), or not (none)."),
    key(M, "prefix", Kind::Choice(&["host", "none"]), "host", "Whether names of fields begin with the first label of the line's host."),
    key(M, "log_format", Kind::Text, "$host $remote_addr $_ident $_user [$time_local] \"$request\"$_rest", "How lines look, as log_format of [etlcollector] tells it."),
    key(M, "fields", Kind::Text, "", "Further fields of a document, as a columns_file names them, separated by commas."),
    key(M, "max_reject", Kind::Number(0, 100), "5", "Percent of an hour's lines that may be rejected before status and verify call that wrong."),

    key(TCF, "quit_timeout", Kind::Duration(100, 10 * MIN), "10s", "How long a clean stop may take; what is left continues at the next start."),

    // Messages.
    key(L, "local_level", LEVELS, "info", "Least important level that is logged.").alias("level").original(),
    key(L, "local_dir", Kind::Text, "-", "Directory of the daily log files; `-` is standard error.").original(),
    key(L, "tcp_level", LEVELS, "warning", "Least important level that is sent to tcp_addr.").original(),
    key(L, "tcp_addr", Kind::Address, "", "The monitor to which messages are sent, host:port. Empty: none.").original(),

    // What every role tells the monitor.
    key(MON, "hb_port", Kind::Listen, "", "Port on which heart-beats are answered, or host:port. Empty: none.").original(),
    key(MON, "mon_addr", Kind::Address, "", "The monitor with which the role registers, host:port. Empty: none.").original(),

    // The monitor.
    key(R, "recv_port", Kind::Listen, "4040", "Port on which registrations, messages and states of hours are received, or host:port.").original(),
    key(R, "allow", Kind::Networks, "", "Who may connect and, beside the hosts that register themselves, whose heart-beat is asked for. Empty: any, if the role has served so before."),
    key(R, "state_dir", Kind::Text, "", "Directory of nodes, messages, hours and lock. Empty: $STATE_DIRECTORY, var/monitor beside the program, or /var/lib/logd/monitor."),
    key(R, "keep_hours", Kind::Number(1, 744), "72", "Hours back from now whose state is kept."),
    key(R, "hosts_file", Kind::Text, "", "File with the names of hosts that are expected to have every hour, one a line. Empty: none."),
    key(R, "db_host", Kind::Text, "", "MySQL or MariaDB server that gets nodes and messages, too (build with the feature mysql). Empty: none.").original(),
    key(R, "db_port", Kind::Number(1, 65_535), "3306", "Its port.").original(),
    key(R, "db_uname", Kind::Text, "", "Its user.").original(),
    key(R, "db_passwd", Kind::Text, "", "The user's password.").original().secret(),
    key(R, "db_db", Kind::Text, "", "The database.").original(),
    key(R, "db_charset", Kind::Text, "utf8mb4", "Character set of the connection.").original(),
    key(R, "quit_timeout", Kind::Duration(100, 10 * MIN), "10s", "How long a clean stop may take."),
    key(HB, "check_interval", Kind::Duration(SEC, DAY), "30s", "Time between two checks of a node.").original(),

    // The page and the metrics.
    key(H, "listen", Kind::Listen, "", "Address of the page and the metrics; without a host, every IPv4 address. Empty: none."),
    key(H, "allow", Kind::Networks, "", "Who may connect: addresses and networks separated by commas, or `any`. Required if listen is no loopback address."),
    key(H, "hosts", Kind::Hosts, "", "Names by which a browser may call it beside localhost and its address, separated by commas."),
    key(H, "hours", Kind::Number(1, 744), "72", "Hours that the page shows, back from now."),

];

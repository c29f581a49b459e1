//! The config file: raw INI, then checked values. Each stage gets a struct of its own and never sees the rest.
//!
//! The format and the section names are those of the original, so one file serves both programs while a fleet moves.
//! Everything that is wrong is reported at once, as `file:line: key: problem`. The file is only read here, never
//! written; nothing on disk depends on this module.
//!
//! * `raw`: bytes to sections and entries    * [`keys`]: the one table of keys, with every default and limit
//! * [`value`]: types and ranges             * `read`: typed access that collects the problems
//! * [`allow`]: who may connect              * `build`: the stages' structs, and rules between keys
//! * `values`: what differs between two files

pub mod allow;
mod build;
pub mod keys;
mod raw;
mod read;
#[cfg(test)]
mod tests;
pub mod value;
mod values;

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

pub use allow::Allow;
pub use raw::{Errors, Problem, Warning};
pub use values::{Change, Values};

use crate::clock::Hour;
use keys::{SECTIONS, STREAM};
use raw::Raw;
use read::Reader;
pub use read::nearest;
use value::Kind;

/// Larger files are refused: somebody gave the wrong path, `/dev/zero` perhaps.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// A role of the program: what `logd COMMAND CONFIG` runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Follows log files and sends them.
    Tail,
    /// Receives and passes on.
    Collector,
    /// Receives and stores hour files.
    Fcollector,
    /// As [`Role::Fcollector`], then makes tables of the hours.
    Etlcollector,
    /// As [`Role::Fcollector`], and writes the lines to `MongoDB`.
    Mgocollector,
    /// Knows which nodes are alive.
    Monitor,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 6] = [
        Self::Tail,
        Self::Collector,
        Self::Fcollector,
        Self::Etlcollector,
        Self::Mgocollector,
        Self::Monitor,
    ];

    /// The section whose presence gives the file this role. The monitor's is `receiver`: in the original `[monitor]` tells
    /// the *other* roles where the monitor is.
    pub fn section(self) -> &'static str {
        match self {
            Self::Monitor => "receiver",
            _ => self.command(),
        }
    }

    /// The command that runs it, as in the original; also its name in messages and below `/var/lib/logd`.
    pub fn command(self) -> &'static str {
        match self {
            Self::Tail => "tail",
            Self::Collector => "collector",
            Self::Fcollector => "fcollector",
            Self::Etlcollector => "etlcollector",
            Self::Mgocollector => "mgocollector",
            Self::Monitor => "monitor",
        }
    }

    /// A second, plainer command name.
    pub fn alias(self) -> Option<&'static str> {
        match self {
            Self::Collector => Some("relay"),
            Self::Fcollector => Some("store"),
            _ => None,
        }
    }

    /// The role of a command or its alias.
    pub fn from_command(command: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|r| r.command() == command || r.alias() == Some(command))
    }
}

/// What the follower needs.
#[derive(Clone, Debug, PartialEq)]
pub struct TailConfig {
    /// What is followed: `[tail]` itself, if it has a `log_file`, and each `[tail:NAME]`.
    pub streams: Vec<StreamConfig>,
    /// The original's position file, if one is kept.
    pub record_file: Option<PathBuf>,
    /// Lines after which a pack is cut.
    pub recv_buffer_size: Option<u64>,
    /// The sender's name; `None` = found out at the first start.
    pub name: Option<String>,
    /// Where the state is; `None` = the default place of the role.
    pub state_dir: Option<PathBuf>,
    /// IANA zone of the hours; `None` = the machine's.
    pub timezone: Option<String>,
    /// Raw bytes after which a pack is cut.
    pub pack_bytes: usize,
    /// Unsent raw bytes in memory, over all files.
    pub tail_memory: usize,
    /// Bytes beyond which a line goes in parts.
    pub max_line: usize,
    /// Days for which an hour's cuts are kept.
    pub journal_days: u64,
    /// Milliseconds between two ticks.
    pub scan_interval_ms: u64,
    /// Packs sealed and not acknowledged, at most.
    pub window_packs: usize,
    /// Packed bytes a second, at most; 0 = no limit.
    pub max_rate: u64,
    /// How much other processes come first, 0 to 19.
    pub nice: i32,
    /// Packs that are compressed at the same time.
    pub compressors: usize,
    /// This host's key.
    pub key_file: Option<PathBuf>,
    /// What it tells the monitor.
    pub watch: WatchConfig,
    /// The way out.
    pub sender: SenderConfig,
    /// The retry spool.
    pub spool: SpoolConfig,
    /// Messages.
    pub log: LogConfig,
    /// The page and the metrics.
    pub http: HttpConfig,
    /// Milliseconds that a clean stop may take.
    pub quit_timeout_ms: u64,
}

/// What `[tail]` or `[tail:NAME]` says of its files. A key that `[tail:NAME]` does not set is that of `[tail]`.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamConfig {
    /// NAME, perhaps with `*`; empty for `[tail]`.
    pub stream: String,
    /// Path of the files, strftime inside `<>`.
    pub log_file: String,
    /// Where a new state directory begins; `None` = `Beginning`, with `--once` `Oldest`.
    pub start: Option<Start>,
    /// Milliseconds from a pack's first line to its cut, at most.
    pub flush_interval_ms: u64,
    /// Milliseconds after an hour's end at which it closes without a next file.
    pub close_wait_ms: u64,
    /// Milliseconds without a change before an hour closes.
    pub quiet_ms: u64,
    /// Milliseconds for which a closed file is watched.
    pub late_watch_ms: u64,
}

impl StreamConfig {
    /// Its section, for messages.
    pub fn section(&self) -> String {
        if self.stream.is_empty() { "[tail]".to_owned() } else { format!("[{STREAM}{}]", self.stream) }
    }
}

/// Where a follower without state begins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Start {
    /// At the first byte of the current hour's file.
    Beginning,
    /// At the oldest file there is.
    Oldest,
    /// At the end of the current hour's file; that hour is `partial`.
    End,
    /// At the first byte of this hour's file.
    Hour(Hour),
}

impl Start {
    /// Where a follower begins that was not told. One file without a date may hold days, and nobody knows of which hours.
    pub fn usual(once: bool, dated: bool) -> Self {
        match (once, dated) {
            (true, _) => Self::Oldest,
            (false, true) => Self::Beginning,
            (false, false) => Self::End,
        }
    }

    /// Reads `beginning`, `oldest`, `end` (any case) or `YYYYMMDDHH`.
    pub fn parse(text: &str) -> Option<Self> {
        match text.to_ascii_lowercase().as_str() {
            "beginning" => Some(Self::Beginning),
            "oldest" => Some(Self::Oldest),
            "end" => Some(Self::End),
            hour => Hour::parse(hour).map(Self::Hour),
        }
    }
}

impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Beginning => f.write_str("beginning"),
            Self::Oldest => f.write_str("oldest"),
            Self::End => f.write_str("end"),
            Self::Hour(hour) => hour.fmt(f),
        }
    }
}

/// What the sender needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SenderConfig {
    /// Addresses `host:port`, the preferred one first; no two are equal.
    pub send_to: Vec<String>,
    /// What may go to another address when one does not answer.
    pub failover: Failover,
    /// Attempts in a row without an answer, after which the next address is used.
    pub failover_after: u32,
    /// Connections.
    pub senders: usize,
    /// zlib level, 1–9.
    pub compress_level: u32,
    /// Who answers there.
    pub peer: Peer,
    /// Milliseconds to wait for an answer.
    pub ack_timeout_ms: u64,
    /// Milliseconds to wait for a connection.
    pub connect_timeout_ms: u64,
    /// Longest wait between two attempts, milliseconds.
    pub backoff_max_ms: u64,
    /// Milliseconds of refusals after which a pack is held aside.
    pub held_after_ms: u64,
    /// Bytes held aside per sender name.
    pub held_per_name: u64,
    /// Bytes held aside in all.
    pub held_total: u64,
    /// TLS towards the receiver; `None` = plain TCP.
    pub tls: Option<TlsSend>,
}

/// TLS of a sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSend {
    /// PEM file with the CA of the receiver's certificate.
    pub ca: PathBuf,
    /// Name that must stand in it; `None` = the host of the address.
    pub name: Option<String>,
    /// PEM files with this host's certificate and its private key.
    pub own: Option<(PathBuf, PathBuf)>,
}

/// TLS of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsListen {
    /// PEM file with the certificate, and those between it and its CA.
    pub cert: PathBuf,
    /// PEM file with its private key.
    pub key: PathBuf,
    /// PEM file with the CA of clients' certificates; `None` = none is asked for.
    pub client_ca: Option<PathBuf>,
    /// Names whose certificates may send for every host; `*` = all.
    pub relays: Vec<String>,
    /// Are connections without TLS refused?
    pub required: bool,
}

/// What may go to another address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failover {
    /// Hours of which nothing was acknowledged.
    Hour,
    /// Every pack: the addresses are relays of one collector.
    Any,
}

/// The program at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// This one.
    Logd,
    /// The Go program.
    Original,
}

/// What a spool needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoolConfig {
    /// Bytes in all segments; 0 = no spool (follower only).
    pub size: u64,
    /// Bytes of one segment.
    pub segment_size: u64,
    /// Bytes to leave free on the disk.
    pub min_free: u64,
    /// Milliseconds that a pack may wait for others to share its sync.
    pub group_commit_ms: u64,
}

/// What the receiver needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiverConfig {
    /// Where to listen, in a form that `ToSocketAddrs` takes; a missing host has become `0.0.0.0`.
    pub listen: String,
    /// Who may connect.
    pub allow: Allow,
    /// The config says who.
    pub allow_set: bool,
    /// Connections at once.
    pub max_connections: usize,
    /// Connections at once from one address.
    pub max_connections_per_address: usize,
    /// Milliseconds for a header, from its first byte.
    pub header_timeout_ms: u64,
    /// Milliseconds for a body, beside its size divided by `body_rate_min`.
    pub body_timeout_ms: u64,
    /// Bytes per second granted to a slow sender.
    pub body_rate_min: u64,
    /// Milliseconds after which an idle connection is closed.
    pub idle_timeout_ms: u64,
    /// Bytes of a header.
    pub max_header: usize,
    /// Bytes of a compressed pack.
    pub max_body: usize,
    /// Bytes of a pack after inflating.
    pub max_raw: usize,
    /// Bytes being received over all connections.
    pub inflight_bytes: usize,
    /// Keys of the hosts that may send; `None` = packs need no signature.
    pub keys_file: Option<PathBuf>,
    /// With `keys_file`: are packs without a signature refused?
    pub keys_required: bool,
    /// With `keys_file`: connections at once from one address that have not shown a good signature.
    pub max_unproven_per_address: usize,
    /// TLS; `None` = plain TCP.
    pub tls: Option<TlsListen>,
}

impl ReceiverConfig {
    /// Is nobody heard who has not shown a key or a certificate?
    pub fn knows_senders(&self) -> bool {
        self.keys_file.is_some() && self.keys_required
            || self.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some() && tls.required)
    }
}

/// What `collector` needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayConfig {
    /// What it tells the monitor.
    pub watch: WatchConfig,
    /// The way in.
    pub receiver: ReceiverConfig,
    /// The spool between.
    pub spool: SpoolConfig,
    /// The way out.
    pub sender: SenderConfig,
    /// Where the state is; `None` = the default place of the role.
    pub state_dir: Option<PathBuf>,
    /// Messages.
    pub log: LogConfig,
    /// The page and the metrics.
    pub http: HttpConfig,
    /// Milliseconds that a clean stop may take.
    pub quit_timeout_ms: u64,
}

/// What `fcollector` needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    /// What it tells the monitor.
    pub watch: WatchConfig,
    /// Milliseconds after its end at which an hour that is not whole is an alarm.
    pub alarm_after_ms: u64,
    /// The store; a relative path is below the working directory, as in the original.
    pub save_dir: PathBuf,
    /// The way in.
    pub receiver: ReceiverConfig,
    /// The spool between.
    pub spool: SpoolConfig,
    /// Where the state is; `None` = the default place of the role.
    pub state_dir: Option<PathBuf>,
    /// File with the expected names.
    pub hosts_file: Option<PathBuf>,
    /// Permission bits of stored files.
    pub file_mode: u32,
    /// Permission bits of stored directories.
    pub dir_mode: u32,
    /// Milliseconds between two checkpoints, at most.
    pub checkpoint_ms: u64,
    /// Milliseconds that packs behind a gap wait.
    pub gap_wait_ms: u64,
    /// Bytes of packs behind a gap, per name.
    pub early_per_name: u64,
    /// Bytes of packs behind a gap, in all.
    pub early_total: u64,
    /// Hours read back at once.
    pub max_verifying: usize,
    /// Whether certified hours are compressed.
    pub compress_closed: bool,
    /// Messages.
    pub log: LogConfig,
    /// The page and the metrics.
    pub http: HttpConfig,
    /// Milliseconds that a clean stop may take.
    pub quit_timeout_ms: u64,
}

/// What every role tells the monitor, and whom it calls when something changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchConfig {
    /// Where heart-beats are answered.
    pub hb_listen: Option<String>,
    /// The monitor with which it registers.
    pub monitor: Option<String>,
    /// Where messages are sent.
    pub log_to: Option<String>,
    /// The least important level that is sent there.
    pub log_level: Level,
    /// The program that is run on alarms, and its arguments; empty = none.
    pub alarm: Vec<String>,
}

/// What `monitor` needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MonitorConfig {
    /// Where to listen.
    pub listen: String,
    /// Who may connect.
    pub allow: Allow,
    /// The config says who.
    pub allow_set: bool,
    /// Where the state is; `None` = the default place of the role.
    pub state_dir: Option<PathBuf>,
    /// Hours back from now whose state is kept.
    pub keep_hours: u64,
    /// Milliseconds between two checks of a node.
    pub check_interval_ms: u64,
    /// File with the names of hosts that are expected to have every hour.
    pub hosts_file: Option<PathBuf>,
    /// The database that gets nodes and messages, too.
    pub db: Option<DbConfig>,
    /// The program that is run on alarms, and its arguments; empty = none.
    pub alarm: Vec<String>,
    /// Messages.
    pub log: LogConfig,
    /// The page and the metrics.
    pub http: HttpConfig,
    /// Milliseconds that a clean stop may take.
    pub quit_timeout_ms: u64,
}

/// A database. It does not print its password.
#[derive(Clone, PartialEq, Eq)]
pub struct DbConfig {
    /// The server.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The user.
    pub user: String,
    /// The user's password.
    pub password: String,
    /// The database's name.
    pub database: String,
    /// Character set of the connection.
    pub charset: String,
}

impl fmt::Debug for DbConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}:{}/{}", self.user, self.host, self.port, self.database)
    }
}

/// What `etlcollector` and `logd etl` need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtlConfig {
    /// Everything of `fcollector`.
    pub store: StoreConfig,
    /// Hours that are made into rows at once.
    pub workers: usize,
    /// How lines look: a name, or nginx's notation.
    pub log_format: String,
    /// Kinds of lines and their columns.
    pub columns_file: PathBuf,
    /// What names in it may begin with, without a meaning.
    pub column_prefixes: Vec<String>,
    /// Parts of spiders' user agents.
    pub spider_list: Option<PathBuf>,
    /// Regular expressions of hosts.
    pub hosts_white_list: Option<PathBuf>,
    /// Addresses whose lines are dropped.
    pub ip_black_list: Option<PathBuf>,
    /// Folders are `name=value`.
    pub hive: bool,
    /// Files are compressed.
    pub gzip: bool,
    /// Files of one hour, at most.
    pub max_partitions: usize,
    /// Hundredths of an hour's lines that may be rejected.
    pub max_reject: u64,
}

/// What `mgocollector` needs.
#[derive(Clone, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // independent settings
pub struct MongoConfig {
    /// Everything of `fcollector`.
    pub store: StoreConfig,
    /// Connection strings; another one is used when one does not answer.
    pub uris: Vec<String>,
    /// Database; the day is appended.
    pub db: String,
    /// Collection.
    pub collection: String,
    /// Senders that are worked on at once.
    pub savers: usize,
    /// Documents in one message.
    pub bulk_size: usize,
    /// By transaction id.
    pub upsert: bool,
    /// A write counts when it is in the journal.
    pub journal: bool,
    /// `None` = majority.
    pub write_concern: Option<u32>,
    /// One server will do where a single server cannot have `write_concern`.
    pub fallback: bool,
    /// The parameter that is the transaction id.
    pub id_key: String,
    /// Lines without one are left out.
    pub only_with_id: bool,
    /// Names begin with the host's first label.
    pub prefix: bool,
    /// How lines look.
    pub log_format: String,
    /// Further fields.
    pub fields: Vec<String>,
    /// Hundredths of an hour's lines that may be rejected before that is said to be wrong.
    pub max_reject: u64,
}

impl MongoConfig {
    /// The servers' addresses, for people: no user, no password.
    pub fn hosts(&self) -> String {
        self.uris.iter().map(|uri| value::hosts_of(uri)).collect::<Vec<_>>().join(", ")
    }
}

impl fmt::Debug for MongoConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A connection string may hold a password.
        f.debug_struct("MongoConfig").field("db", &self.db).finish_non_exhaustive()
    }
}

/// What the page and the metrics need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpConfig {
    /// Where to listen; `None` = there is none.
    pub listen: Option<String>,
    /// Who may connect.
    pub allow: Allow,
    /// Further names by which a browser may call it, in lower case.
    pub hosts: Vec<String>,
    /// Hours that the page shows.
    pub hours: u64,
}

/// Where messages go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// The least important level that is written.
    pub level: Level,
    /// Directory of daily files; `None` = standard error.
    pub dir: Option<PathBuf>,
}

/// Importance of a message, least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For whoever works on the program.
    Debug,
    /// The normal course.
    Info,
    /// Something to look at; nothing is lost.
    Warning,
    /// Somebody must act.
    Error,
}

/// A config file that was read; its values are checked when a role asks for them.
#[derive(Clone)]
pub struct Config {
    file: String,
    raw: Raw,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the values: a password must not reach a message by way of `{:?}`.
        f.debug_struct("Config").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Config {
    /// Reads a file. It fails only if the file cannot be read; what is wrong inside is reported together with the values,
    /// by [`Self::tail`] and its siblings.
    pub fn load(path: &Path) -> Result<Self, Errors> {
        let file = path.display().to_string();
        let problem =
            |text: String| Errors(vec![Problem { file: file.clone(), line: 0, key: String::new(), text }]);
        let mut text = Vec::new();
        File::open(path)
            .and_then(|f| f.take(MAX_FILE_BYTES + 1).read_to_end(&mut text))
            .map_err(|e| problem(format!("cannot read the config: {e}")))?;
        if text.len() as u64 > MAX_FILE_BYTES {
            return Err(problem("larger than 1 MiB: this is no config file".into()));
        }
        Ok(Self::parse(&file, &text))
    }

    /// Takes a file's content; `file` is its name in messages.
    pub fn parse(file: &str, text: &[u8]) -> Self {
        Self { file: file.into(), raw: raw::parse(file, text) }
    }

    /// The roles that this file is for, by the sections present.
    pub fn roles(&self) -> Vec<Role> {
        Role::ALL.into_iter().filter(|r| self.raw.section(r.section()).is_some()).collect()
    }

    /// The follower's values. `strict` makes every unknown name an error, as `check` does; a daemon minds only those that
    /// look like a slip of the pen.
    pub fn tail(&self, strict: bool) -> Result<(TailConfig, Vec<Warning>), Errors> {
        self.role(strict, Role::Tail, build::tail)
    }

    /// The relay's values; `strict` as in [`Self::tail`].
    pub fn relay(&self, strict: bool) -> Result<(RelayConfig, Vec<Warning>), Errors> {
        self.role(strict, Role::Collector, build::relay)
    }

    /// The store's values; `strict` as in [`Self::tail`].
    pub fn store(&self, strict: bool) -> Result<(StoreConfig, Vec<Warning>), Errors> {
        self.role(strict, Role::Fcollector, build::store)
    }

    /// The monitor's values; `strict` as in [`Self::tail`].
    pub fn monitor(&self, strict: bool) -> Result<(MonitorConfig, Vec<Warning>), Errors> {
        self.role(strict, Role::Monitor, build::monitor)
    }

    /// The store of this file, whichever of the three roles has it.
    pub fn any_store(&self, strict: bool) -> Result<(Role, StoreConfig), Errors> {
        let roles = self.roles();
        let stores = [Role::Fcollector, Role::Etlcollector, Role::Mgocollector];
        let role = stores.into_iter().find(|r| roles.contains(r)).unwrap_or(Role::Fcollector);
        self.store_of(role, strict).map(|(store, _)| (role, store))
    }

    /// The store's half of a role that stores; `strict` as in [`Self::tail`].
    pub fn store_of(&self, role: Role, strict: bool) -> Result<(StoreConfig, Vec<Warning>), Errors> {
        match role {
            Role::Etlcollector => self.etl(strict).map(|(c, w)| (c.store, w)),
            Role::Mgocollector => self.mongo(strict).map(|(c, w)| (c.store, w)),
            _ => self.store(strict),
        }
    }

    /// The values of the store with tables; `strict` as in [`Self::tail`].
    pub fn etl(&self, strict: bool) -> Result<(EtlConfig, Vec<Warning>), Errors> {
        self.role(strict, Role::Etlcollector, build::etl)
    }

    /// The values of the store with a database; `strict` as in [`Self::tail`].
    pub fn mongo(&self, strict: bool) -> Result<(MongoConfig, Vec<Warning>), Errors> {
        self.role(strict, Role::Mgocollector, build::mongo)
    }

    fn role<T>(
        &self,
        strict: bool,
        role: Role,
        build: fn(&mut Reader) -> T,
    ) -> Result<(T, Vec<Warning>), Errors> {
        let mut r = Reader::new(self, strict);
        let other = if role == Role::Monitor { "heart_beat" } else { "monitor" };
        r.known(&[role.section(), "logAgent", other, "http"]);
        let result = r.has_role(role).then(|| build(&mut r));
        r.finish(result)
    }

    /// Checks every section that is there, strictly.
    pub fn check_all(&self) -> Result<Vec<Warning>, Errors> {
        let mut r = Reader::new(self, true);
        r.known(SECTIONS);
        let roles = self.roles();
        if roles.is_empty() {
            r.error(0, "", "no role in this file: it needs [tail], [collector], [fcollector] or the like");
        }
        for role in roles {
            match role {
                Role::Tail => drop(build::tail(&mut r)),
                Role::Collector => drop(build::relay(&mut r)),
                Role::Fcollector => drop(build::store(&mut r)),
                Role::Monitor => drop(build::monitor(&mut r)),
                Role::Etlcollector => drop(build::etl(&mut r)),
                Role::Mgocollector => drop(build::mongo(&mut r)),
            }
        }
        // For a file without a role that reads it.
        build::log(&mut r);
        build::http(&mut r);
        r.finish(Some(())).map(|((), warnings)| warnings)
    }

    /// The level of the program's own log.
    pub fn log_level(&self) -> Level {
        let mut r = Reader::new(self, false);
        build::log(&mut r).level
    }

    /// What one key says, or its default; `None` = there is no such section or key. Nothing is checked.
    pub fn value(&self, section: &str, name: &str) -> Option<&str> {
        let (found, key) = (self.raw.section(section)?, keys::find(section, name)?);
        Some(read::set_entry(found, key).map_or(key.default, |e| e.value.as_str()))
    }

    /// The same of a key that is a time, in ms.
    pub fn duration_ms(&self, section: &str, name: &str) -> Option<u64> {
        match keys::find(section, name)?.kind.parse(self.value(section, name)?) {
            Ok(value::Value::Number(ms)) => Some(ms),
            _ => None,
        }
    }

    /// The config in effect as INI that can be loaded again: every key of the sections present, first those that differ
    /// from their default, then the others. Secrets and the credentials in addresses print as `***`.
    pub fn effective(&self) -> String {
        let mut out = String::new();
        let streams = self.raw.sections.iter().filter(|s| s.name.starts_with(STREAM));
        for section in SECTIONS.iter().filter_map(|name| self.raw.section(name)).chain(streams) {
            let (mut set, mut defaults) = (String::new(), String::new());
            for key in keys::of(&section.name) {
                let set_here = read::set_entry(section, key);
                if set_here.is_none() && section.name.starts_with(STREAM) {
                    // It is that of [tail], whatever the table says.
                    continue;
                }
                let value = set_here.map_or(key.default, |e| e.value.as_str());
                let shown: String = match key.kind {
                    _ if key.secret && !value.is_empty() => "***".into(),
                    Kind::Uri => value::without_credentials(value),
                    _ => value.into(),
                };
                // By value and not by presence, so that the output loaded again gives the same output.
                let group = if value == key.default && !section.name.starts_with(STREAM) {
                    &mut defaults
                } else {
                    &mut set
                };
                let blank = if shown.is_empty() { "" } else { " " };
                let _ = writeln!(group, "{} ={blank}{shown}", key.name);
            }
            let gap = if out.is_empty() { "" } else { "\n" };
            let title = if defaults.is_empty() { "" } else { "; defaults\n" };
            // Writing to a String cannot fail.
            let _ = write!(out, "{gap}[{}]\n{set}{title}{defaults}", section.name);
        }
        out
    }
}

//! `logd check --host CONFIG`: could a role work on this machine, started now by this user? The files of a follower, the
//! ports of a receiver, the way to the next one, room, rights, descriptors, the clock. A line each, with the way to mend it.
//!
//! It changes nothing: a port is taken for an instant, a receiver sees a connection that says nothing.

use super::super::effect;
use super::super::out::{self, Out};
use super::super::{NO, YES};
use crate::clock::{Clock, Zone};
use crate::config::{
    Config, DbConfig, HttpConfig, MonitorConfig, ReceiverConfig, Role, SenderConfig, SpoolConfig,
    StoreConfig, TailConfig, WatchConfig,
};
use crate::disk::{self, Disk};
use crate::sender::Link;
use crate::tail::pattern::Pattern;
use crate::tail::streams::{self, Found};
use crate::tail::{Identity, unpack};
#[cfg(feature = "mongodb")]
use crate::{
    config::{MongoConfig, value::hosts_of},
    documents::server::Server,
};
use crate::{instance, state, tls};
use rustix::process::{Resource, geteuid, getrlimit};
use std::fmt::Display;
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
#[cfg(feature = "mongodb")]
use std::time::Instant;

/// A receiver that turns a connection away has done so by then.
const TURNED_AWAY: Duration = Duration::from_millis(300);
/// How long one address of a monitor may take to be reached.
const REACHED: Duration = Duration::from_secs(5);
/// A database that says nothing is not waited for any longer.
#[cfg(feature = "mongodb")]
const DATABASE: Duration = Duration::from_secs(10);
/// Descriptors that a receiver wants beside one per connection.
const OTHER_FILES: u64 = 512;
/// Fewer than these, and a few hundred hosts use them up.
const FILES_MIN: u64 = 1_024;
/// A clock that is earlier (2024-01-01) was never set.
const CLOCK_MIN_SECS: i64 = 1_704_067_200;
/// Files of the future by more than this: the clock is wrong now, or was wrong then.
const AHEAD_MS: i64 = 5 * 60_000;
/// Files of one stream that are opened, the latest ones.
const FILES_LOOKED_AT: usize = 50;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    Ok,
    Warn,
    Fail,
}

struct Look<'a, 'b> {
    out: &'a mut Out<'b>,
    disk: Disk,
    now_ms: i64,
    role: &'static str,
    /// Keys of which the running role has another value than the file.
    changed: Vec<String>,
    warned: usize,
    failed: usize,
}

/// Looks at the machine for every role of a config that was found right; 1 = something would not work.
pub fn run(path: &Path, config: &Config, out: &mut Out) -> u8 {
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let now_ms = Clock::real().now_ms();
    let mut look =
        Look { out, disk: Disk::real(), now_ms, role: "", changed: Vec::new(), warned: 0, failed: 0 };
    look.clock();
    for role in config.roles() {
        look.role = role.command();
        look.changed = effect::changed(&look.disk, config, role);
        look.role(role, &path, config);
        for why in effect::differs(&look.disk, config, role) {
            look.say(Mark::Warn, why);
        }
    }
    let (warned, failed) = (look.warned, look.failed);
    if failed > 0 {
        let rest = if warned > 0 { format!(", {}", out::count(warned, "warning")) } else { String::new() };
        out.complain(format_args!(
            "logd: check: {}: {} would not work{rest}; nothing was changed",
            path.display(),
            out::count(failed, "thing")
        ));
        return NO;
    }
    YES
}

impl Look<'_, '_> {
    fn say(&mut self, mark: Mark, what: impl Display) {
        let word = match mark {
            Mark::Ok => "ok  ",
            Mark::Warn => {
                self.warned = self.warned.saturating_add(1);
                "warn"
            }
            Mark::Fail => {
                self.failed = self.failed.saturating_add(1);
                "fail"
            }
        };
        let role = if self.role.is_empty() { String::new() } else { format!("{}: ", self.role) };
        self.out.line(format_args!("{word}  {role}{what}"));
    }

    fn clock(&mut self) {
        let secs = self.now_ms.div_euclid(1000);
        match Zone::local() {
            Err(why) => self.say(Mark::Fail, format_args!("clock: {why}")),
            Ok(zone) if secs < CLOCK_MIN_SECS => self.say(
                Mark::Fail,
                format_args!(
                    "clock: it is {} here: the clock was never set; set it, and run an NTP client: hours are named by it",
                    zone.format_ms(self.now_ms)
                ),
            ),
            Ok(zone) => self.say(
                Mark::Ok,
                format_args!("clock: {} in {}; is that right?", zone.format_ms(self.now_ms), zone.name()),
            ),
        }
    }

    fn role(&mut self, role: Role, path: &Path, config: &Config) {
        match role {
            Role::Tail => {
                if let Ok((c, _)) = config.tail(true) {
                    self.tail(path, &c);
                }
            }
            Role::Collector => {
                if let Ok((c, _)) = config.relay(true) {
                    let dir = state::resolve(&role, c.state_dir.as_deref());
                    let runs = self.state(&dir, path);
                    self.receiver(&c.receiver, runs);
                    self.room(&dir, "spool", &c.spool, 0);
                    self.sender(&c.sender);
                    self.watch(&c.watch, &c.http, runs);
                }
            }
            Role::Fcollector | Role::Etlcollector | Role::Mgocollector => {
                if let Ok((c, _)) = config.store_of(role, true) {
                    self.store(role, path, &c);
                }
                #[cfg(feature = "mongodb")]
                if role == Role::Mgocollector
                    && let Ok((c, _)) = config.mongo(true)
                {
                    self.documents(&c);
                }
            }
            Role::Monitor => {
                if let Ok((c, _)) = config.monitor(true) {
                    self.monitor(path, &c);
                }
            }
        }
    }

    fn tail(&mut self, path: &Path, c: &TailConfig) {
        let dir = state::resolve(&Role::Tail, c.state_dir.as_deref());
        let runs = self.state(&dir, path);
        self.files(c, &dir);
        self.room(&dir, "retry spool", &c.spool, c.spool.size);
        self.sender(&c.sender);
        self.watch(&c.watch, &c.http, runs);
    }

    fn store(&mut self, role: Role, path: &Path, c: &StoreConfig) {
        let dir = state::resolve(&role, c.state_dir.as_deref());
        let runs = self.state(&dir, path);
        self.receiver(&c.receiver, runs);
        self.room(&dir, "spool", &c.spool, c.spool.size);
        let save_dir = &c.save_dir;
        self.writable("save_dir", save_dir);
        self.inside(save_dir, &["aside", "doubtful", "headers", "log_data", "received"]);
        self.room(save_dir, "save_dir", &c.spool, 0);
        if disk::is_locked(&save_dir.join(".lock")) == Some(true) && runs != Some(true) {
            let at = save_dir.display();
            self.say(
                Mark::Fail,
                format_args!(
                    "save_dir {at}: another logd stores there; stop it, or give each its own save_dir"
                ),
            );
        }
        self.watch(&c.watch, &c.http, runs);
    }

    fn monitor(&mut self, path: &Path, c: &MonitorConfig) {
        let dir = state::resolve(&Role::Monitor, c.state_dir.as_deref());
        let runs = self.state(&dir, path);
        self.port("recv_port", &c.listen, runs);
        if let Some(listen) = &c.http.listen {
            self.port("[http] listen", listen, runs);
        }
        if let Some(db) = &c.db {
            self.database(db);
        }
    }

    /// The state directory; does this very configuration run?
    fn state(&mut self, dir: &Path, config: &Path) -> Option<bool> {
        let at = dir.display();
        match instance::problem(&self.disk, dir, self.role) {
            Ok(None) => {}
            Ok(Some(why)) => self.say(Mark::Fail, why),
            Err(e) => self
                .say(Mark::Fail, format_args!("state directory {at}: {e}; run this as the user of the role")),
        }
        if let Err(why) = state::refuse_links(dir) {
            self.say(Mark::Fail, why);
        }
        self.writable("state directory", dir);
        self.inside(dir, &["closed", "journal", "retry", "spool", "streams"]);
        self.strangers(dir);
        let running = instance::is_running(dir);
        match (running, instance::begun_by(&self.disk, dir)) {
            (Some(true), Some((role, file))) if role == self.role && file == config => {
                // Whether with all of it is told behind this (`effect`).
                self.say(Mark::Ok, "it runs, with this file");
                Some(true)
            }
            (Some(true), Some((role, file))) => {
                let file = file.display();
                self.say(
                    Mark::Fail,
                    format_args!(
                        "state directory {at}: in use by `logd {role} {file}`; give each its own state_dir"
                    ),
                );
                Some(false)
            }
            (Some(true), None) => {
                self.say(Mark::Fail, format_args!("state directory {at}: in use by another logd"));
                Some(false)
            }
            (None, _) => {
                self.say(
                    Mark::Warn,
                    format_args!(
                        "state directory {at}: this user cannot tell whether the role runs; {}",
                        as_user(dir)
                    ),
                );
                None
            }
            (Some(false), _) => Some(false),
        }
    }

    /// Files there that another user has left: often those of a start as root.
    fn strangers(&mut self, dir: &Path) {
        let Ok(owner) = std::fs::metadata(dir).map(|m| m.uid()) else { return };
        let me = geteuid().as_raw();
        if let Some(why) = instance::foreign(dir, me, owner) {
            self.say(Mark::Fail, format_args!("{why}; what follows holds for root; {}", as_user(dir)));
        } else if me != owner {
            self.say(
                Mark::Warn,
                format_args!("this is user {me}, the role's files belong to user {owner}: what follows holds for user {me}; {}", as_user(dir)),
            );
        }
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let other =
            entries.filter_map(|e| Some((e.path(), e.metadata().ok()?.uid()))).find(|(_, uid)| *uid != owner);
        if let Some((path, uid)) = other {
            self.say(
                Mark::Fail,
                format_args!(
                    "{}: belongs to user {uid}, its directory to user {owner}: was the role started as another user once? \
                     chown -R {owner} {}",
                    path.display(),
                    dir.display()
                ),
            );
        }
    }

    fn writable(&mut self, what: &str, dir: &Path) {
        let at = dir.display();
        // Where it is missing it is made: what counts then is the nearest directory that there is.
        let there = dir.ancestors().find(|d| d.exists());
        let fine = there.is_some_and(disk::may_write);
        match (fine, there == Some(dir)) {
            (true, true) => self.say(Mark::Ok, format_args!("{what} {at}: writable")),
            (true, false) => self.say(Mark::Ok, format_args!("{what} {at}: will be made")),
            (false, true) => self.say(
                Mark::Fail,
                format_args!("{what} {at}: this user may not write it; chown it to the role's user, or run this as that user"),
            ),
            (false, false) => self.say(
                Mark::Fail,
                format_args!("{what} {at}: missing, and this user may not make it; as root: install -d -o USER -m 750 {at}"),
            ),
        }
    }

    /// The directories of a role inside `dir`, as far as they are there.
    fn inside(&mut self, dir: &Path, names: &[&str]) {
        for path in names.iter().map(|name| dir.join(name)) {
            let at = path.display();
            match std::fs::symlink_metadata(&path) {
                // Of links and what they lead to a start tells by itself.
                Ok(meta) if !meta.is_dir() && !meta.is_symlink() => self.say(
                    Mark::Fail,
                    format_args!("{at}: a file in the place of a directory; the role would not start; move it away"),
                ),
                Ok(meta) if meta.is_dir() && !disk::may_write(&path) => self.say(
                    Mark::Fail,
                    format_args!("{at}: this user may not write it; chown it to the role's user, or run this as that user"),
                ),
                _ => {}
            }
        }
    }

    /// Is there room? `size` is what may still be needed there.
    fn room(&mut self, dir: &Path, what: &str, conf: &SpoolConfig, size: u64) {
        let Some(there) = dir.ancestors().find(|d| d.exists()) else { return };
        let (at, min_free) = (there.display(), conf.min_free);
        match self.disk.shortage(there, min_free) {
            Ok(Some(short)) => {
                let free = self.disk.free_bytes(there).ok().and_then(disk::fitting_min_free);
                let lower = free.filter(|free| *free < min_free).map_or_else(String::new, |free| {
                    format!(", or set min_free below the {} that are free", out::bytes(free))
                });
                self.say(
                    Mark::Fail,
                    format_args!("{what}: {short}: nothing is taken until there is room; make room{lower}"),
                );
                return;
            }
            Ok(None) => {}
            Err(e) => return self.say(Mark::Fail, format_args!("{what}: {e}")),
        }
        match self.disk.free_bytes(there) {
            Ok(free) if free < min_free.saturating_add(size) => self.say(
                Mark::Warn,
                format_args!(
                    "{what}: {} free below {at}, spool_size {} and min_free {} do not both fit; make room, or set a smaller \
                     spool_size",
                    out::bytes(free),
                    out::bytes(size),
                    out::bytes(min_free)
                ),
            ),
            Ok(free) => self.say(Mark::Ok, format_args!("{what}: {} free below {at}", out::bytes(free))),
            Err(e) => self.say(Mark::Fail, format_args!("{what}: {e}")),
        }
    }

    fn receiver(&mut self, c: &ReceiverConfig, runs: Option<bool>) {
        self.port("listen", &c.listen, runs);
        let limit = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
        let wanted = (c.max_connections as u64).saturating_add(OTHER_FILES);
        if limit < wanted {
            let mark = if limit < FILES_MIN { Mark::Fail } else { Mark::Warn };
            self.say(
                mark,
                format_args!(
                    "open files: this user may have {limit}, max_connections asks for {wanted}: so many fewer hosts are served \
                     at once; LimitNOFILE= in the unit, or /etc/security/limits.conf"
                ),
            );
        } else {
            self.say(
                Mark::Ok,
                format_args!("open files: {limit} for at most {} connections", c.max_connections),
            );
        }
    }

    fn watch(&mut self, watch: &WatchConfig, http: &HttpConfig, runs: Option<bool>) {
        // The role works without it.
        for (key, to) in [("mon_addr", &watch.monitor), ("tcp_addr", &watch.log_to)] {
            if let Some(to) = to {
                self.monitor_at(key, to);
            }
        }
        for (key, listen) in [("hb_port", &watch.hb_listen), ("[http] listen", &http.listen)] {
            if let Some(listen) = listen {
                self.port(key, listen, runs);
            }
        }
    }

    fn monitor_at(&mut self, key: &str, to: &str) {
        self.out.progress(&|| format!("check: connecting to {to}"));
        let reached = to.to_socket_addrs().and_then(|all| {
            let mut failed = std::io::Error::new(ErrorKind::NotFound, "the name has no address");
            for at in all {
                match TcpStream::connect_timeout(&at, REACHED) {
                    Ok(_) => return Ok(()),
                    Err(e) => failed = e,
                }
            }
            Err(failed)
        });
        match reached {
            Ok(()) => self.say(Mark::Ok, format_args!("{key} {to}: reached")),
            Err(e) => self.say(
                Mark::Warn,
                format_args!(
                    "{key} {to}: {e}: the role works without it, and nobody watches; does the monitor run there, and does a firewall \
                     let this host through?"
                ),
            ),
        }
    }

    /// The database of a monitor: would it take events?
    fn database(&mut self, c: &DbConfig) {
        self.out.progress(&|| format!("check: connecting to {c:?}"));
        #[cfg(feature = "mysql")]
        let done = crate::monitor::mysql::Db::open(c).map(|db| db.marks());
        #[cfg(not(feature = "mysql"))]
        let done: Result<bool, String> =
            Err("this program was built without the feature mysql, and does not start with db_host".into());
        match done {
            Ok(true) => self.say(Mark::Ok, format_args!("database {c:?}: reached, its tables are there")),
            Ok(false) => self.say(
                Mark::Warn,
                format_args!(
                    "database {c:?}: no table logd_delivered: after a crash events may come twice; `logd monitor --init-db CONFIG` \
                     makes it"
                ),
            ),
            Err(why) => self.say(
                Mark::Fail,
                format_args!("database {c:?}: {why}; events wait in the state directory until it takes them"),
            ),
        }
    }

    /// A port that is free, or that the role itself has.
    fn port(&mut self, key: &str, listen: &str, runs: Option<bool>) {
        let done = TcpListener::bind(listen);
        let elsewhere = self.changed.iter().any(|changed| changed == key);
        match (done, runs) {
            (Ok(_), Some(true)) if !listen.ends_with(":0") => self.say(
                Mark::Warn,
                format_args!("{key} {listen}: free, although the role runs: it listens elsewhere; restart it if the key is new"),
            ),
            (Ok(_), _) => self.say(Mark::Ok, format_args!("{key} {listen}: free")),
            (Err(e), Some(true)) if e.kind() == ErrorKind::AddrInUse && !elsewhere => {
                self.say(Mark::Ok, format_args!("{key} {listen}: in use, by the role itself"));
            }
            (Err(e), _) => {
                let hint = match e.kind() {
                    ErrorKind::AddrInUse => {
                        let port = listen.rsplit(':').next().unwrap_or_default();
                        format!("another program uses it: `ss -lptn sport = :{port}` (as root) names it")
                    }
                    ErrorKind::PermissionDenied => {
                        "a port below 1024 needs a right: AmbientCapabilities=CAP_NET_BIND_SERVICE in the unit".into()
                    }
                    ErrorKind::AddrNotAvailable => "it must be an address of this host".into(),
                    _ => "write an address of this host and a port".into(),
                };
                self.say(Mark::Fail, format_args!("{key} {listen}: {e}: {hint}"));
            }
        }
    }

    /// Every address is tried: the second one is needed when the first one fails, and that is no time to find out.
    fn sender(&mut self, c: &SenderConfig) {
        let client = match c.tls.as_ref().map(tls::Client::open).transpose() {
            Ok(client) => client.map(Arc::new),
            Err(why) => return self.say(Mark::Fail, format_args!("send_to: {why}")),
        };
        for addr in &c.send_to {
            self.out.progress(&|| format!("check: connecting to {addr}"));
            match Link::new(addr, c, client.as_ref()).try_out(TURNED_AWAY) {
                Ok(took) => self.say(
                    Mark::Ok,
                    format_args!(
                        "send_to {addr}: reached in {}{}; `logd ping` sends a test pack and says whether it is taken",
                        out::duration(took),
                        if client.is_some() { " with TLS" } else { "" }
                    ),
                ),
                Err(why) => self.say(Mark::Fail, format_args!("send_to {addr}: {why}")),
            }
        }
    }

    /// Every address is asked something that needs its user and the right to read. A role starts without it all the same.
    #[cfg(feature = "mongodb")]
    fn documents(&mut self, c: &MongoConfig) {
        let mut told = Vec::new();
        for uri in &c.uris {
            let host = hosts_of(uri);
            self.out.progress(&|| format!("check: asking {host}"));
            let alone = MongoConfig { uris: vec![uri.clone()], ..c.clone() };
            let begun = Instant::now();
            let late = move || begun.elapsed() >= DATABASE;
            let mut server = Server::new(&alone, Box::new(late));
            let day = Zone::local().map_or(String::new(), |zone| zone.format_ms(self.now_ms));
            let day: String = day.chars().take(10).filter(char::is_ascii_digit).collect();
            let database = server.database(&day);
            told.push(match server.count(&database, ("a", "b")) {
                Ok(_) => Ok(format!("{host}: answers, and {database}.{} may be read", c.collection)),
                Err(_) if late() => Err(format!("{host}: no answer within {} s", DATABASE.as_secs())),
                Err(e) => Err(e.later()),
            });
        }
        let some = told.iter().any(Result::is_ok);
        for one in told {
            match one {
                Ok(what) => self.say(Mark::Ok, format_args!("database {what}")),
                Err(why) if some => {
                    self.say(
                        Mark::Warn,
                        format_args!("database {why}; another address is used in its place"),
                    );
                }
                Err(why) => self.say(
                    Mark::Fail,
                    format_args!("database {why}; lines would wait in the store, nothing would be lost"),
                ),
            }
        }
    }

    fn files(&mut self, c: &TailConfig, dir: &Path) {
        let sources = match streams::sources(c) {
            Ok(sources) => sources,
            Err(why) => return self.say(Mark::Fail, why),
        };
        let begun = match Identity::load(&self.disk, &Identity::path(dir, "")) {
            Ok(begun) => begun.and_then(Result::ok),
            // Of the rights in the state directory it was told above.
            Err(e) if e.denied() => None,
            Err(e) => return self.say(Mark::Fail, e),
        };
        let zone = c.timezone.as_deref().map_or_else(Zone::local, Zone::named);
        let unfit =
            begun.as_ref().and_then(|id| id.unfit(c.name.as_deref(), &zone.as_ref().ok()?.name(), dir));
        if let Some(why) = unfit {
            self.say(Mark::Fail, why);
        }
        let name = c.name.clone().or(begun.map(|id| id.name)).unwrap_or_else(|| "host".into());
        let known = streams::known_files(&self.disk, dir);
        let (found, problems) = streams::find(&self.disk, &sources, &name, dir, &known);
        for why in problems {
            self.say(Mark::Warn, format_args!("log_file: {why}"));
        }
        for (number, source) in sources.iter().enumerate() {
            let streams: Vec<&Found> = found.iter().filter(|f| f.source == number).collect();
            let title = format!("{} log_file {}", source.conf.section(), source.conf.log_file);
            if streams.is_empty() {
                self.say(
                    Mark::Warn,
                    format_args!(
                        "{title}: nothing matches it yet; is the path right, and may this user look into it?"
                    ),
                );
            }
            let (mut readable, mut ahead) = (0_usize, None);
            let mut fine = !streams.is_empty();
            for stream in streams {
                match self.latest(&stream.pattern) {
                    Err(why) => {
                        fine = false;
                        let advice = if why.not_found() { "is the path right?" } else { GROUP };
                        self.say(Mark::Fail, format_args!("{title}: {why}; {advice}"));
                    }
                    Ok(files) => {
                        for file in files {
                            match self.disk.open(&file).and_then(|f| f.stat()) {
                                Ok(stat) => {
                                    readable = readable.saturating_add(1);
                                    if stat.mtime_ms > self.now_ms.saturating_add(AHEAD_MS) {
                                        ahead = Some(file);
                                    }
                                }
                                Err(e) => {
                                    fine = false;
                                    self.say(Mark::Fail, format_args!("{title}: {e}; {GROUP}"));
                                }
                            }
                        }
                    }
                }
            }
            if let Some(file) = ahead {
                self.say(
                    Mark::Warn,
                    format_args!(
                        "clock: {} was written in the future: the clock is wrong now, or was then",
                        file.display()
                    ),
                );
            }
            match (fine, readable) {
                (true, 0) => self
                    .say(Mark::Warn, format_args!("{title}: there is no such file yet; is the path right?")),
                (true, n) => self.say(Mark::Ok, format_args!("{title}: {} readable", out::count(n, "file"))),
                (false, _) => {}
            }
        }
    }

    /// The latest files of a stream.
    fn latest(&self, pattern: &Pattern) -> Result<Vec<PathBuf>, disk::Error> {
        if !pattern.is_dated() {
            let file = pattern.file();
            return Ok(self.disk.stat(&file)?.map(|_| file).into_iter().collect());
        }
        let hours = pattern.existing(&self.disk)?;
        let plain = hours.iter().rev().take(FILES_LOOKED_AT).map(|h| pattern.path(*h)).collect::<Vec<_>>();
        if !plain.is_empty() {
            return Ok(plain);
        }
        let hours = unpack::existing(pattern, &self.disk)?;
        Ok(hours.iter().rev().take(FILES_LOOKED_AT).map(|h| unpack::packed(&pattern.path(*h))).collect())
    }
}

const GROUP: &str = "give the role's user the right to read it: on Debian usermod -aG adm USER, or SupplementaryGroups=adm in \
                     the unit; each directory above it needs the right x";

fn as_user(dir: &Path) -> String {
    match std::fs::metadata(dir) {
        Ok(meta) => format!("run it as that user: sudo -u '#{}' logd check --host CONFIG", meta.uid()),
        Err(_) => "run it as the user of the role".into(),
    }
}

#[cfg(test)]
mod tests;

//! The command line. [`COMMANDS`] is the one table of commands: the parser, the usage text, `logd help` and the test that
//! the manual names everything all read it.
//!
//! Exit codes: 0 ok or yes, 1 a true no, 2 an error, 64 a command line that makes no sense (`EX_USAGE`).

use crate::auth::Key;
use crate::clock::Hour;
use crate::config::value::{Kind, Value};
use crate::config::{Role, nearest};
use crate::instance::ask::What;
use crate::ops::out::Out;
use crate::ops::{
    self, accept, cat, check, control, demo, init, ping, prune, ready, resend, spool, status, verify,
};
use crate::pack::HourKey;
use crate::roles::{self, RunOptions};
use getopts::{Fail, Matches, Options};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::Path;

/// Exit code: the command line makes no sense.
pub const USAGE: u8 = 64;

/// One option of a command.
#[derive(Clone, Copy, Debug)]
pub struct Opt {
    /// One letter, or empty.
    pub short: &'static str,
    /// The name after `--`.
    pub long: &'static str,
    /// What its value is called; empty = it has none.
    pub arg: &'static str,
    /// One line for people.
    pub help: &'static str,
}

/// One command.
pub struct Command {
    /// Its name.
    pub name: &'static str,
    /// A second name, or empty.
    pub alias: &'static str,
    /// Its arguments, separated by blanks; those in `[]` may be missing.
    pub args: &'static str,
    /// One line for people.
    pub help: &'static str,
    /// Its options.
    pub options: &'static [Opt],
    run: fn(&Call, &mut Out) -> Result<u8, String>,
}

const fn flag(long: &'static str, help: &'static str) -> Opt {
    Opt { short: "", long, arg: "", help }
}

const fn option(long: &'static str, arg: &'static str, help: &'static str) -> Opt {
    Opt { short: "", long, arg, help }
}

const DETACH: Opt =
    Opt { short: "d", long: "detach", arg: "", help: "leave the terminal and run in the background" };
const HOST: Opt = option("host", "NAME", "only the hours of this sender");
const SINCE: Opt = option("since", "HOUR", "only this hour (YYYYMMDDHH, or a day YYYYMMDD) and later ones");
const HELP: Opt = Opt { short: "h", long: "help", arg: "", help: "print this" };

/// Every command, in the order in which they are printed.
pub static COMMANDS: &[Command] = &[
    Command {
        name: "tail",
        alias: "",
        args: "CONFIG",
        help: "follow log files and send them to a collector",
        options: &[
            DETACH,
            flag(
                "once",
                "send what is there, close the hours that are over, and end when all is acknowledged",
            ),
            option("timeout", "DURATION", "with --once: give up after this time and exit with 1"),
        ],
        run: |call, _| tail(call),
    },
    Command {
        name: "collector",
        alias: "relay",
        args: "CONFIG",
        help: "receive packs and pass them on",
        options: &[DETACH],
        run: |call, _| Ok(role(Role::Collector, call, false, None)),
    },
    Command {
        name: "fcollector",
        alias: "store",
        args: "CONFIG",
        help: "receive packs, store hour files and prove that they are whole",
        options: &[DETACH],
        run: |call, _| Ok(role(Role::Fcollector, call, false, None)),
    },
    Command {
        name: "monitor",
        alias: "",
        args: "CONFIG",
        help: "know which roles live, what they complain of and which hours are whole",
        options: &[DETACH, flag("init-db", "make the tables in the database of the configuration, and end")],
        run: |call, _| Ok(role(Role::Monitor, call, false, None)),
    },
    Command {
        name: "etlcollector",
        alias: "",
        args: "CONFIG",
        help: "do what fcollector does, and make tables of the hours that are whole",
        options: &[DETACH],
        run: |call, _| Ok(role(Role::Etlcollector, call, false, None)),
    },
    Command {
        name: "mgocollector",
        alias: "",
        args: "CONFIG",
        help: "do what fcollector does, and write the lines to a MongoDB",
        options: &[DETACH],
        run: |call, _| Ok(role(Role::Mgocollector, call, false, None)),
    },
    Command {
        name: "etl",
        alias: "",
        args: "CONFIG [FILE...]",
        help: "make tables of given files (- is standard input), or of the store's hours that have none",
        options: &[
            flag("again", "all hours of the store, also those that have rows"),
            SINCE,
            option("name", "HOST_HOUR", "what the rows of one file are called"),
        ],
        run: etl_of,
    },
    Command {
        name: "check",
        alias: "",
        args: "CONFIG",
        help: "check a config file and print what is in effect",
        options: &[flag(
            "host",
            "look at this machine, too: files, ports, the way to the receiver, room, rights, clock",
        )],
        run: |call, out| Ok(check::run(call.path(0), call.has("host"), out)),
    },
    Command {
        name: "status",
        alias: "",
        args: "CONFIG|SAVE_DIR",
        help: "tell what is there, what is wrong and what to do about it",
        options: &[
            flag("all", "a table of all hours"),
            HOST,
            SINCE,
            flag("missing", "only `HOST HOUR FROM-TO,…` (packs) or `HOST HOUR` (all of it), for a resend"),
            flag("json", "all rows for programs"),
            flag("watch", "again every two seconds, with how much moves"),
        ],
        run: status_of,
    },
    Command {
        name: "ready",
        alias: "",
        args: "CONFIG HOUR",
        help: "0 if the hour of every host in hosts_file is whole, 1 if not, with the names of the rest",
        options: &[
            option("wait", "DURATION", "ask again until it is, for at most this time"),
            flag("strict", "an empty or unverified hour does not count as whole"),
        ],
        run: ready_for,
    },
    Command {
        name: "verify",
        alias: "",
        args: "SAVE_DIR|CONFIG [HOUR]",
        help: "read stored hours again and compare them with what their sources sent",
        options: &[
            HOST,
            SINCE,
            flag("mongodb", "count the documents of HOUR (or of a day) in the database of CONFIG instead"),
        ],
        run: verify_of,
    },
    Command {
        name: "cat",
        alias: "",
        args: "CONFIG|SAVE_DIR HOST HOUR",
        help: "print the lines of an hour as they are stored, and tell if they are not what was certified",
        options: &[],
        run: |call, out| Ok(cat::run(call.path(0), &call.key()?, out)),
    },
    Command {
        name: "accept",
        alias: "",
        args: "CONFIG HOST HOUR REASON",
        help: "let an hour be as it is: nobody waits for more of it, and it is not called wrong",
        options: &[],
        run: |call, out| Ok(accept::accept(call.path(0), &call.key()?, call.arg(3).unwrap_or_default(), out)),
    },
    Command {
        name: "retire",
        alias: "",
        args: "CONFIG HOST REASON",
        help: "expect no more hours of a host, from this one on",
        options: &[option("since", "HOUR", "from this hour on")],
        run: retire_host,
    },
    Command {
        name: "prune",
        alias: "",
        args: "CONFIG|SAVE_DIR",
        help: "remove hours that were certified long ago: data, proof, tag",
        options: &[
            option(
                "older",
                "DURATION",
                "hours that ended and were certified before that, such as 30d; needed",
            ),
            flag("keep-certificates", "tags stay, only the lines and their proof go"),
            flag("dry-run", "only tell what would go"),
        ],
        run: prune_of,
    },
    Command {
        name: "spool",
        alias: "",
        args: "check|ls|retry|salvage DIR",
        help: "look into the spool of a role (DIR: its state_dir): is it whole, what waits, what can be saved",
        options: &[
            flag("all", "with ls and salvage: packs that are done, too"),
            flag("json", "with ls: all rows for programs"),
            option("to", "NEW", "with salvage: the directory to write, missing or empty"),
        ],
        run: spool_of,
    },
    Command {
        name: "resend",
        alias: "repull",
        args: "CONFIG HOUR|FROM..TO|-",
        help: "on the host: have its follower send hours again, or what `status --missing` printed",
        options: &[
            option("stream", "NAME", "hours of the stream [tail:NAME]; without it those of [tail]"),
            option("packs", "LIST", "only these packs of one hour, such as 3-7,9"),
            option("to", "ADDR", "whole hours to this address of send_to, whichever is in use"),
        ],
        run: resend_to,
    },
    Command {
        name: "ping",
        alias: "",
        args: "CONFIG",
        help: "send a test pack to each address of send_to, with times; nothing of it is stored",
        options: &[],
        run: |call, out| Ok(ping::run(call.path(0), out)),
    },
    Command {
        name: "reload",
        alias: "",
        args: "CONFIG",
        help: "have the running roles of a config read it again, and tell what is in effect",
        options: &[],
        run: |call, out| Ok(control::run(call.path(0), What::Reload, out)),
    },
    Command {
        name: "stop",
        alias: "",
        args: "CONFIG",
        help: "stop the running roles of a config and wait until they have ended",
        options: &[],
        run: |call, out| Ok(control::run(call.path(0), What::Stop, out)),
    },
    Command {
        name: "init",
        alias: "",
        args: "ROLE",
        help: "print the smallest configuration of a role, to be changed and checked",
        options: &[],
        run: |call, out| init::run(call.arg(0).unwrap_or_default(), out),
    },
    Command {
        name: "key",
        alias: "",
        args: "new HOST...",
        help: "print a new key for each host: for its key_file, and for the receiver's keys_file",
        options: &[],
        run: key_new,
    },
    Command {
        name: "demo",
        alias: "",
        args: "[PATTERN]",
        help: "run a follower, a relay and a store in this terminal and watch an hour arrive",
        options: &[option("dir", "DIR", "keep the files there")],
        run: |call, _| Ok(demo::run(call.arg(0), call.value("dir").as_deref().map(Path::new))),
    },
    Command {
        name: "help",
        alias: "",
        args: "[COMMAND]",
        help: "print this, or what a command takes",
        options: &[],
        run: |call, out| Ok(help(call, out)),
    },
    Command {
        name: "version",
        alias: "",
        args: "",
        help: "print the version, what was built in, for which machine, and from which commit",
        options: &[],
        run: |_, out| {
            out.text(&version());
            Ok(ops::YES)
        },
    },
];

/// Does what the command line says; the exit code.
pub fn run(args: impl Iterator<Item = OsString>) -> u8 {
    Out::stdio(|out| run_with(args, out))
}

fn run_with(args: impl Iterator<Item = OsString>, out: &mut Out) -> u8 {
    let args: Result<Vec<String>, OsString> = args.map(OsString::into_string).collect();
    let args = match args {
        Ok(args) => args,
        Err(bad) => return complain(out, "", &format!("argument {} is not UTF-8", bad.display())),
    };
    let Some((first, rest)) = args.split_first() else {
        out.complain(usage());
        return USAGE;
    };
    let name = match first.as_str() {
        "-h" | "--help" => "help",
        "-V" | "--version" => "version",
        other => other,
    };
    let Some(command) = find(name) else { return unknown(name, out) };
    let call = match parse(command, rest) {
        Ok(call) => call,
        Err(why) => return complain(out, command.name, &why),
    };
    if call.has(HELP.long) {
        out.text(&usage_of(command));
        return ops::YES;
    }
    (command.run)(&call, out).unwrap_or_else(|why| complain(out, command.name, &why))
}

/// The command with this name or alias.
pub fn find(name: &str) -> Option<&'static Command> {
    COMMANDS.iter().find(|c| c.name == name || (!c.alias.is_empty() && c.alias == name))
}

/// A checked command line.
struct Call {
    matches: Matches,
}

impl Call {
    fn arg(&self, i: usize) -> Option<&str> {
        self.matches.free.get(i).map(String::as_str)
    }

    /// An argument that the table says is there.
    fn path(&self, i: usize) -> &Path {
        Path::new(self.arg(i).unwrap_or_default())
    }

    // getopts panics when asked for an option that the command does not have.
    fn has(&self, long: &str) -> bool {
        self.matches.opt_defined(long) && self.matches.opt_present(long)
    }

    fn value(&self, long: &str) -> Option<String> {
        if self.matches.opt_defined(long) { self.matches.opt_str(long) } else { None }
    }

    fn duration_ms(&self, long: &str) -> Result<Option<u64>, String> {
        let Some(text) = self.value(long) else { return Ok(None) };
        match Kind::Duration(1, 30 * 86_400_000).parse(&text) {
            Ok(Value::Number(ms)) => Ok(Some(ms)),
            Ok(Value::Text(_)) => Ok(None),
            Err(why) => Err(format!("--{long}: {why}, such as 90s or 30m")),
        }
    }

    /// The hour of a host, as second and third argument.
    fn key(&self) -> Result<HourKey, String> {
        let name = self.arg(1).unwrap_or_default();
        if let Some(problem) = crate::name::problem(name) {
            return Err(format!("HOST {name:?} {problem}"));
        }
        Ok(HourKey { name: name.to_owned(), hour: hour(self.arg(2).unwrap_or_default())? })
    }

    fn filter(&self) -> Result<ops::inventory::Filter, String> {
        let host = self.value(HOST.long);
        if let Some(problem) = host.as_deref().and_then(crate::name::problem) {
            return Err(format!("--host {:?} {problem}", host.unwrap_or_default()));
        }
        let since = self
            .value(SINCE.long)
            .map(|text| hour(&text).map_err(|e| format!("--since: {e}")))
            .transpose()?;
        Ok(ops::inventory::Filter { host, since })
    }
}

fn hour(text: &str) -> Result<Hour, String> {
    Hour::parse(text).ok_or_else(|| format!("{text:?} is no hour YYYYMMDDHH and no day YYYYMMDD"))
}

fn parse(command: &Command, args: &[String]) -> Result<Call, String> {
    let mut options = Options::new();
    for o in command.options.iter().chain([&HELP]) {
        if o.arg.is_empty() {
            options.optflag(o.short, o.long, o.help);
        } else {
            options.optopt(o.short, o.long, o.help, o.arg);
        }
    }
    let matches = options.parse(args).map_err(|fail| match fail {
        Fail::UnrecognizedOption(name) => {
            let names = command.options.iter().map(|o| o.long).chain([HELP.long]);
            format!("no option `{name}`; the nearest is --{}", nearest(&name, names).0)
        }
        Fail::ArgumentMissing(name) => format!("option `{name}` needs a value"),
        Fail::OptionDuplicated(name) => format!("option `{name}` is given twice"),
        Fail::UnexpectedArgument(name) => format!("option `{name}` takes no value"),
        Fail::OptionMissing(name) => format!("option `{name}` is missing"),
    })?;
    let call = Call { matches };
    let wanted: Vec<&str> = command.args.split_whitespace().collect();
    let many = wanted.last().is_some_and(|w| w.trim_end_matches(']').ends_with("..."));
    let given = call.matches.free.len();
    if !call.has(HELP.long) {
        if let Some(missing) = wanted.get(given).filter(|w| !w.starts_with('[')) {
            return Err(format!("{missing} is missing"));
        }
        if let Some(extra) = call.arg(wanted.len()).filter(|_| !many) {
            return Err(format!("{extra:?} is one argument too many"));
        }
    }
    Ok(call)
}

fn complain(out: &mut Out, command: &str, why: &str) -> u8 {
    let place = if command.is_empty() { String::new() } else { format!("{command}: ") };
    let hint = if command.is_empty() { String::new() } else { format!(" {command}") };
    out.complain(format_args!("logd: {place}{why}; `logd help{hint}` tells what it takes"));
    USAGE
}

fn unknown(name: &str, out: &mut Out) -> u8 {
    let names = COMMANDS.iter().flat_map(|c| [c.name, c.alias]).filter(|n| !n.is_empty());
    // No command that looks like these does what is meant.
    if ["start", "restart", "run"].contains(&name) {
        out.complain(format_args!(
            "logd: no command {name:?}; a role is started by its own name, such as `logd tail CONFIG` or `logd fcollector CONFIG`, \
             by systemctl, or by cron; `logd help` lists all"
        ));
        return USAGE;
    }
    let name_of_role = if name == "follower" { "tail" } else { name };
    out.complain(format_args!(
        "logd: no command {name:?}; the nearest is `{}`; `logd help` lists all",
        nearest(name_of_role, names).0
    ));
    USAGE
}

/// What `logd help` prints.
pub fn usage() -> String {
    let mut text = String::from(
        "logd ships hourly log files to a collector and proves that each hour arrived whole and identical.\n\n\
         usage: logd COMMAND …\n\n",
    );
    for c in COMMANDS {
        let names = if c.alias.is_empty() { c.name.to_owned() } else { format!("{}, {}", c.name, c.alias) };
        let left = format!("{names} {}", c.args);
        let _ = writeln!(text, "  {left:<30} {}", c.help);
    }
    text.push_str(
        "\n`logd help COMMAND` tells a command's options. Times are written 200ms, 5s, 10m, 24h, 7d.\n\
         Exit code: 0 ok or yes, 1 no, 2 error, 64 wrong usage.\n",
    );
    text
}

/// What `logd help COMMAND` prints.
pub fn usage_of(command: &Command) -> String {
    let blank = if command.args.is_empty() { "" } else { " " };
    let mut text = format!("usage: logd {} [OPTIONS]{blank}{}\n\n", command.name, command.args);
    if !command.alias.is_empty() {
        let _ = writeln!(text, "Another name of it is `{}`.", command.alias);
    }
    let mut letters = command.help.chars();
    let first = letters.next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
    let _ = writeln!(text, "{first}{}.\n", letters.as_str());
    for o in command.options.iter().chain([&HELP]) {
        let short = if o.short.is_empty() { "    ".into() } else { format!("-{}, ", o.short) };
        let value = if o.arg.is_empty() { String::new() } else { format!(" {}", o.arg) };
        let left = format!("{short}--{}{value}", o.long);
        let _ = writeln!(text, "  {left:<24} {}", o.help);
    }
    text
}

fn help(call: &Call, out: &mut Out) -> u8 {
    let text = match call.arg(0) {
        None => usage(),
        Some(name) => match find(name) {
            Some(command) => usage_of(command),
            None => return unknown(name, out),
        },
    };
    out.text(&text);
    ops::YES
}

/// What `logd version` prints. The commit is what `LOGD_COMMIT` said when it was built.
fn version() -> String {
    let built = [
        ("tls", crate::tls::BUILT),
        ("mysql", cfg!(feature = "mysql")),
        ("etl", cfg!(feature = "etl")),
        ("mongodb", cfg!(feature = "mongodb")),
    ];
    let features: Vec<&str> = built.iter().filter(|(_, is)| *is).map(|(name, _)| *name).collect();
    let features = if features.is_empty() { "none".to_owned() } else { features.join(", ") };
    let libc = if cfg!(target_env = "musl") {
        "musl"
    } else if cfg!(target_env = "gnu") {
        "gnu"
    } else {
        "other libc"
    };
    let (arch, os) = (std::env::consts::ARCH, std::env::consts::OS);
    let commit = option_env!("LOGD_COMMIT").filter(|c| !c.is_empty()).unwrap_or("not told to the build");
    let version = env!("CARGO_PKG_VERSION");
    format!("logd {version}\nfeatures: {features}\ntarget: {arch}-{os}-{libc}\ncommit: {commit}\n")
}

fn role(role: Role, call: &Call, once: bool, timeout_ms: Option<u64>) -> u8 {
    let options =
        RunOptions { detach: call.has(DETACH.long), once, timeout_ms, init_db: call.has("init-db") };
    roles::run(role, call.path(0), options)
}

fn tail(call: &Call) -> Result<u8, String> {
    let (once, timeout_ms) = (call.has("once"), call.duration_ms("timeout")?);
    if timeout_ms.is_some() && !once {
        return Err("--timeout goes with --once; without it the command does not end".into());
    }
    Ok(role(Role::Tail, call, once, timeout_ms))
}

fn status_of(call: &Call, out: &mut Out) -> Result<u8, String> {
    let view = match (call.has("all"), call.has("missing"), call.has("json")) {
        (false, false, false) => status::View::Summary,
        (true, false, false) => status::View::All,
        (false, true, false) => status::View::Missing,
        (_, false, true) => status::View::Json,
        _ => return Err("--missing goes neither with --json nor with --all".into()),
    };
    if call.has("watch") {
        if view != status::View::Summary {
            return Err("--watch goes with --host and --since only".into());
        }
        return Ok(status::watch(call.path(0), &call.filter()?, out));
    }
    Ok(status::run(call.path(0), &call.filter()?, view, out))
}

fn spool_of(call: &Call, out: &mut Out) -> Result<u8, String> {
    let word = call.arg(0).unwrap_or_default();
    let (all, json, to) = (call.has("all"), call.has("json"), call.value("to"));
    let action = match (word, to) {
        ("check", None) => spool::Action::Check,
        ("ls", None) => spool::Action::Ls { all, json },
        ("retry", None) => spool::Action::Retry,
        ("salvage", Some(to)) => spool::Action::Salvage { to: to.into(), all },
        ("salvage", None) => return Err("salvage needs --to NEW, the directory to write".into()),
        ("check" | "ls" | "retry", Some(_)) => return Err("--to goes with salvage".into()),
        _ => {
            let near = nearest(word, ["check", "ls", "retry", "salvage"].into_iter()).0;
            return Err(format!("no {word:?}; the nearest is `spool {near}`"));
        }
    };
    if all && !matches!(word, "ls" | "salvage") || json && word != "ls" {
        return Err(format!("--{} does not go with {word}", if json { "json" } else { "all" }));
    }
    Ok(spool::run(call.path(1), &action, out))
}

fn retire_host(call: &Call, out: &mut Out) -> Result<u8, String> {
    let name = call.arg(1).unwrap_or_default();
    if let Some(problem) = crate::name::problem(name) {
        return Err(format!("HOST {name:?} {problem}"));
    }
    let since =
        call.value(SINCE.long).map(|text| hour(&text).map_err(|e| format!("--since: {e}"))).transpose()?;
    Ok(accept::retire(call.path(0), name, (since, call.arg(2).unwrap_or_default()), out))
}

fn prune_of(call: &Call, out: &mut Out) -> Result<u8, String> {
    let text =
        call.value("older").ok_or("--older is missing, such as --older 30d; it says which hours go")?;
    let older_ms = match Kind::Duration(prune::OLDER_MIN_MS, 100 * 365 * 86_400_000).parse(&text) {
        Ok(Value::Number(ms)) => ms,
        Ok(Value::Text(_)) => 0,
        Err(why) => return Err(format!("--older: {why}, such as 30d")),
    };
    let asked = prune::Asked {
        older_ms,
        keep_certificates: call.has("keep-certificates"),
        dry_run: call.has("dry-run"),
    };
    Ok(prune::run(call.path(0), &asked, out))
}

fn key_new(call: &Call, out: &mut Out) -> Result<u8, String> {
    let word = call.arg(0).unwrap_or_default();
    if word != "new" {
        return Err(format!("no {word:?}; `logd key new HOST` makes a key for a host"));
    }
    let hosts = call.matches.free.iter().skip(1);
    let keys: Vec<Key> = hosts.map(|host| Key::new(host)).collect::<Result<_, _>>()?;
    for key in keys {
        out.line(key.line());
    }
    Ok(ops::YES)
}

fn verify_of(call: &Call, out: &mut Out) -> Result<u8, String> {
    match (call.has("mongodb"), call.arg(1)) {
        (false, None) => Ok(verify::run(call.path(0), &call.filter()?, out)),
        (false, Some(extra)) => Err(format!(
            "{extra:?} is one argument too many; an hour goes with --mongodb, or as --since HOUR"
        )),
        (true, None) => Err("HOUR is missing: verify --mongodb CONFIG HOUR".into()),
        (true, Some(text)) => Ok(documents_of(call.path(0), hour(text)?, out)),
    }
}

#[cfg(not(feature = "mongodb"))]
fn documents_of(_: &Path, _: Hour, out: &mut Out) -> u8 {
    out.complain(format_args!("logd: verify: {}", crate::roles::documents::NOT_BUILT));
    ops::ERROR
}

#[cfg(feature = "mongodb")]
fn documents_of(config: &Path, hour: Hour, out: &mut Out) -> u8 {
    ops::documents::run(config, hour, out)
}

#[cfg(not(feature = "etl"))]
#[expect(clippy::unnecessary_wraps, reason = "same shape as with the feature")]
fn etl_of(_: &Call, out: &mut Out) -> Result<u8, String> {
    out.complain(format_args!("logd: etl: {}", crate::roles::tables::NOT_BUILT));
    Ok(ops::ERROR)
}

#[cfg(feature = "etl")]
fn etl_of(call: &Call, out: &mut Out) -> Result<u8, String> {
    let name = call.value("name");
    let asked = ops::etl::Asked {
        files: call.matches.free.get(1..).unwrap_or_default(),
        name: name.as_deref(),
        again: call.has("again"),
        hours: call.filter()?,
    };
    Ok(ops::etl::run(call.path(0), &asked, out))
}

fn ready_for(call: &Call, out: &mut Out) -> Result<u8, String> {
    let hour = hour(call.arg(1).unwrap_or_default())?;
    let wait_ms = call.duration_ms("wait")?.unwrap_or(0);
    let options = ready::Options { wait_ms, strict: call.has("strict") };
    Ok(ready::run(call.path(0), hour, &options, out))
}

fn resend_to(call: &Call, out: &mut Out) -> Result<u8, String> {
    let packs = call.value("packs").map(|list| resend::ranges(&list).map_err(|e| format!("--packs: {e}")));
    let packs = packs.transpose()?.unwrap_or_default();
    let what = match call.arg(1).unwrap_or_default() {
        "-" => resend::What::Lines,
        text => match text.split_once("..") {
            Some((from, to)) => resend::What::Hours(hour(from)?, hour(to)?),
            None => resend::What::Hours(hour(text)?, hour(text)?),
        },
    };
    match what {
        resend::What::Hours(from, to) if from.is_daily() != to.is_daily() || from > to => {
            return Err("FROM..TO are two hours, or two days, the earlier one first".into());
        }
        resend::What::Hours(from, to) if packs.is_empty() || from == to => {}
        _ if packs.is_empty() => {}
        _ => return Err("--packs goes with one hour".into()),
    }
    let stream = call.value("stream").unwrap_or_default();
    if what == resend::What::Lines && !stream.is_empty() {
        return Err("--stream goes with hours; the lines name their streams themselves".into());
    }
    let to = call.value("to");
    if to.is_some() && !packs.is_empty() {
        return Err("--to is for whole hours, without --packs".into());
    }
    let asked = resend::Asked { what, stream: &stream, packs: &packs, to: to.as_deref() };
    Ok(resend::run(call.path(0), &asked, out))
}

#[cfg(test)]
mod tests;

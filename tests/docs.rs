//! The manual and the README say what the code does: commands, options, keys, states, formats, files.
//!
//! The pages are read in a simple way, which the comment at the top of each page repeats: `.It` begins an item, its
//! arguments are the item's names, the lines up to the next `.It` or the end of the list are its text. An item without a
//! text shares that of the next one. In comparisons macros, quotes and line breaks do not count, words do.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)] // a test stops at the first surprise

use logd::cli::{COMMANDS, Command, Opt};
use logd::clock::Hour;
use logd::config::keys::{self, KEYS, Key, SECTIONS};
use logd::config::{Allow, Config, ReceiverConfig, Role, SpoolConfig};
use logd::disk::Disk;
use logd::footprint::{Footprint, Pending};
use logd::instance::Instance;
use logd::integrity::{Certificate, lines};
use logd::journal::{Cut, Event};
use logd::metrics;
use logd::ops::hour::State;
use logd::overview;
use logd::pack::{Checked, Encoder, Entry, Header, HourKey, Meta, Seal, Totals, split_frame};
use logd::receiver::gate::{Answer, Gate};
use logd::receiver::{Budget, Session};
use logd::record;
use logd::roles::follower::{Job, Load};
use logd::spool::{Shelf, Spool};
use logd::tail::Identity;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

// ---- pages ----------------------------------------------------------------------------------------------------

const PAGES: [&str; 4] = ["man/logd.8", "man/logd.conf.5", "man/logd-pack.7", "man/logd-operate.7"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
}

/// The lines of a section (`Sh NAME`) or a subsection (`Ss NAME`).
fn section(file: &str, heading: &str) -> Vec<String> {
    let ends: &[&str] = if heading.starts_with("Sh") { &[".Sh "] } else { &[".Sh ", ".Ss "] };
    let text = read(file);
    let mut lines = text.lines().skip_while(|l| l.strip_prefix('.') != Some(heading));
    assert!(lines.next().is_some(), "{file}: no .{heading}");
    lines.take_while(|l| !ends.iter().any(|e| l.starts_with(e))).map(str::to_owned).collect()
}

/// One item of a list.
struct Item {
    /// The arguments of `.It`.
    head: Vec<String>,
    /// What follows, as [`plain`] text.
    text: String,
}

impl Item {
    /// The arguments after macro `name`: of `Cm tail Ar CONFIG` the one after `Cm` is `tail`.
    fn arg(&self, name: &str) -> Option<&str> {
        let at = self.head.iter().position(|t| t == name)?;
        self.head.get(at + 1).map(String::as_str)
    }

    /// Every argument that is the first one after macro `name`.
    fn args(&self, name: &str) -> Vec<&str> {
        self.head.windows(2).filter(|w| w[0] == name).map(|w| w[1].as_str()).collect()
    }
}

fn items(lines: &[String]) -> Vec<Item> {
    let mut all: Vec<(Vec<String>, Vec<&str>)> = Vec::new();
    let mut inside = false;
    for line in lines {
        if let Some(head) = line.strip_prefix(".It") {
            all.push((head.split_whitespace().map(str::to_owned).collect(), Vec::new()));
            inside = true;
        } else if line.starts_with(".El") {
            inside = false;
        } else if let (true, Some(last)) = (inside, all.last_mut()) {
            last.1.push(line);
        }
    }
    let mut out: Vec<Item> = Vec::new();
    for (head, text) in all.into_iter().rev() {
        let mut text = plain(&text);
        if text.is_empty() {
            text = out.last().map_or(String::new(), |next| next.text.clone());
        }
        out.push(Item { head, text });
    }
    out.reverse();
    out
}

/// The words of mdoc lines: without macros, quotes and doubled blanks.
fn plain(lines: &[&str]) -> String {
    let mut text = String::new();
    for line in lines {
        let (is_macro, mut dash) = (line.starts_with('.'), "");
        for word in line.trim_start_matches('.').split_whitespace() {
            // A macro, at the beginning or among the arguments: two letters, the first a capital.
            if let (true, &[a, b]) = (is_macro, word.as_bytes())
                && a.is_ascii_uppercase()
                && b.is_ascii_lowercase()
            {
                dash = if word == "Fl" { "-" } else { "" };
                continue;
            }
            let glue = is_macro && matches!(word, "," | "." | ";" | ":" | ")") || text.is_empty();
            text += if glue { "" } else { " " };
            text += dash;
            text += word;
            dash = "";
        }
    }
    unquoted(&text)
}

/// The same for a help text of the code.
fn unquoted(text: &str) -> String {
    let mut text = text.replace('…', "...").replace("\\-", "-");
    for gone in ["\\(oq", "\\(cq", "\\&", "`", "\""] {
        text = text.replace(gone, "");
    }
    text
}

fn begins_with(text: &str, wanted: &str) -> bool {
    let small = |t: &str| {
        let mut chars = t.chars();
        chars.next().map(|c| c.to_ascii_lowercase()).into_iter().chain(chars).collect::<String>()
    };
    small(text).starts_with(&small(&unquoted(wanted)))
}

fn set<T: AsRef<str>>(names: impl IntoIterator<Item = T>) -> BTreeSet<String> {
    names.into_iter().map(|n| n.as_ref().to_owned()).collect()
}

/// The `.It Cm` names of a section.
fn named(file: &str, heading: &str) -> BTreeSet<String> {
    set(items(&section(file, heading)).iter().filter_map(|i| i.arg("Cm")))
}

// ---- logd.8 ---------------------------------------------------------------------------------------------------

/// `-d` and `--detach` as the manual names them.
fn option_names(o: &Opt) -> BTreeSet<String> {
    set([o.short.to_owned(), format!("-{}", o.long)].into_iter().filter(|n| !n.is_empty()))
}

#[test]
fn the_manual_has_every_command_and_option_in_the_words_of_the_program() {
    let all = items(&section("man/logd.8", "Sh COMMANDS"));
    let first = all.iter().position(|i| i.arg("Cm").is_some()).unwrap();
    let general: Vec<_> = all[..first].iter().map(|i| set(i.args("Fl"))).collect();
    assert_eq!(general, [set(["h", "-help"]), set(["V", "-version"])]);

    let mut found: Vec<(Vec<&str>, &Item, Vec<&Item>)> = Vec::new();
    for item in &all[first..] {
        match item.arg("Cm") {
            // Names of one command share its text.
            Some(name) => match found.last_mut() {
                Some(last) if last.2.is_empty() && last.1.text == item.text => last.0.push(name),
                _ => found.push((vec![name], item, Vec::new())),
            },
            None => found.last_mut().unwrap().2.push(item),
        }
    }
    let names = |c: &'static Command| [c.name, c.alias].into_iter().filter(|n| !n.is_empty());
    let told: Vec<_> = found.iter().map(|f| set(&f.0)).collect();
    let real: Vec<_> = COMMANDS.iter().map(|c| set(names(c))).collect();
    assert_eq!(told, real, "commands, in their order");
    for ((names, item, options), command) in found.iter().zip(COMMANDS) {
        let name = command.name;
        assert!(begins_with(&item.text, command.help), "{names:?}: {:?}, not {:?}", item.text, command.help);
        let arguments: Vec<&str> =
            item.head.iter().skip(2).filter(|t| *t != "Ar").map(String::as_str).collect();
        let wanted: String = command.args.replace('|', " | ").replace('[', "Op ").replace(']', "");
        assert_eq!(arguments.join(" "), wanted, "{name}");
        let told: Vec<_> = options.iter().map(|o| set(o.args("Fl"))).collect();
        let real: Vec<_> = command.options.iter().map(option_names).collect();
        assert_eq!(told, real, "options of {name}");
        for (item, option) in options.iter().zip(command.options) {
            assert!(begins_with(&item.text, option.help), "{name} --{}: {:?}", option.long, item.text);
            assert_eq!(item.arg("Ar").unwrap_or_default(), option.arg, "{name} --{}", option.long);
        }
    }
}

#[test]
fn the_synopsis_has_every_command_with_its_options() {
    let text = section("man/logd.8", "Sh SYNOPSIS").join("\n");
    let parts: Vec<&str> = text.split(".Nm").skip(1).collect();
    assert_eq!(parts.len(), COMMANDS.len());
    for (part, command) in parts.iter().zip(COMMANDS) {
        let words: BTreeSet<&str> = part.split_whitespace().collect();
        assert!(part.contains(&format!(".Cm {}", command.name)), "{part}");
        for o in command.options {
            assert!(
                option_names(o).iter().any(|n| words.contains(n.as_str())),
                "{} --{}",
                command.name,
                o.long
            );
        }
    }
}

#[test]
fn the_manual_explains_every_state_of_an_hour() {
    let told = items(&section("man/logd.8", "Sh HOUR STATES"));
    let told: Vec<String> = told.iter().map(|i| i.head[1..].join(" ")).collect();
    assert_eq!(set(&told), set(State::ALL.map(State::word)));
    assert_eq!(told.len(), State::ALL.len());
    let readme = read("README.md");
    for state in State::ALL.iter().filter(|s| s.wrong()) {
        assert!(readme.contains(&format!("`{}`", state.word())), "README: {}", state.word());
    }
}

// ---- logd.conf.5 ----------------------------------------------------------------------------------------------

/// The sentences with which a key's text begins.
fn facts(key: &Key) -> String {
    let value = format!("Value: {}.", key.kind.describe());
    let default = match key.default {
        _ if key.required => "Required.".to_owned(),
        "" => "No default.".to_owned(),
        value => format!("Default: {value}."),
    };
    let older = format!("Older spelling: {}.", key.alias);
    let all = [
        (!key.unused, value.as_str()),
        (!key.unused, &default),
        (key.original, "Key of the original."),
        (!key.alias.is_empty(), &older),
        (key.unused, "Accepted and ignored."),
        (true, key.help),
    ];
    all.iter().filter(|(yes, _)| *yes).map(|(_, text)| *text).collect::<Vec<_>>().join(" ")
}

#[test]
fn the_manual_has_every_key_with_its_sections_and_default() {
    let told = items(&section("man/logd.conf.5", "Sh KEYS"));
    let names: Vec<_> = told.iter().map(|i| (i.arg("Cm").unwrap(), i.args("Bo"))).collect();
    let written = |s: &&'static str| if *s == keys::STREAM { "tail:NAME" } else { *s };
    let real: Vec<_> =
        KEYS.iter().map(|k| (k.name, k.sections.iter().map(written).collect::<Vec<_>>())).collect();
    assert_eq!(names, real, "keys, in the order of the table");
    for (item, key) in told.iter().zip(KEYS) {
        assert!(
            begins_with(&item.text, &facts(key)),
            "{} {:?}:\n{}\nnot\n{}",
            key.name,
            key.sections,
            item.text,
            facts(key)
        );
    }
    let sections = items(&section("man/logd.conf.5", "Sh SECTIONS"));
    assert_eq!(
        set(sections.iter().filter_map(|i| i.arg("Cm"))),
        set(SECTIONS.iter().copied().chain(["tail:NAME"]))
    );
}

// ---- examples and files ---------------------------------------------------------------------------------------

/// Names of the form `etc/NAME.ini` in a text; `/etc/logd/x.ini` is no such name.
fn examples(text: &str) -> BTreeSet<String> {
    let name = |rest: &str| {
        let end = rest.find(|c: char| !c.is_ascii_lowercase() && c != '-').unwrap_or(rest.len());
        rest[end..].starts_with(".ini").then(|| format!("etc/{}.ini", &rest[..end]))
    };
    text.match_indices("etc/").filter_map(|(at, e)| name(&text[at + e.len()..])).collect()
}

#[test]
fn every_example_is_named_exists_and_loads() {
    let mut all = examples(&read("README.md"));
    for page in PAGES {
        all.extend(examples(&read(page)));
    }
    let there =
        fs::read_dir(root().join("etc")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let there: Vec<String> = there.filter(|n| Path::new(n).extension().is_some_and(|e| e == "ini")).collect();
    assert_eq!(all, set(there.iter().map(|n| format!("etc/{n}"))));
    for name in all {
        let config = Config::load(&root().join(&name)).unwrap_or_else(|e| panic!("{e}"));
        if let Err(e) = config.check_all() {
            panic!("{e}");
        }
    }
    // The configurations that the manual shows.
    let mut shown = 0;
    for text in PAGES.iter().flat_map(|p| read(p).split(".Bd").skip(1).map(str::to_owned).collect::<Vec<_>>())
    {
        let block = text.split(".Ed").next().unwrap_or_default();
        let from = block.find("\n[tail]").or_else(|| block.find("\n[fcollector]"));
        let Some(from) = from else { continue };
        let ini: Vec<&str> =
            block[from..].lines().take_while(|l| *l != "END").filter(|l| !l.starts_with('$')).collect();
        let config = Config::parse("manual", ini.join("\n").as_bytes());
        if let Err(e) = config.check_all() {
            panic!("{e}\n{block}");
        }
        shown += 1;
    }
    assert!(shown >= 4, "{shown} configurations");
}

/// The unit of a role, and of each line `KEY=VALUE` the values.
fn unit(role: Role) -> (String, impl Fn(&str) -> Vec<String>) {
    let text = read(&format!("etc/systemd/logd-{}.service", role.command()));
    let lines = text.clone();
    let values = move |key: &str| {
        let found = lines.lines().filter_map(|l| l.strip_prefix(key)?.strip_prefix('='));
        found.map(str::to_owned).collect::<Vec<_>>()
    };
    (text, values)
}

#[test]
fn the_units_start_their_role_and_give_what_it_needs() {
    let sandbox = |text: &str| {
        let block = text.split("\n# Sandbox: ").nth(1).unwrap().to_owned();
        // The follower's has a line more.
        block.split("\n# For `nice`").next().unwrap().split("\n[Install]").next().unwrap().trim().to_owned()
    };
    let same = sandbox(&unit(Role::Tail).0);
    assert!(same.lines().count() > 25, "{same}");
    let default = |role: Role, name: &str| {
        let key = KEYS.iter().find(|k| k.name == name && k.sections.contains(&role.section())).unwrap();
        key.default.trim_end_matches('s').parse::<u64>().unwrap()
    };
    for role in [Role::Tail, Role::Collector, Role::Fcollector, Role::Etlcollector, Role::Monitor] {
        let (text, values) = unit(role);
        let name = role.command();
        let number = |key: &str| values(key)[0].parse::<u64>().unwrap();
        assert_eq!(values("ExecStartPre"), [format!("/usr/bin/logd check /etc/logd/{name}.ini")]);
        assert_eq!(values("ExecStart"), [format!("/usr/bin/logd {name} /etc/logd/{name}.ini")]);
        // Where `logd status`, which systemd does not start, looks too.
        assert_eq!(values("StateDirectory"), [format!("logd/{name}")]);
        assert_eq!(sandbox(&text), same, "{name}: the sandbox is the same in all units");
        assert!(number("TimeoutStopSec") > default(role, "quit_timeout"), "{name}");
        if role != Role::Tail && role != Role::Monitor {
            let connections = default(role, "max_connections");
            assert!(number("TasksMax") > connections && number("LimitNOFILE") > connections, "{name}");
        }
    }
    let load = |file: &str| Config::load(&root().join(file)).unwrap();
    let store = load("etc/fcollector.ini").store(false).unwrap().0;
    let tables = load("etc/etlcollector.ini").etl(false).unwrap().0.store;
    let database = load("etc/mgocollector.ini").mongo(false).unwrap().0.store;
    for (role, save_dir) in [
        (Role::Fcollector, store.save_dir),
        (Role::Etlcollector, tables.save_dir),
        (Role::Mgocollector, database.save_dir),
    ] {
        let (_, values) = unit(role);
        assert_eq!(values("ReadWritePaths"), [save_dir.to_str().unwrap()]);
        assert_eq!(values("RequiresMountsFor"), values("ReadWritePaths"));
    }
}

#[test]
fn the_packages_have_every_unit_and_cron_starts_every_role() {
    let script = read("etc/build-packages");
    let roles = script.lines().find_map(|l| l.strip_prefix("roles='")?.strip_suffix('\'')).unwrap();
    let units = fs::read_dir(root().join("etc/systemd")).unwrap();
    let units = units.map(|e| e.unwrap().file_name().into_string().unwrap());
    assert_eq!(set(units), set(roles.split(' ').map(|r| format!("logd-{r}.service"))));
    let cron = read("etc/logd.cron");
    let lines: Vec<&str> = cron.lines().filter(|l| l.starts_with('*')).collect();
    let wanted = |r| {
        format!(
            "* * * * * logd [ -d /run/systemd/system ] || [ ! -x /usr/bin/logd ] || [ ! -f /etc/logd/{r}.ini ] || \
             exec logd {r} /etc/logd/{r}.ini"
        )
    };
    assert_eq!(lines, roles.split(' ').map(wanted).collect::<Vec<_>>());
}

#[test]
fn every_path_in_the_readme_exists() {
    let text = read("README.md");
    // Between backquotes, or the target of a link.
    let quoted = text.split('`').skip(1).step_by(2);
    let linked = text.split("](").skip(1).filter_map(|t| t.split(')').next());
    let ours = ["src/", "tests/", "etc/", "man/"];
    let mut seen = 0;
    for word in quoted.chain(linked).flat_map(str::split_whitespace) {
        let path = word.trim_end_matches([',', '.', ';', ':']);
        if ours.iter().any(|d| path.starts_with(d)) || ["LICENSE", "CHANGELOG.md"].contains(&path) {
            let file = path.split_once('#').map_or(path, |(file, _)| file);
            assert!(root().join(file).exists(), "README: {path}");
            seen += 1;
        }
    }
    assert!(seen > 30, "{seen} paths");
    for file in fs::read_dir(root().join("src")).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        if let Some(name) = name.strip_suffix(".rs") {
            assert!(text.contains(&format!("src/{name}.rs")), "README's map: src/{name}.rs");
        }
    }
}

// ---- logd-pack.7 ----------------------------------------------------------------------------------------------

const FORMATS: &str = "man/logd-pack.7";

fn key() -> HourKey {
    HourKey { name: "web1".into(), hour: Hour::parse("2026112205").unwrap() }
}

/// A last pack with everything that a header can say.
fn full_meta(raw: &[u8]) -> Meta {
    let seal = Seal::of(raw);
    Meta {
        key: key(),
        generation: 7,
        id: 1,
        lines: 1,
        done: true,
        repull: true,
        seal: Some(seal),
        totals: Some(Totals { lines: 1, bytes: seal.bytes, sha256: seal.sha256 }),
        state: "loss".into(),
        loss: "5-9".into(),
        day_hours: 24,
        clock: true,
    }
}

/// The frame that a follower sends.
fn full_frame() -> Vec<u8> {
    let raw = b"a line\n".to_vec();
    let meta = Box::new(full_meta(&raw));
    let (mut frame, key) = (Vec::new(), logd::auth::Key::new("web1").unwrap());
    Job { number: 1, load: Load::Raw(meta, raw) }.frame(&mut Encoder::new(6), Some(&key), "now", &mut frame);
    frame
}

fn keys_of(entry: &Entry) -> BTreeSet<String> {
    set(entry.keys())
}

fn members(json: &[u8]) -> BTreeSet<String> {
    let value: Value = serde_json::from_slice(json).unwrap();
    set(value.as_object().unwrap().keys())
}

#[test]
fn the_wire_table_names_the_keys_that_are_sent() {
    let frame = full_frame();
    let (header, _) = split_frame(&frame).unwrap();
    assert_eq!(keys_of(&header.route[0]), named(FORMATS, "Ss The entry of the pack"));
    assert_eq!(members(&header.json()), set(["Route", "PackLen"]));
}

#[test]
fn the_relay_table_names_the_keys_that_a_relay_appends() {
    let (disk, _sim) = Disk::sim(1);
    let dir = Path::new("/spool");
    let mut quarantine = Shelf::open(&disk, Path::new("/quarantine"), 1 << 20, 1 << 20).unwrap();
    let conf = SpoolConfig { size: 1 << 20, segment_size: 1 << 16, min_free: 0, group_commit_ms: 0 };
    let spool = Spool::open(&disk, dir, &mut quarantine, &conf, &mut |_| {}, &mut |_, _| {}).unwrap();
    let mut gate = Gate::relay(spool, "relay1".into());
    let receiver = ReceiverConfig {
        listen: String::new(),
        allow: Allow::any(),
        allow_set: true,
        max_connections: 1,
        max_connections_per_address: 1,
        header_timeout_ms: 1,
        body_timeout_ms: 1,
        body_rate_min: 1,
        idle_timeout_ms: 1,
        max_header: 64 << 10,
        max_body: 1 << 20,
        max_raw: 1 << 20,
        inflight_bytes: 1 << 20,
        keys_file: None,
        keys_required: true,
        max_unproven_per_address: 1,
        tls: None,
    };
    let budget = Budget::new(1 << 20);
    let mut session = Session::new(&Arc::new(receiver), &budget, [10, 0, 0, 7].into(), false);
    let frame = full_frame();
    let (mut at, mut arrived) = (0, None);
    while arrived.is_none() {
        let (used, pack) = session.feed(&frame[at..]).unwrap_or_else(|e| panic!("{e:?}"));
        (at, arrived) = (at + used, pack);
    }
    assert_eq!(gate.offer(arrived.unwrap(), 0, "now").unwrap(), Answer::When(1));
    gate.spool.sync().unwrap();
    let mut stored = Vec::new();
    gate.spool.reader().fetch(1, 1, &mut stored).unwrap().unwrap();
    let (header, _) = split_frame(&stored).unwrap();
    assert_eq!(header.route.len(), 2);
    assert_eq!(keys_of(&header.route[1]), named(FORMATS, "Ss The entry of a relay"));
}

#[test]
fn the_tables_of_the_store_name_what_is_written() {
    let meta = full_meta(b"a line\n");
    let header = Header { route: vec![meta.entry()], pack_len: 20 };
    let line = lines::encode(&header, 0, &Checked { bytes: 7, crc32: 1 });
    assert_eq!(members(&line), named(FORMATS, "Ss The proof"));

    let certificate = Certificate {
        format: 1,
        name: "web1".into(),
        hour: key().hour,
        generation: 0,
        revision: 1,
        packs: 1,
        lines: 1,
        bytes: 7,
        digest: String::new(),
        sha256: String::new(),
        verified: false,
        authentic: false,
        empty: false,
        state: "loss".into(),
        loss: "5-9".into(),
        day_hours: 24,
        cut: "clock".into(),
        certified: 0,
    };
    assert_eq!(members(&record::to_json(&certificate)), named(FORMATS, "Ss Certificate"));
}

#[test]
fn the_tables_of_state_files_name_what_is_written() {
    let (disk, _sim) = Disk::sim(1);
    let dir = Path::new("/state");
    let _instance = Instance::open(&disk, dir, "tail", Path::new("/etc/tail.ini")).unwrap();
    let written = disk.read(&dir.join("role.json"), 1 << 16).unwrap();
    assert_eq!(members(&written), named(FORMATS, "Ss role.json"));

    let identity = Identity {
        format: 1,
        name: "web1".into(),
        zone: "UTC".into(),
        first_hour: key().hour,
        copies_until: Some(key().hour),
        copies_generation: 1,
        from_end: true,
        files: "/l/a.YYYYMMDDHH".into(),
    };
    identity.save(&disk, &Identity::path(dir, "")).unwrap();
    let written = disk.read(&dir.join("follower.json"), 1 << 16).unwrap();
    assert_eq!(members(&written), named(FORMATS, "Ss follower.json"));

    let mut footprint = Footprint::default();
    footprint.accept(&key(), 0, 2, Pending { bytes: 7, crc32: 1, mark: 0, seq: 1, weight: 20 }, 0);
    footprint.save(&disk, dir, "now").unwrap();
    let written: Value =
        serde_json::from_slice(&disk.read(&dir.join("footprint.json"), 1 << 16).unwrap()).unwrap();
    assert_eq!(set(written.as_object().unwrap().keys()), set(["web1_2026112205", "check"]));
    let hour = set(written["web1_2026112205"].as_object().unwrap().keys());
    assert_eq!(hour, named(FORMATS, "Ss footprint.json"));
}

#[test]
fn the_table_of_the_journal_names_what_is_written() {
    let hour = key().to_string();
    let seal = Seal::of(b"a line\n");
    let events = [
        Event::Opened {
            hour: hour.clone(),
            generation: 0,
            path: "/log".into(),
            first_id: 1,
            pos: 0,
            clock: true,
        },
        Event::Cut { hour: hour.clone(), cut: Cut { aside: true, ..Cut::new(1, 0, 1, &seal, true) } },
        Event::Note { hour: hour.clone(), what: "loss".into(), range: Some((5, None)), pos: Some(9) },
        Event::Rotated { hour: hour.clone(), pos: 0 },
        Event::Acked { hour: hour.clone(), generation: 0, ids: vec![1], to: Some("b:1302".into()) },
        Event::Again { hour: hour.clone(), generation: 0, ids: vec![1] },
        Event::Archived { hour },
    ];
    let told = items(&section(FORMATS, "Ss Journal"));
    assert_eq!(told.len(), events.len());
    for (item, event) in told.iter().zip(events) {
        let value = serde_json::to_value(&event).unwrap();
        assert_eq!(item.arg("Cm"), value["t"].as_str());
        let keys = item.text.strip_prefix("Keys: ").and_then(|t| t.split('.').next()).unwrap();
        let mut wanted = set(value.as_object().unwrap().keys());
        wanted.remove("t");
        assert_eq!(set(keys.split(", ")), wanted, "{event:?}");
    }
}

// ---- metrics --------------------------------------------------------------------------------------------------

#[test]
fn the_manual_has_every_metric_in_the_words_of_the_program() {
    let told = items(&section("man/logd.8", "Ss Metrics"));
    let names: Vec<String> = told.iter().filter_map(|i| i.arg("Cm")).map(str::to_owned).collect();
    let mut sorted = names.clone();
    sorted.sort();
    assert_eq!(sorted, metrics::names());
    for m in metrics::ALL {
        let item = told.iter().find(|i| i.arg("Cm") == Some(m.name)).unwrap();
        assert!(begins_with(&item.text, m.help), "{}: {:?}, not {:?}", m.name, item.text, m.help);
        let label = item.head.iter().any(|t| t == m.label.0);
        assert!(m.label.0.is_empty() || label, "{}: {:?} has no {}", m.name, item.head, m.label.0);
    }
    // Those of one name stand for all states of the page.
    let states: Vec<&str> = metrics::HOURS.iter().map(|m| m.label.1).collect();
    assert_eq!(set(states), set(overview::STATES));
}

//! From values to the structs of the stages, with the rules that concern two keys at once.

use std::path::PathBuf;

use super::allow::Allow;
use super::read::Reader;
use super::value::misread;
use super::{
    DbConfig, EtlConfig, Failover, HttpConfig, Level, LogConfig, MongoConfig, MonitorConfig, Peer,
    ReceiverConfig, RelayConfig, Role, SenderConfig, SpoolConfig, Start, StoreConfig, StreamConfig,
    TailConfig, TlsListen, TlsSend, WatchConfig, keys, value,
};

pub(super) fn tail(r: &mut Reader) -> TailConfig {
    let s = Role::Tail.section();
    let config = TailConfig {
        streams: streams(r, s),
        record_file: path(r, s, "record_file"),
        recv_buffer_size: r.optional_number(s, "recv_buffer_size"),
        name: r.text(s, "name"),
        state_dir: path(r, s, "state_dir"),
        timezone: r.text(s, "timezone"),
        pack_bytes: r.count(s, "pack_bytes"),
        tail_memory: r.count(s, "tail_memory"),
        max_line: r.count(s, "max_line"),
        journal_days: r.number(s, "journal_days"),
        scan_interval_ms: r.number(s, "scan_interval"),
        window_packs: r.count(s, "window_packs"),
        max_rate: r.number(s, "max_rate"),
        nice: r.number(s, "nice") as i32,
        compressors: r.count(s, "compressors"),
        // The journal's sync paces the follower; a second wait in its spool would share nothing.
        spool: spool(r, s, 0),
        key_file: path(r, s, "key_file"),
        watch: watch(r, s),
        sender: sender(r, s),
        log: log(r),
        http: http(r),
        quit_timeout_ms: r.number(s, "quit_timeout"),
    };
    at_most(r, s, ("pack_bytes", config.pack_bytes as u64), ("tail_memory", config.tail_memory as u64));
    at_most(r, s, ("max_line", config.max_line as u64), ("tail_memory", config.tail_memory as u64));
    starts(r, s, &config);
    undated(r, s, &config);
    config
}

/// The section of a stream.
fn section(s: &str, stream: &StreamConfig) -> String {
    if stream.stream.is_empty() { s.to_owned() } else { keys::STREAM.to_owned() + &stream.stream }
}

/// Where a stream begins must be a file of it: a day that began at each of its hours would be certified 24 times.
fn starts(r: &mut Reader, s: &str, config: &TailConfig) {
    for stream in &config.streams {
        let (Some(Start::Hour(hour)), file) = (stream.start, &stream.log_file) else { continue };
        let text = match (file.contains('<'), file.contains("%H"), hour.is_daily()) {
            (false, ..) => format!(
                "`{hour}`: {file} has no date in its name, and nobody knows where that hour begins in it; use beginning or end"
            ),
            (true, true, true) => {
                format!("`{hour}`: a file of {file} holds an hour; write the hour, {hour}00")
            }
            (true, false, false) => {
                format!("`{hour}`: a file of {file} holds a day; write the day, {}", hour.day_of())
            }
            _ => continue,
        };
        r.error(r.line_of(&section(s, stream), "start"), "start", text);
    }
}

/// Files without a date in their name are rotated away, perhaps before their packs are acknowledged.
fn undated(r: &mut Reader, s: &str, config: &TailConfig) {
    for stream in config.streams.iter().filter(|stream| !stream.log_file.contains('<')) {
        let section = section(s, stream);
        let two = (config.pack_bytes.max(config.max_line) as u64).saturating_mul(2);
        let least = two.saturating_add(1 << 20);
        if config.spool.size < least {
            let text = format!(
                "{} has no date in its name: its packs wait in the retry spool, which must hold two of them; spool_size \
                 must be at least {least}",
                stream.log_file
            );
            r.error(r.line_of(&section, "log_file"), "log_file", text);
        }
    }
}

/// `[tail]` itself and each `[tail:NAME]`.
fn streams(r: &mut Reader, s: &str) -> Vec<StreamConfig> {
    let own = stream(r, s, "");
    let sections = r.streams();
    if own.log_file.is_empty() && sections.is_empty() {
        r.required(s, "log_file");
    }
    let mut all: Vec<StreamConfig> = Some(own).filter(|own| !own.log_file.is_empty()).into_iter().collect();
    for section in sections {
        let name = section.strip_prefix(keys::STREAM).unwrap_or_default();
        let one = stream(r, &section, name);
        let line = r.line_of(&section, "");
        let title = format!("[{section}]");
        // The `*` stand for something, and the host's name stands before.
        if let Some(problem) =
            crate::name::problem(&format!("h+{}", name.replace('*', "x"))).filter(|_| !name.is_empty())
        {
            r.error(line, &title, format!("the name `{name}` {problem}"));
        } else if name.is_empty() {
            r.error(line, &title, "a stream needs a name: `[tail:NAME]`");
        }
        if one.log_file.is_empty() {
            r.required(&section, "log_file");
        }
        let (stars, wanted) = (name.matches('*').count(), one.log_file.matches('*').count());
        if stars != wanted {
            let text = format!(
                "the section's name has {stars} `*` and its log_file {wanted}; each of the path belongs to one of the name, \
                 such as [tail:web-*] with /var/log/*/access.log.<%Y%m%d%H>"
            );
            r.error(r.line_of(&section, "log_file"), "log_file", text);
        }
        all.push(one);
    }
    if all.first().is_some_and(|own| own.stream.is_empty() && own.log_file.contains('*')) {
        let text =
            "a `*` makes many streams of it, which need names: use a section [tail:NAME] with a `*` in NAME";
        r.error(r.line_of(s, "log_file"), "log_file", text);
    }
    all
}

/// A stream's keys; what its section does not set is that of `[tail]`.
fn stream(r: &mut Reader, section: &str, name: &str) -> StreamConfig {
    let of =
        |r: &Reader, key: &str| if r.sets(section, key) { section } else { Role::Tail.section() }.to_owned();
    let ms = |r: &mut Reader, key: &str| {
        let section = of(r, key);
        r.number(&section, key)
    };
    let start = of(r, "start");
    StreamConfig {
        stream: name.to_owned(),
        log_file: r.text(section, "log_file").unwrap_or_default(),
        start: r.text(&start, "start").and_then(|text| Start::parse(&text)),
        flush_interval_ms: ms(r, "flush_interval"),
        close_wait_ms: ms(r, "close_wait"),
        quiet_ms: ms(r, "quiet"),
        late_watch_ms: ms(r, "late_watch"),
    }
}

pub(super) fn relay(r: &mut Reader) -> RelayConfig {
    let s = Role::Collector.section();
    let group_commit_ms = r.number(s, "group_commit");
    RelayConfig {
        watch: watch(r, s),
        receiver: receiver(r, s),
        spool: spool(r, s, group_commit_ms),
        sender: sender(r, s),
        state_dir: path(r, s, "state_dir"),
        log: log(r),
        http: http(r),
        quit_timeout_ms: r.number(s, "quit_timeout"),
    }
}

pub(super) fn store(r: &mut Reader) -> StoreConfig {
    store_of(r, Role::Fcollector.section())
}

pub(super) fn etl(r: &mut Reader) -> EtlConfig {
    let s = Role::Etlcollector.section();
    if !cfg!(feature = "etl") {
        let text = "this program was built without the feature etl: `logd etlcollector` and `logd etl` do not start with \
                    it, and columns and lists are not looked at; build with `cargo build --release --features etl`";
        r.warning(r.line_of(s, "columns_file"), "columns_file", text);
    }
    let log_format = r.text(s, "log_format").unwrap_or_default();
    let prefixes = r.text(s, "column_prefixes").unwrap_or_default();
    EtlConfig {
        store: store_of(r, s),
        workers: r.count(s, "etl_workers"),
        log_format,
        columns_file: path(r, s, "columns_file").unwrap_or_default(),
        column_prefixes: prefixes.split(',').map(|p| p.trim().to_owned()).filter(|p| !p.is_empty()).collect(),
        spider_list: path(r, s, "spider_list"),
        hosts_white_list: path(r, s, "hosts_white_list"),
        ip_black_list: path(r, s, "ip_black_list"),
        hive: r.text(s, "partition_style").as_deref() != Some("bare"),
        gzip: r.text(s, "etl_gzip").as_deref() == Some("yes"),
        max_partitions: r.count(s, "max_partitions"),
        max_reject: r.number(s, "max_reject"),
    }
}

pub(super) fn mongo(r: &mut Reader) -> MongoConfig {
    let s = Role::Mgocollector.section();
    if !cfg!(feature = "mongodb") {
        let text = "this program was built without the feature mongodb: `logd mgocollector` does not start with it; build \
                    with `cargo build --release --features mongodb`";
        r.warning(r.line_of(s, "mongos"), "mongos", text);
    }
    let list = |text: Option<String>| -> Vec<String> {
        let text = text.unwrap_or_default();
        text.split(',').map(|p| p.trim().to_owned()).filter(|p| !p.is_empty()).collect()
    };
    let concern = r.text(s, "write_concern").unwrap_or_default();
    let majority = concern.eq_ignore_ascii_case("majority");
    let servers = concern.parse().ok().filter(|n| (1..=50).contains(n));
    if !majority && servers.is_none() {
        let text = format!("`{concern}` is neither a number from 1 to 50 nor majority");
        r.error(r.line_of(s, "write_concern"), "write_concern", text);
    }
    let uris = match r.text(s, "uri") {
        Some(uri) => {
            if !uri.starts_with("mongodb://") && !uri.starts_with("mongodb+srv://") {
                let text = "is no connection string: it begins with mongodb:// or mongodb+srv://";
                r.error(r.line_of(s, "uri"), "uri", text);
            } else if let Some(why) = misread(&uri) {
                r.error(r.line_of(s, "uri"), "uri", why);
            }
            if r.text(s, "mongos").as_deref() != keys::find(s, "mongos").map(|k| k.default) {
                let text = "is not looked at: uri is set, too; remove one of them";
                r.warning(r.line_of(s, "mongos"), "mongos", text);
            }
            overridden(r, s, &uri);
            vec![uri]
        }
        None => list(r.text(s, "mongos")).iter().map(|a| direct(r, s, a)).collect(),
    };
    let named = |r: &mut Reader, key| r.text(s, key).unwrap_or_default();
    let (db, collection) = (named(r, "db"), named(r, "collection"));
    for (key, name, bad) in [("db", &db, "/\\. \"$*<>:|?"), ("collection", &collection, "$")] {
        if name.contains(|c: char| bad.contains(c)) || name.len() > 55 || name.starts_with("system.") {
            let text = format!(
                "`{name}` cannot be the name of a {key} in MongoDB: at most 55 bytes, without any of {bad}, and not \
                 beginning with `system.`"
            );
            r.error(r.line_of(s, key), key, text);
        }
    }
    let mut store = store_of(r, s);
    if store.save_dir.as_os_str().is_empty() {
        // The original kept nothing, and its files name no directory.
        store.save_dir = store.state_dir.clone().unwrap_or("/var/lib/logd/mgocollector".into()).join("store");
    }
    let yes = |r: &mut Reader, key| matches!(r.text(s, key).as_deref(), Some("yes" | "true"));
    MongoConfig {
        uris,
        db,
        collection,
        savers: r.count(s, "savers"),
        bulk_size: r.count(s, "bulk_size"),
        upsert: yes(r, "upsert"),
        journal: yes(r, "journal"),
        write_concern: servers.filter(|_| !majority),
        fallback: yes(r, "write_concern_fallback"),
        id_key: named(r, "transaction_id_key"),
        only_with_id: r.text(s, "filter").as_deref() != Some("none"),
        prefix: r.text(s, "prefix").as_deref() != Some("none"),
        log_format: named(r, "log_format"),
        fields: list(r.text(s, "fields")),
        max_reject: r.number(s, "max_reject"),
        store,
    }
}

/// Says which options of a connection string keys of ours take the place of.
fn overridden(r: &mut Reader, s: &str, uri: &str) {
    let options = uri.split_once('?').map_or("", |(_, options)| options).split('&');
    for name in options.filter_map(|option| option.split('=').next()) {
        let ours = match name.to_ascii_lowercase().as_str() {
            "w" => "write_concern",
            "j" | "journal" => "journal",
            "wtimeout" | "wtimeoutms" | "connecttimeoutms" | "serverselectiontimeoutms" | "appname" => "",
            _ => continue,
        };
        let instead = if ours.is_empty() { "logd has its own".into() } else { format!("{ours} says it") };
        r.warning(r.line_of(s, "uri"), "uri", format!("its option {name} is not looked at: {instead}"));
    }
}

/// The connection string of one address, which is asked alone: whether another one takes its place is our decision.
fn direct(r: &mut Reader, s: &str, address: &str) -> String {
    if address.starts_with("mongodb://") || address.starts_with("mongodb+srv://") {
        if let Some(why) = misread(address) {
            r.error(r.line_of(s, "mongos"), "mongos", why);
        }
        return address.to_owned();
    }
    let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    if port.is_none() || address.contains(['/', '@', ' ', '?']) {
        let text = "is no list of host:port; for a user, a password or options use uri";
        r.error(r.line_of(s, "mongos"), "mongos", text);
    }
    format!("mongodb://{address}/?directConnection=true")
}

fn store_of(r: &mut Reader, s: &str) -> StoreConfig {
    let group_commit_ms = r.number(s, "group_commit");
    StoreConfig {
        watch: watch(r, s),
        alarm_after_ms: r.number(s, "alarm_after"),
        save_dir: path(r, s, "save_dir").unwrap_or_default(),
        receiver: receiver(r, s),
        spool: spool(r, s, group_commit_ms),
        state_dir: path(r, s, "state_dir"),
        hosts_file: path(r, s, "hosts_file"),
        file_mode: r.number(s, "file_mode") as u32,
        dir_mode: r.number(s, "dir_mode") as u32,
        checkpoint_ms: r.number(s, "checkpoint"),
        gap_wait_ms: r.number(s, "gap_wait"),
        early_per_name: r.number(s, "early_per_name"),
        early_total: r.number(s, "early_total"),
        max_verifying: r.count(s, "max_verifying"),
        compress_closed: r.text(s, "compress_closed").as_deref() == Some("gzip"),
        log: log(r),
        http: http(r),
        quit_timeout_ms: r.number(s, "quit_timeout"),
    }
}

fn receiver(r: &mut Reader, s: &str) -> ReceiverConfig {
    let listen = r.text(s, "listen").unwrap_or_default();
    let allow = r.text(s, "allow");
    let keys_file = path(r, s, "keys_file");
    if keys_file.is_none() && r.text(s, "keys").as_deref() == Some("accept") {
        r.error(r.line_of(s, "keys"), "keys", "has no effect without keys_file: no pack would need a key");
    }
    let tls = tls_listen(r, s);
    let known = keys_file.is_some() && r.text(s, "keys").as_deref() != Some("accept")
        || tls.as_ref().is_some_and(|tls| tls.client_ca.is_some() && tls.required);
    if allow.is_none() && !known && !listen.is_empty() && !value::is_loopback(&listen) {
        let why = if keys_file.is_some() {
            "`keys = accept` lets unsigned packs in"
        } else {
            "no keys_file and no tls_client_ca says who may send"
        };
        let text = format!(
            "not set, and {why}: whoever reaches the port may send, which only a role that has served so before may go on with; \
             list your hosts' networks, or write `allow = any`"
        );
        r.warning(r.line_of(s, "allow"), "allow", &text);
    }
    let config = ReceiverConfig {
        listen,
        allow_set: allow.is_some(),
        // A list that cannot be read was reported; what stands here then goes nowhere.
        allow: allow.map_or(Ok(Allow::any()), |list| Allow::parse(&list)).unwrap_or_else(|_| Allow::any()),
        max_connections: r.count(s, "max_connections"),
        max_connections_per_address: r.count(s, "max_connections_per_address"),
        header_timeout_ms: r.number(s, "header_timeout"),
        body_timeout_ms: r.number(s, "body_timeout"),
        body_rate_min: r.number(s, "body_rate_min"),
        idle_timeout_ms: r.number(s, "idle_timeout"),
        max_header: r.count(s, "max_header"),
        max_body: r.count(s, "max_body"),
        max_raw: r.count(s, "max_raw"),
        inflight_bytes: r.count(s, "inflight_bytes"),
        keys_file,
        keys_required: r.text(s, "keys").as_deref() != Some("accept"),
        max_unproven_per_address: r.count(s, "max_unproven_per_address"),
        tls,
    };
    // A body larger than the whole budget would wait for ever.
    at_most(r, s, ("max_body", config.max_body as u64), ("inflight_bytes", config.inflight_bytes as u64));
    config
}

fn tls_listen(r: &mut Reader, s: &str) -> Option<TlsListen> {
    let (cert, key) = (path(r, s, "tls_cert"), path(r, s, "tls_key"));
    let client_ca = path(r, s, "tls_client_ca");
    let relays = r.text(s, "tls_relays");
    let accept = r.text(s, "tls").as_deref() == Some("accept");
    with_tls(r, s, &["tls_cert", "tls_key", "tls_client_ca", "tls_relays"]);
    // What is there for nothing was meant for something.
    let lonely = [
        ("tls_cert", cert.is_some() && key.is_none(), "needs its private key in tls_key"),
        ("tls_key", key.is_some() && cert.is_none(), "needs the certificate in tls_cert"),
        (
            "tls_client_ca",
            client_ca.is_some() && cert.is_none(),
            "has no effect without tls_cert and tls_key",
        ),
        ("tls_relays", relays.is_some() && client_ca.is_none(), "has no effect without tls_client_ca"),
        ("tls", accept && cert.is_none(), "has no effect without tls_cert and tls_key"),
    ];
    for (name, _, text) in lonely.iter().filter(|(_, wrong, _)| *wrong) {
        r.error(r.line_of(s, name), name, *text);
    }
    let relays: Vec<String> =
        relays.iter().flat_map(|l| l.split(',')).map(|name| name.trim().to_owned()).collect();
    for relay in relays.iter().filter(|relay| *relay != "*") {
        if let Some(problem) = crate::name::problem(relay) {
            r.error(r.line_of(s, "tls_relays"), "tls_relays", format!("the name `{relay}` {problem}"));
        }
    }
    Some(TlsListen { cert: cert?, key: key?, client_ca, relays, required: !accept })
}

fn tls_send(r: &mut Reader, s: &str) -> Option<TlsSend> {
    let (ca, name) = (path(r, s, "tls_ca"), r.text(s, "tls_name"));
    let (cert, key) = (path(r, s, "tls_client_cert"), path(r, s, "tls_client_key"));
    with_tls(r, s, &["tls_ca", "tls_name", "tls_client_cert", "tls_client_key"]);
    let without = "has no effect without tls_ca: packs would be sent without TLS";
    let lonely = [
        ("tls_name", name.is_some() && ca.is_none(), without),
        ("tls_client_cert", cert.is_some() && ca.is_none(), without),
        ("tls_client_cert", cert.is_some() && key.is_none(), "needs its private key in tls_client_key"),
        ("tls_client_key", key.is_some() && cert.is_none(), "needs the certificate in tls_client_cert"),
        (
            "tls_ca",
            ca.is_some() && r.text(s, "peer").as_deref() == Some("original"),
            "the original does not speak TLS",
        ),
    ];
    for (name, _, text) in lonely.iter().filter(|(_, wrong, _)| *wrong) {
        r.error(r.line_of(s, name), name, *text);
    }
    Some(TlsSend { ca: ca?, name, own: cert.zip(key) })
}

/// To send in the clear, or to listen to everybody, because the program cannot do better is what nobody asked for.
fn with_tls(r: &mut Reader, s: &str, names: &[&str]) {
    if cfg!(feature = "tls") {
        return;
    }
    if let Some(name) = names.iter().find(|name| r.text(s, name).is_some()) {
        let text = "this logd was built without TLS; build one with `cargo build --release --features tls`, or leave the \
                    tls keys out";
        r.error(r.line_of(s, name), name, text);
    }
}

fn sender(r: &mut Reader, s: &str) -> SenderConfig {
    let send_to: Vec<String> =
        r.text(s, "send_to").map(|list| list.split(',').map(String::from).collect()).unwrap_or_default();
    let twice =
        (1..).zip(&send_to).find(|(n, a)| send_to.iter().skip(*n).any(|other| other.eq_ignore_ascii_case(a)));
    if let Some((_, addr)) = twice {
        r.error(r.line_of(s, "send_to"), "send_to", format!("`{addr}` is named twice"));
    }
    SenderConfig {
        send_to,
        failover: if r.text(s, "failover").as_deref() == Some("any") {
            Failover::Any
        } else {
            Failover::Hour
        },
        failover_after: u32::try_from(r.number(s, "failover_after")).unwrap_or(u32::MAX),
        senders: r.count(s, "senders"),
        // A relay passes bodies on as they came; where it must deflate itself the follower's default will do.
        compress_level: if keys::find(s, "compress_level").is_some() {
            r.number(s, "compress_level") as u32
        } else {
            keys::default_number(Role::Tail.section(), "compress_level") as u32
        },
        peer: if r.text(s, "peer").as_deref() == Some("original") { Peer::Original } else { Peer::Logd },
        ack_timeout_ms: r.number(s, "ack_timeout"),
        connect_timeout_ms: r.number(s, "connect_timeout"),
        backoff_max_ms: r.number(s, "backoff_max"),
        held_after_ms: r.number(s, "held_after"),
        held_per_name: r.number(s, "held_per_name"),
        held_total: r.number(s, "held_total"),
        tls: tls_send(r, s),
    }
}

fn spool(r: &mut Reader, s: &str, group_commit_ms: u64) -> SpoolConfig {
    let config = SpoolConfig {
        size: r.number(s, "spool_size"),
        segment_size: r.number(s, "segment_size"),
        min_free: r.number(s, "min_free"),
        group_commit_ms,
    };
    // One segment is being written while another waits to be emptied; with less the spool is full for good.
    if config.size > 0 {
        at_most(r, s, ("segment_size", config.segment_size.saturating_mul(2)), ("spool_size", config.size));
    }
    config
}

/// What every role tells the monitor, and whom it calls.
pub(super) fn watch(r: &mut Reader, s: &str) -> WatchConfig {
    let config = WatchConfig {
        hb_listen: r.text("monitor", "hb_port"),
        monitor: r.text("monitor", "mon_addr"),
        log_to: r.text("logAgent", "tcp_addr"),
        log_level: level(r, "tcp_level"),
        alarm: alarm(r, s),
    };
    if config.monitor.is_some() && config.hb_listen.is_none() {
        let text = "set without hb_port: the monitor could not ask whether this role lives, so the role does not register";
        r.warning(r.line_of("monitor", "mon_addr"), "mon_addr", text);
    }
    config
}

fn alarm(r: &mut Reader, s: &str) -> Vec<String> {
    // A follower has nobody to call: what it cannot do shows at its receiver.
    if keys::find(s, "alarm_command").is_none() {
        return Vec::new();
    }
    let text = r.text(s, "alarm_command").unwrap_or_default();
    text.split_whitespace().map(String::from).collect()
}

pub(super) fn monitor(r: &mut Reader) -> MonitorConfig {
    let s = Role::Monitor.section();
    let (listen, allow) = (r.text(s, "recv_port").unwrap_or_default(), r.text(s, "allow"));
    if allow.is_none() && !listen.is_empty() && !value::is_loopback(&listen) {
        let text = "not set: whoever reaches the port may register and send messages, which only a role that has served so before may go \
                    on with; list your hosts' networks, or write `allow = any`";
        r.warning(r.line_of(s, "allow"), "allow", text);
    }
    MonitorConfig {
        listen,
        allow_set: allow.is_some(),
        allow: allow.map_or(Ok(Allow::any()), |list| Allow::parse(&list)).unwrap_or_else(|_| Allow::any()),
        state_dir: path(r, s, "state_dir"),
        keep_hours: r.number(s, "keep_hours"),
        check_interval_ms: r.number("heart_beat", "check_interval"),
        hosts_file: path(r, s, "hosts_file"),
        db: database(r, s),
        alarm: alarm(r, s),
        log: log(r),
        http: http(r),
        quit_timeout_ms: r.number(s, "quit_timeout"),
    }
}

fn database(r: &mut Reader, s: &str) -> Option<DbConfig> {
    let charset = r.text(s, "db_charset").unwrap_or_default();
    // It becomes part of a statement.
    if !charset.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        r.error(r.line_of(s, "db_charset"), "db_charset", "is no name of a character set such as utf8mb4");
    }
    let (port, user) = (r.number(s, "db_port"), r.text(s, "db_uname").unwrap_or_default());
    let (password, database) = (r.text(s, "db_passwd").unwrap_or_default(), r.text(s, "db_db"));
    let host = r.text(s, "db_host")?;
    if database.is_none() {
        r.error(r.line_of(s, "db_db"), "db_db", "missing; with db_host it must name the database");
    }
    if !cfg!(feature = "mysql") {
        let text = "this program was built without the feature mysql: `logd monitor` does not start with it; build with \
                    `cargo build --release --features mysql`, or leave db_host empty: nodes and messages are then kept \
                    in the state directory";
        r.warning(r.line_of(s, "db_host"), "db_host", text);
    }
    Some(DbConfig {
        host,
        port: u16::try_from(port).unwrap_or_default(),
        user,
        password,
        database: database.unwrap_or_default(),
        charset,
    })
}

fn level(r: &mut Reader, name: &str) -> Level {
    match r.text("logAgent", name).as_deref() {
        Some("debug") => Level::Debug,
        Some("warning") => Level::Warning,
        Some("error") => Level::Error,
        _ => Level::Info,
    }
}

pub(super) fn log(r: &mut Reader) -> LogConfig {
    let s = "logAgent";
    // Read here too, so that a file whose roles send no messages is checked.
    let _ = (level(r, "tcp_level"), r.text(s, "tcp_addr"));
    LogConfig {
        level: level(r, "local_level"),
        dir: path(r, s, "local_dir").filter(|dir| dir.as_os_str() != "-"),
    }
}

pub(super) fn http(r: &mut Reader) -> HttpConfig {
    let s = "http";
    let listen = r.text(s, "listen");
    let allow = r.text(s, "allow");
    if allow.is_none() && listen.as_deref().is_some_and(|l| !value::is_loopback(l)) {
        let text = "not set, and listen is no loopback address: whoever reaches the port could look; list the networks that \
                    may, or write `allow = any`, or listen on 127.0.0.1";
        r.error(r.line_of(s, "allow"), "allow", text);
    }
    HttpConfig {
        listen,
        // A list that cannot be read was reported; what stands here then goes nowhere.
        allow: allow.map_or(Ok(Allow::any()), |list| Allow::parse(&list)).unwrap_or_else(|_| Allow::any()),
        hosts: r.text(s, "hosts").map(|l| l.split(',').map(String::from).collect()).unwrap_or_default(),
        hours: r.number(s, "hours"),
    }
}

fn path(r: &mut Reader, section: &str, name: &str) -> Option<PathBuf> {
    r.text(section, name).map(PathBuf::from)
}

/// Complains if the first value (for `segment_size` its double) is larger than the second. A 0 is a value that was
/// already complained about.
fn at_most(r: &mut Reader, section: &str, small: (&str, u64), large: (&str, u64)) {
    if large.1 > 0 && small.1 > large.1 {
        let twice = if small.0 == "segment_size" { "twice " } else { "" };
        let text =
            format!("must be at least {twice}`{}` ({} bytes); it is {} bytes", small.0, small.1, large.1);
        r.error(r.line_of(section, large.0), large.0, text);
    }
}

//! The monitor with a real `MariaDB`, which is killed and started again in the middle, and so is the monitor: nothing is
//! lost, nothing comes twice, and the order stays. `tests/all` runs it; it needs the feature `mysql` and `mariadbd`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)] // a test stops at the first surprise

mod support;

use logd::heartbeat::{self, Frames, Me, Message};
use mysql::prelude::Queryable;
use mysql::{Conn, OptsBuilder};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;
use support::{Node, Reaped, SOON, Temp, until};

/// A server of this test's own.
struct Server {
    dir: PathBuf,
    port: u16,
    child: Option<Reaped>,
}

/// Held while the files of a server are made.
static ONE: Mutex<()> = Mutex::new(());

impl Server {
    fn new(temp: &Temp) -> Self {
        let dir = temp.path("db");
        let data = format!("--datadir={}", dir.display());
        let user = format!("--user={}", std::env::var("USER").unwrap_or_else(|_| "root".into()));
        // One after the other: two that were made at once have been seen to fail.
        let alone = ONE.lock().unwrap();
        let made = support::run(
            Command::new("mariadb-install-db").args([
                "--no-defaults",
                &data,
                &user,
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
            ]),
            SOON * 4,
        );
        assert_eq!(made.code, 0, "{}{}", made.out, made.err);
        drop(alone);
        let port = support::fixed_addr().port();
        let mut server = Self { dir, port, child: None };
        server.start();
        let mut root = server.connect("root", "", None);
        for statement in [
            "create database logd",
            "create user logd@'%' identified by 'not-a-real-one'",
            "grant all on logd.* to logd@'%'",
            // A user without a name would go before it.
            "delete from mysql.global_priv where user=''",
            "flush privileges",
        ] {
            root.query_drop(statement).unwrap();
        }
        server
    }

    fn start(&mut self) {
        let user = std::env::var("USER").unwrap_or_else(|_| "root".into());
        let log =
            std::fs::File::options().create(true).append(true).open(self.dir.with_extension("log")).unwrap();
        let child = Command::new("mariadbd")
            .args(["--no-defaults", "--bind-address=127.0.0.1", "--innodb-flush-log-at-trx-commit=1"])
            .arg(format!("--user={user}"))
            .arg(format!("--datadir={}", self.dir.display()))
            .arg(format!("--socket={}", self.dir.join("s").display()))
            .arg(format!("--pid-file={}", self.dir.join("pid").display()))
            .arg(format!("--port={}", self.port))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(Reaped(child));
        until(SOON * 2, "the server to listen", || TcpStream::connect(("127.0.0.1", self.port)).ok());
    }

    /// kill -9.
    fn kill(&mut self) {
        self.child = None;
    }

    fn connect(&self, user: &str, password: &str, db: Option<&str>) -> Conn {
        let opts = OptsBuilder::new()
            .ip_or_hostname(Some("127.0.0.1"))
            .tcp_port(self.port)
            .user(Some(user))
            .pass(Some(password))
            .db_name(db)
            .prefer_socket(false);
        let opts = mysql::Opts::from(opts);
        until(SOON * 2, "a connection to the server", || Conn::new(opts.clone()).ok())
    }

    fn logd(&self) -> Conn {
        self.connect("logd", "not-a-real-one", Some("logd"))
    }
}

fn monitor(temp: &Temp, server: &Server) -> Node {
    let (port, at) = (server.port.to_string(), support::fixed_addr().to_string());
    let keys = [
        ("recv_port", at.as_str()),
        ("db_host", "127.0.0.1"),
        ("db_port", &port),
        ("db_uname", "logd"),
        ("db_passwd", "not-a-real-one"),
        ("db_db", "logd"),
        ("[heart_beat] check_interval", "1s"),
        ("[http] listen", "127.0.0.1:0"),
    ];
    Node::prepare(temp, "monitor", "monitor", &keys, &[])
}

/// Events that the database lacks, as the metrics have it.
fn queue(m: &mut Node) -> u64 {
    let line = m.says("are at http://");
    let page = line.split_once("http://").unwrap().1.trim_end_matches('/');
    let name = "logd_database_queue_events ";
    until(SOON, "the metrics", || {
        let mut stream = TcpStream::connect(page).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text.lines().find_map(|l| l.strip_prefix(name)).map(|n| n.parse().unwrap())
    })
}

fn me(port: u16) -> Me {
    Me { role: "tail".into(), hostname: format!("h{port}"), version: String::new(), port, ip: None }
}

fn ask(to: SocketAddr, m: &Message) {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.write_all(&heartbeat::frame(m)).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let (mut frames, mut buf) = (Frames::default(), [0; 512]);
    let json = loop {
        if let Some(json) = frames.take().unwrap() {
            break json;
        }
        let n = stream.read(&mut buf).unwrap();
        assert!(n > 0, "closed without an answer");
        frames.feed(&buf[..n]);
    };
    assert_eq!(heartbeat::parse(&json).unwrap()["err"], "0");
}

/// Sends messages on one connection. When it returns the monitor has them: a request behind them was answered.
fn say(to: SocketAddr, numbers: std::ops::Range<usize>) {
    let mut stream = TcpStream::connect(to).unwrap();
    for n in numbers {
        let text = format!("message {n} '\"\\ \u{e4}\u{1f600}");
        let m = me(4000).message(None, "2026/11/22 08:23:58", "ERROR", &text);
        stream.write_all(&heartbeat::frame(&m)).unwrap();
    }
    stream.write_all(&heartbeat::frame(&me(4000).request("register", None))).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    assert!(stream.read(&mut [0; 512]).unwrap() > 0);
}

fn messages(db: &mut Conn) -> Vec<String> {
    let query = "select error_msg from service_error_log where error_type='ERROR' order by id";
    db.query(query).unwrap()
}

fn nodes(db: &mut Conn) -> Vec<String> {
    db.query("select concat(ip, ':', port, ' ', role, ' ', hostname) from registered_node order by port+0")
        .unwrap()
}

#[test]
fn nothing_is_lost_and_nothing_comes_twice_through_kills_of_both() {
    let temp = Temp::new("mariadb");
    let mut server = Server::new(&temp);
    let mut m = monitor(&temp, &server);
    // Without tables it says what to do, and works on.
    m.restart();
    m.ready();
    m.says("no table registered_node; `logd monitor --init-db CONFIG` makes it");
    say(m.addr(), 0..50);
    m.kill();
    let made = support::logd(&["monitor".as_ref(), "--init-db".as_ref(), m.config().as_os_str()]);
    assert_eq!((made.code, made.out.as_str()), (0, ""), "{}", made.err);
    assert!(made.err.contains("the tables are in logd@127.0.0.1"), "{}", made.err);
    // Once more changes nothing.
    assert_eq!(support::logd(&["monitor".as_ref(), "--init-db".as_ref(), m.config().as_os_str()]).code, 0);
    m.restart();
    m.ready();
    for port in 4001..4006 {
        ask(m.addr(), &me(port).request("register", None));
    }
    let mut sent = 50;
    for round in 0..6 {
        say(m.addr(), sent..sent + 300);
        // In the middle of the delivery, as far as that can be said.
        match round % 3 {
            0 => server.kill(),
            1 => m.kill(),
            _ => {
                server.kill();
                m.kill();
            }
        }
        if !m.runs() {
            m.restart();
            m.ready();
        }
        sent += 300;
        say(m.addr(), sent..sent + 50);
        sent += 50;
        if round == 2 {
            ask(m.addr(), &me(4003).request("unregister", None));
        }
        if server.child.is_none() {
            server.start();
        }
    }
    let mut db = server.logd();
    until(SOON * 4, "all messages in the database", || (messages(&mut db).len() >= sent).then_some(()));
    let wanted: Vec<String> = (0..sent).map(|n| format!("message {n} '\"\\ \u{e4}\u{1f600}")).collect();
    let got = messages(&mut db);
    if let Some(n) = (0..sent.max(got.len())).find(|n| got.get(*n) != wanted.get(*n)) {
        panic!(
            "of {sent} messages {} came; number {n} is {:?}, not {:?}",
            got.len(),
            got.get(n),
            wanted.get(n)
        );
    }
    let told: Vec<String> = [4000, 4001, 4002, 4004, 4005].map(|p| format!("127.0.0.1:{p} tail h{p}")).into();
    until(SOON, "the nodes in the database", || (nodes(&mut db) == told).then_some(()));
    let (time, ip, role): (String, String, String) = db
        .query_first("select cast(ctime as char), ip, role from service_error_log order by id limit 1")
        .unwrap()
        .unwrap();
    assert_eq!((time.as_str(), ip.as_str(), role.as_str()), ("2026-11-22 08:23:58", "127.0.0.1:4000", ""));
    // Outages are there once each, whatever was killed.
    let outages: Vec<String> = db
        .query("select ip from service_error_log where error_type='no heart-beat' group by ip having count(*) > 1")
        .unwrap();
    assert_eq!(outages, Vec::<String>::new());
    assert_eq!(m.terminate(), 0);
    assert!(!m.log_of_all_starts().contains("not-a-real-one"));
}

#[test]
fn rows_that_are_added_and_removed_by_hand_count() {
    let temp = Temp::new("rows");
    let server = Server::new(&temp);
    let mut m = monitor(&temp, &server);
    let made = support::logd(&["monitor".as_ref(), "--init-db".as_ref(), m.config().as_os_str()]);
    assert_eq!(made.code, 0, "{}", made.err);
    m.restart();
    m.ready();
    let beats = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = beats.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in beats.incoming() {
            let _ = stream.unwrap().write_all(b"!");
        }
    });
    ask(m.addr(), &me(4001).request("register", None));
    let mut db = server.logd();
    until(SOON, "the registration in the database", || (nodes(&mut db).len() == 1).then_some(()));
    db.exec_drop(
        "insert into registered_node (ip, port, role, hostname) values ('127.0.0.1', ?, 'tail', 'by-hand')",
        (port,),
    )
    .unwrap();
    db.query_drop("insert into registered_node (ip, port) values ('', '4000'), ('web1', '1')").unwrap();
    m.says(&format!("node 127.0.0.1:{port} (tail, by-hand): added in the database"));
    let file = || std::fs::read_to_string(temp.path("monitor.state/nodes.json")).unwrap();
    until(SOON, "its heart-beat", || file().contains("\"alive\": true").then_some(()));
    m.says("registered_node: web1:1 is no address and port");
    db.exec_drop("delete from registered_node where port=?", (port,)).unwrap();
    m.says("removed in the database");
    until(SOON, "it to be gone", || (!file().contains("by-hand")).then_some(()));
    // The tables are lost: what the monitor knows is written again.
    db.query_drop("drop table registered_node, service_error_log, logd_delivered").unwrap();
    ask(m.addr(), &me(4002).request("register", None));
    m.says("events wait in the state directory");
    until(SOON, "events to wait", || (queue(&mut m) > 0).then_some(()));
    assert_eq!(support::logd(&["monitor".as_ref(), "--init-db".as_ref(), m.config().as_os_str()]).code, 0);
    until(SOON * 2, "all nodes in the database", || {
        (nodes(&mut db) == ["127.0.0.1:4001 tail h4001", "127.0.0.1:4002 tail h4002"]).then_some(())
    });
    until(SOON, "nothing to wait", || (queue(&mut m) == 0).then_some(()));
    assert_eq!(m.terminate(), 0);
}

//! `MySQL` or `MariaDB` beside the embedded store: the original's tables, filled from the event log.
//!
//! Events are delivered in their order, some at a time, each part in one transaction together with the number of the last
//! (`logd_delivered`). Whatever is cut off in the middle, that row says after the next connection what has arrived: nothing
//! is lost, and nothing comes twice. Where that table is missing (nobody ran `--init-db`) events may come twice after a
//! crash.

use super::events::{Event, What};
use super::nodes::Node;
use crate::config::DbConfig;
use mysql::prelude::Queryable;
use mysql::{Conn, Error, OptsBuilder, TxOpts};
use std::net::IpAddr;
use std::time::Duration;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(10);
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(30);
/// Characters of a text that the database refuses, when it is tried again in plain letters.
const PLAIN_MAX: usize = 255;

const TABLES: [&str; 3] = [
    "create table if not exists registered_node (ip varchar(64) not null, port varchar(8) not null, role varchar(64) not \
     null default '', hostname varchar(255) not null default '', ctime datetime, primary key (ip, port)) engine=InnoDB \
     default charset=utf8mb4",
    "create table if not exists service_error_log (id bigint unsigned not null auto_increment, ctime datetime, ip \
     varchar(80) not null default '', role varchar(64) not null default '', error_type varchar(64) not null default '', \
     error_msg text, primary key (id), key (ctime)) engine=InnoDB default charset=utf8mb4",
    "create table if not exists logd_delivered (store varchar(64) not null, seq bigint unsigned not null, primary key \
     (store)) engine=InnoDB default charset=utf8mb4",
];
const REGISTER: &str = "insert into registered_node (ip, port, role, hostname, ctime) values (?, ?, ?, ?, ?) on duplicate \
                        key update role=values(role), hostname=values(hostname), ctime=values(ctime)";
const UNREGISTER: &str = "delete from registered_node where ip=? and port=?";
const LOG: &str =
    "insert into service_error_log (ctime, ip, role, error_type, error_msg) values (?, ?, ?, ?, ?)";
const MARK: &str =
    "insert into logd_delivered (store, seq) values (?, ?) on duplicate key update seq=values(seq)";

/// A connection.
pub struct Db {
    conn: Conn,
    /// Is there a table that says what has arrived?
    marks: bool,
}

/// Makes what is missing of the tables.
pub fn init(conf: &DbConfig) -> Result<(), String> {
    let mut conn = connect(conf)?;
    TABLES.iter().try_for_each(|t| conn.query_drop(t).map_err(said))
}

fn connect(conf: &DbConfig) -> Result<Conn, String> {
    let opts = OptsBuilder::new()
        .ip_or_hostname(Some(&conf.host))
        .tcp_port(conf.port)
        .user(Some(&conf.user))
        .pass(Some(&conf.password))
        .db_name(Some(&conf.database))
        // Where it was told to connect, and not where the server says that it has a socket.
        .prefer_socket(false)
        .tcp_connect_timeout(Some(CONNECT))
        .read_timeout(Some(ANSWER))
        .write_timeout(Some(ANSWER))
        .init(vec![format!("set names {}", conf.charset)]);
    Conn::new(opts).map_err(said)
}

impl Db {
    /// Connects.
    pub fn open(conf: &DbConfig) -> Result<Self, String> {
        let mut conn = connect(conf)?;
        let mut has = |table: &str| -> Result<bool, String> {
            let found: Option<String> =
                conn.query_first(format!("show tables like '{table}'")).map_err(said)?;
            Ok(found.is_some())
        };
        for table in ["registered_node", "service_error_log"] {
            if !has(table)? {
                return Err(format!("it has no table {table}; `logd monitor --init-db CONFIG` makes it"));
            }
        }
        let marks = has("logd_delivered")?;
        Ok(Self { conn, marks })
    }

    /// Does it remember what has arrived?
    pub fn marks(&self) -> bool {
        self.marks
    }

    /// The number of the last event of this store that has arrived, if any has.
    pub fn arrived(&mut self, store: &str) -> Result<Option<u64>, String> {
        if !self.marks {
            return Ok(None);
        }
        self.conn.exec_first("select seq from logd_delivered where store=?", (store,)).map_err(said)
    }

    /// Delivers events, all or none. What the database will never take as it is goes in plain letters.
    pub fn deliver(&mut self, store: &str, events: &[Event]) -> Result<(), String> {
        match self.try_deliver(store, events, false) {
            Err(e) if is_of_the_text(&e) => self.try_deliver(store, events, true),
            other => other,
        }
        .map_err(said)
    }

    fn try_deliver(&mut self, store: &str, events: &[Event], plain: bool) -> Result<(), Error> {
        let text = |t: &str| if plain { plain_text(t) } else { t.to_owned() };
        let mut tx = self.conn.start_transaction(TxOpts::default())?;
        for e in events {
            match e.what {
                What::Error => {
                    let (role, kind, msg) = (text(&e.role), text(&e.kind), text(&e.msg));
                    tx.exec_drop(LOG, (&e.time, e.address(), role, kind, msg))?;
                }
                What::Register => {
                    let (role, host) = (text(&e.role), text(&e.host));
                    tx.exec_drop(REGISTER, (&e.ip, e.port.to_string(), role, host, &e.time))?;
                }
                What::Unregister => tx.exec_drop(UNREGISTER, (&e.ip, e.port.to_string()))?,
            }
        }
        if let (true, Some(last)) = (self.marks, events.last()) {
            tx.exec_drop(MARK, (store, last.seq))?;
        }
        tx.commit()
    }

    /// Writes all nodes, after something was lost on either side.
    pub fn put(&mut self, nodes: &[Node], time: &str) -> Result<(), String> {
        let all = nodes.iter().map(|n| (n.ip.to_string(), n.port.to_string(), &n.role, &n.hostname, time));
        self.conn.exec_batch(REGISTER, all).map_err(said)
    }

    /// The nodes that it has, and rows that are none.
    pub fn nodes(&mut self) -> Result<(Vec<Node>, Vec<String>), String> {
        type Row = (Option<String>, Option<String>, Option<String>, Option<String>);
        // As text, whatever types the columns have.
        let query = "select cast(ip as char), cast(port as char), cast(role as char), cast(hostname as char) from registered_node";
        let rows: Vec<Row> = self.conn.query(query).map_err(said)?;
        let (mut nodes, mut bad) = (Vec::new(), Vec::new());
        for (ip, port, role, hostname) in rows {
            let [ip, port, role, hostname] = [ip, port, role, hostname].map(Option::unwrap_or_default);
            match (ip.parse::<IpAddr>(), port.parse::<u16>()) {
                (Ok(at), Ok(number)) if number > 0 => {
                    nodes.push(Node { role, hostname, ..Node::new(at.to_canonical(), number) });
                }
                _ => bad.push(format!("{ip}:{port}")),
            }
        }
        Ok((nodes, bad))
    }
}

/// What the driver says, without the names of its own types.
fn said(e: Error) -> String {
    match e {
        Error::IoError(e) => format!("the connection failed: {e}"),
        Error::MySqlError(e) => e.to_string(),
        Error::DriverError(e) => e.to_string(),
        Error::CodecError(e) => e.to_string(),
        other => other.to_string(),
    }
}

/// Will the database never take this, because of a character or a length?
fn is_of_the_text(e: &Error) -> bool {
    // 22: data exceptions. MySQL has no class of its own for "incorrect string value" (1366).
    matches!(e, Error::MySqlError(e) if e.state.starts_with("22") || e.code == 1366)
}

fn plain_text(text: &str) -> String {
    text.chars().take(PLAIN_MAX).map(|c| if c.is_ascii() { c } else { '?' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The story: the log said `IoError { server disconnected }`.
    #[test]
    fn what_the_driver_says_is_for_people() {
        let conf = DbConfig {
            host: "127.0.0.1".into(),
            port: 1,
            user: "u".into(),
            password: "p".into(),
            database: "d".into(),
            charset: "utf8mb4".into(),
        };
        let why = Db::open(&conf).err().unwrap();
        assert!(!why.contains('{') && why.contains("refused"), "{why}");
        let gone = Error::IoError(std::io::Error::other("server disconnected"));
        assert_eq!(said(gone), "the connection failed: server disconnected");
    }
}

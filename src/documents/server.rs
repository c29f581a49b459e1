//! One connection to a database: inserts, updates, counts. It asks one address at a time and goes to the next when one does not
//! answer. Every write says how many servers must have it and whether their journals must.

use super::batch::Batch;
use super::bson;
use crate::config::MongoConfig;
use mongodb::Client;
use mongodb::bson::raw::{RawArrayBuf, RawDocumentBuf};
use mongodb::bson::{Document, doc, rawdoc};
use mongodb::error::ErrorKind;
use mongodb::options::ClientOptions;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

/// An address to which no connection can be made is given up after this time.
const CONNECT: Duration = Duration::from_secs(5);
/// One that has taken a command and says nothing is given up after this time: longer than it may wait for other servers.
const ANSWER: Duration = Duration::from_secs(40);
/// How often it is asked meanwhile whether the role stops.
const LOOK: Duration = Duration::from_millis(200);
/// How long other servers are waited for, in ms.
const WTIMEOUT_MS: i32 = 30_000;
/// Error code of a document whose `_id` is there.
const DUPLICATE: i32 = 11_000;
/// Error codes of a document that is refused for good: invalid values, names and keys, documents that are too large or that a
/// collection's rules refuse.
const FOR_GOOD: &[i32] = &[2, 9, 14, 22, 52, 54, 56, 57, 61, 66, 121, 10_334, 17_280, 17_419, 17_420];
/// Error codes of a write concern that a server cannot have.
const NO_CONCERN: &[i32] = &[2, 79, 100];

/// Why something was not written.
#[derive(Debug)]
pub enum Trouble {
    /// It may be later: nobody answers, a disk is full, another server takes over.
    Away(String),
    /// Some can never be: their places in the batch, and why. An insert has written all others, an update those before the
    /// first.
    Refused(Vec<(usize, String)>),
}

/// Whether the role stops.
pub type Stop = Box<dyn Fn() -> bool + Send>;

/// See the module's header.
pub struct Server {
    uris: Vec<String>,
    at: usize,
    runtime: Option<Runtime>,
    client: Option<Client>,
    /// Nobody waits for an answer any more.
    stop: Stop,
    collection: String,
    db: String,
    concern: Document,
    /// Whether one server will do.
    fallback: bool,
    /// Sentences for the log.
    pub told: Vec<String>,
    indexed: String,
    id_key: String,
}

impl Server {
    /// Connects to nobody yet.
    pub fn new(conf: &MongoConfig, stop: Stop) -> Self {
        let w =
            conf.write_concern.map_or_else(|| "majority".into(), |n| mongodb::bson::Bson::Int64(n.into()));
        Self {
            uris: conf.uris.clone(),
            at: 0,
            runtime: None,
            client: None,
            stop,
            collection: conf.collection.clone(),
            db: conf.db.clone(),
            concern: doc! { "w": w, "j": conf.journal, "wtimeout": WTIMEOUT_MS },
            fallback: conf.fallback,
            told: Vec::new(),
            indexed: String::new(),
            id_key: conf.id_key.clone(),
        }
    }

    /// The database of a day.
    pub fn database(&self, day: &str) -> String {
        format!("{}{day}", self.db)
    }

    /// Sends it to the address in use; `Ok(None)` = nobody answered in time.
    fn send(
        &mut self,
        database: &str,
        command: RawDocumentBuf,
    ) -> Result<Option<mongodb::error::Result<Document>>, String> {
        if self.runtime.is_none() {
            let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
            self.runtime = Some(runtime.map_err(|e| format!("no thread for its connection: {e}"))?);
        }
        let Some(runtime) = &self.runtime else { return Ok(None) };
        let (stop, deadline) = (&self.stop, Instant::now().checked_add(ANSWER));
        let over = || stop() || deadline.is_some_and(|at| Instant::now() >= at);
        if self.client.is_none() {
            let uri = self.uris.get(self.at).map(String::as_str).unwrap_or_default();
            let client = runtime.block_on(async {
                let mut options = ClientOptions::parse(uri).await?;
                options.app_name = Some("logd".into());
                options.server_selection_timeout = Some(CONNECT);
                options.connect_timeout = Some(CONNECT);
                Client::with_options(options)
            });
            self.client = Some(client.map_err(|e| e.to_string())?);
        }
        let Some(client) = &self.client else { return Ok(None) };
        Ok(runtime.block_on(async {
            let database = client.database(database);
            let mut answer = Box::pin(database.run_raw_command(command).into_future());
            loop {
                match timeout(LOOK, &mut answer).await {
                    Ok(answer) => return Some(answer),
                    Err(_) if over() => return None,
                    Err(_) => {}
                }
            }
        }))
    }

    /// Asks the address that answered last, then each of the others.
    fn command(
        &mut self,
        database: &str,
        mut command: RawDocumentBuf,
    ) -> Result<Document, (Option<i32>, String)> {
        let mut why = String::new();
        for left in (0..self.uris.len()).rev() {
            // The last one may have it.
            let this = if left == 0 { std::mem::take(&mut command) } else { command.clone() };
            match self.send(database, this) {
                Ok(Some(Ok(reply))) => return Ok(reply),
                Ok(Some(Err(e))) => match *e.kind {
                    // It has answered, and another one would say the same.
                    ErrorKind::Command(ref c) if !is_passing(c.code) => {
                        return Err((Some(c.code), format!("{} (code {})", c.message, c.code)));
                    }
                    _ => why = self.named(&plain(&e)),
                },
                Ok(None) if (self.stop)() => return Err((None, "the role stops".into())),
                Ok(None) => why = self.named(&format!("no answer within {} s", ANSWER.as_secs())),
                Err(e) => why = self.named(&e),
            }
            self.client = None;
            self.at = self.at.saturating_add(1).checked_rem(self.uris.len()).unwrap_or(0);
        }
        Err((None, why))
    }

    fn named(&self, why: &str) -> String {
        format!("{}: {why}", self.uris.get(self.at).map_or("", |uri| hosts(uri)))
    }

    fn concern(&self) -> RawDocumentBuf {
        RawDocumentBuf::from_document(&self.concern).unwrap_or_default()
    }

    /// Inserts documents; those that are there already stay as they are.
    pub fn insert(&mut self, database: &str, batch: &Batch) -> Result<(), Trouble> {
        let command = rawdoc! {
            "insert": self.collection.as_str(), "ordered": false, "writeConcern": self.concern(),
        };
        self.write(database, with(command, "documents", batch)?, batch.len())
    }

    /// Updates documents, in this order; one that is not there is made.
    pub fn upsert(&mut self, database: &str, batch: &Batch) -> Result<(), Trouble> {
        self.index(database)?;
        let command = rawdoc! {
            "update": self.collection.as_str(), "ordered": true, "writeConcern": self.concern(),
        };
        self.write(database, with(command, "updates", batch)?, batch.len())
    }

    /// Without an index each update would read the whole collection.
    fn index(&mut self, database: &str) -> Result<(), Trouble> {
        if self.indexed == database {
            return Ok(());
        }
        let mut keys = RawDocumentBuf::new();
        keys.append(self.id_key.as_str(), 1_i32);
        let mut indexes = RawArrayBuf::new();
        indexes.push(rawdoc! { "key": keys, "name": format!("logd_{}", self.id_key) });
        let command = rawdoc! { "createIndexes": self.collection.as_str(), "indexes": indexes };
        match self.command(database, command) {
            Ok(_) => {}
            Err((None, why)) => return Err(Trouble::Away(why)),
            Err((Some(_), why)) => self.told.push(format!(
                "database {database}: no index on {} could be made: {why}; without one every update reads the whole collection",
                self.id_key
            )),
        }
        database.clone_into(&mut self.indexed);
        Ok(())
    }

    fn write(&mut self, database: &str, command: RawDocumentBuf, len: usize) -> Result<(), Trouble> {
        let reply = match self.command(database, command) {
            Ok(reply) => reply,
            Err((Some(code), why)) if len == 1 && FOR_GOOD.contains(&code) && !self.degrade(code, &why) => {
                return Err(Trouble::Refused(vec![(0, why)]));
            }
            Err((_, why)) => return Err(Trouble::Away(why)),
        };
        let mut refused = Vec::new();
        for error in reply.get_array("writeErrors").into_iter().flatten().filter_map(|e| e.as_document()) {
            let number = |key| {
                let value = error.get(key).and_then(|v| v.as_i32().map(i64::from).or_else(|| v.as_i64()));
                value.and_then(|n| i32::try_from(n).ok())
            };
            let (code, index) = (number("code").unwrap_or(0), number("index").unwrap_or(0));
            let text = format!("{} (code {code})", error.get_str("errmsg").unwrap_or_default());
            // It was written before a crash. (An index of somebody else's may refuse a document, too.)
            if code == DUPLICATE && is_repeated(error) {
                continue;
            }
            if !FOR_GOOD.contains(&code) && code != DUPLICATE {
                return Err(Trouble::Away(text));
            }
            refused.push((usize::try_from(index).unwrap_or(0), text));
        }
        if let Ok(error) = reply.get_document("writeConcernError") {
            let code = error.get_i32("code").unwrap_or(0);
            let why = error.get_str("errmsg").unwrap_or_default();
            self.degrade(code, why);
            return Err(Trouble::Away(self.concern_text(code, why)));
        }
        if refused.is_empty() { Ok(()) } else { Err(Trouble::Refused(refused)) }
    }

    /// From now on one server will do, if that is allowed and this is why.
    fn degrade(&mut self, code: i32, why: &str) -> bool {
        let one = self.concern.get_i64("w") == Ok(1);
        let concern =
            NO_CONCERN.contains(&code) && (why.contains("'w'") || why.contains("replica") || code != 2);
        if concern && self.fallback && !one {
            self.concern.insert("w", 1_i64);
            self.told.push(format!(
                "the database cannot have a write on more than one server ({why}): one will do, as write_concern_fallback says"
            ));
        }
        concern
    }

    fn concern_text(&self, code: i32, why: &str) -> String {
        if NO_CONCERN.contains(&code) && !self.fallback {
            let w = self.concern.get("w").map(ToString::to_string).unwrap_or_default();
            return format!(
                "write_concern = {w} cannot be had here: {why} (code {code}): a single server has no second one; set \
                 write_concern = 1, or write_concern_fallback = yes"
            );
        }
        format!("{why} (code {code})")
    }

    /// How many documents have an `_id` from here to there.
    pub fn count(&mut self, database: &str, ids: (&str, &str)) -> Result<u64, Trouble> {
        let command = rawdoc! { "count": self.collection.as_str(), "query": { "_id": range(ids) } };
        let reply = self.command(database, command).map_err(|(_, why)| Trouble::Away(why))?;
        let n = reply.get("n").and_then(|n| {
            n.as_i64().or_else(|| n.as_i32().map(i64::from)).or_else(|| n.as_f64().map(|n| n as i64))
        });
        n.and_then(|n| u64::try_from(n).ok())
            .ok_or_else(|| Trouble::Away(format!("count: no number in {reply}")))
    }

    /// Removes these.
    pub fn remove(&mut self, database: &str, ids: (&str, &str)) -> Result<(), Trouble> {
        let mut deletes = RawArrayBuf::new();
        deletes.push(rawdoc! { "q": { "_id": range(ids) }, "limit": 0 });
        let command = rawdoc! { "delete": self.collection.as_str(), "writeConcern": self.concern(), "deletes": deletes };
        self.write(database, command, 2)
    }
}

/// The command with all of these.
fn with(command: RawDocumentBuf, name: &str, batch: &Batch) -> Result<RawDocumentBuf, Trouble> {
    let mut out = command.into_bytes();
    out.reserve(batch.elements().len().saturating_add(64));
    // Its end comes behind them.
    out.pop();
    bson::element(&mut out, bson::ARRAY, name.as_bytes());
    let array = bson::begin(&mut out);
    out.extend_from_slice(batch.elements());
    bson::end(&mut out, array);
    bson::end(&mut out, 0);
    RawDocumentBuf::from_bytes(out).map_err(|e| Trouble::Away(format!("a message cannot be made: {e}")))
}

/// Is the index that a duplicate key is refused by that of `_id`? Servers say so by its pattern, old ones only in their text:
/// `E11000 duplicate key error collection: db.lines index: _id_ dup key: …`. Behind `dup key` stands what a line said.
fn is_repeated(error: &Document) -> bool {
    if let Ok(pattern) = error.get_document("keyPattern") {
        return pattern.keys().eq(["_id"]);
    }
    let text = error.get_str("errmsg").unwrap_or_default();
    let index = text.split_once(" index: ").and_then(|(_, rest)| rest.split(' ').next());
    // MMAPv1 wrote `db.lines.$_id_`.
    index.is_some_and(|name| name == "_id_" || name.ends_with(".$_id_"))
}

fn range((from, to): (&str, &str)) -> RawDocumentBuf {
    rawdoc! { "$gte": from, "$lt": to }
}

/// What went wrong, without the driver's own words around it, which are others each time.
fn plain(e: &mongodb::error::Error) -> String {
    let text = match &*e.kind {
        ErrorKind::Io(e) => e.to_string(),
        ErrorKind::ServerSelection { message, .. } => message.clone(),
        ErrorKind::Command(c) => format!("{} (code {})", c.message, c.code),
        other => other.to_string(),
    };
    let cause = text.split_once("I/O error: ").map_or(text.as_str(), |(_, cause)| cause);
    let end = [", labels", ". Topology", " }"].iter().filter_map(|end| cause.find(end)).min();
    cause.get(..end.unwrap_or(cause.len())).unwrap_or(cause).to_owned()
}

/// The servers of a connection string, without user, password and options.
fn hosts(uri: &str) -> &str {
    let rest = uri.split_once("://").map_or(uri, |(_, rest)| rest);
    let rest = rest.split(['/', '?']).next().unwrap_or(rest);
    rest.rsplit_once('@').map_or(rest, |(_, hosts)| hosts)
}

impl Drop for Server {
    fn drop(&mut self) {
        // What the driver still does in the background must not keep a role from ending.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Errors of a server that another one may not have, or the same one not later.
fn is_passing(code: i32) -> bool {
    const PASSING: &[i32] =
        &[6, 7, 50, 63, 89, 91, 112, 133, 189, 202, 234, 262, 9001, 10_107, 11_600, 11_602, 13_435, 13_436];
    PASSING.contains(&code)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It was any message with `_id_ ` in it: a line that another unique index refused was taken for one that is there.
    #[test]
    fn only_a_duplicate_id_is_a_repetition() {
        let text = |t: &str| doc! { "code": DUPLICATE, "errmsg": format!("E11000 duplicate key error {t}") };
        for (error, wanted) in [
            (text("collection: d.c index: _id_ dup key: { _id: \"a_1.0.1.1\" }"), true),
            (text("index: d.c.$_id_ dup key: { : \"a\" }"), true),
            (text("collection: d.c index: uid_1 dup key: { uid: \"x_id_ y\" }"), false),
            (text("collection: d.c index: uid_1 dup key: { uid: \" index: _id_ dup key\" }"), false),
            (text("collection: d.c index: user_id_ dup key: { u: 1 }"), false),
            (doc! { "keyPattern": { "_id": 1 }, "errmsg": "said in other words" }, true),
            (doc! { "keyPattern": { "uid": 1 }, "errmsg": "x index: _id_ dup key" }, false),
            (doc! { "keyPattern": { "_id": 1, "uid": 1 }, "errmsg": "" }, false),
            (doc! {}, false),
        ] {
            assert_eq!(is_repeated(&error), wanted, "{error}");
        }
    }
}

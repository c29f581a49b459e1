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
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

/// An address to which no connection can be made is given up after this time.
const CONNECT: Duration = Duration::from_secs(5);
/// One that has taken a command and says nothing is given up after this time: longer than it may wait for other servers.
const ANSWER: Duration = Duration::from_secs(40);
/// How often it is asked meanwhile whether the role stops.
const LOOK: Duration = Duration::from_millis(200);
/// Enough to read what has arrived meanwhile.
const IDLE: Duration = Duration::from_millis(1);
/// How long other servers are waited for, in ms.
const WTIMEOUT_MS: i32 = 30_000;
/// Lines of which that is known at a time.
const STRANGE_MAX: usize = 1_000;
/// Error code of a document whose `_id` is there.
const DUPLICATE: i32 = 11_000;
/// Error codes of a document that is refused for good: invalid values, names and keys, documents that are too large or that a
/// collection's rules refuse.
const FOR_GOOD: &[i32] = &[2, 9, 14, 22, 52, 54, 56, 57, 61, 66, 121, 10_334, 17_280, 17_419, 17_420];
/// Those of them that a server may give for a whole message because of one document in it. Other errors of a message are not
/// a document's: a server without a journal says 2 to each.
const OF_MESSAGE: &[i32] = &[22, 10_334, 17_280, 17_419, 17_420];
/// Error codes of a write concern that a server cannot have.
const NO_CONCERN: &[i32] = &[2, 79, 100];

/// Why something was not written.
#[derive(Debug)]
pub enum Trouble {
    /// It may be later: nobody answers, a disk is full, another server takes over.
    Away(String),
    /// Some can never be. An insert has written all others, an update those before the first.
    Refused(Vec<Refused>),
    /// The message is refused because of one in it, and nothing was written.
    Message(String),
    /// One is refused for a reason that is not known here: its place and why. Others may have been written.
    Strange(usize, String),
}

/// What can never be written.
#[derive(Debug)]
pub struct Refused {
    /// Its place in the batch.
    pub at: usize,
    /// Why, in the server's words.
    pub why: String,
    /// Its `_id` is another document's.
    pub repeated: bool,
    /// A server that has refused many says no more than that there is one like it.
    pub untold: bool,
}

impl Trouble {
    /// It is tried again later, whatever it is.
    pub fn later(self) -> String {
        match self {
            Self::Away(why) | Self::Message(why) | Self::Strange(_, why) => why,
            Self::Refused(refused) => refused.into_iter().next().map(|r| r.why).unwrap_or_default(),
        }
    }
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
    /// Lines that are refused for reasons that are not known here, and how often.
    strange: BTreeMap<String, u32>,
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
            strange: BTreeMap::new(),
        }
    }

    /// The database of a day.
    pub fn database(&self, day: &str) -> String {
        format!("{}{day}", self.db)
    }

    /// Looks after the connections, which nobody does while nothing is sent. To be called several times a second: the driver
    /// asks its servers how they are, and takes one that was not heard for a failed one.
    pub fn idle(&self) {
        if let Some(runtime) = &self.runtime {
            let _ = runtime.block_on(async { timeout(IDLE, std::future::pending::<()>()).await });
        }
    }

    /// Sends it to the address in use; `Ok(None)` = nobody answered in time.
    fn send(
        &mut self,
        database: &str,
        command: RawDocumentBuf,
    ) -> Result<Option<mongodb::error::Result<Document>>, String> {
        if self.runtime.is_none() {
            // On our own thread: with another one for its connections, each answer would wake two.
            let runtime = Builder::new_current_thread().enable_all().build();
            self.runtime = Some(runtime.map_err(|e| format!("no descriptors for its connection: {e}"))?);
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
            self.next_address();
        }
        Err((None, why))
    }

    fn next_address(&mut self) {
        self.client = None;
        self.at = self.at.saturating_add(1).checked_rem(self.uris.len()).unwrap_or(0);
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
        self.write(database, with(command, "documents", batch)?, Write::Insert(batch.len())).map(|_| ())
    }

    /// Updates documents, in this order; one that is not there is made. How many were made.
    pub fn upsert(&mut self, database: &str, batch: &Batch) -> Result<u64, Trouble> {
        self.index(database)?;
        let command = rawdoc! {
            "update": self.collection.as_str(), "ordered": true, "writeConcern": self.concern(),
        };
        self.write(database, with(command, "updates", batch)?, Write::Update(batch.len()))
    }

    /// How often this was asked for it.
    pub fn tries(&mut self, what: &str) -> u32 {
        if self.strange.len() >= STRANGE_MAX {
            self.strange.clear();
        }
        let times = self.strange.entry(what.to_owned()).or_default();
        *times = times.saturating_add(1);
        *times
    }

    /// A collection may have been removed since its index was asked for.
    pub fn forget_index(&mut self) {
        self.indexed.clear();
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

    fn write(&mut self, database: &str, command: RawDocumentBuf, what: Write) -> Result<u64, Trouble> {
        let reply = match self.command(database, command) {
            Ok(reply) => reply,
            Err((Some(code), why)) => {
                self.degrade(code, &why);
                let one = OF_MESSAGE.contains(&code) && !matches!(what, Write::Delete);
                return Err(if one { Trouble::Message(why) } else { Trouble::Away(why) });
            }
            Err((None, why)) => return Err(Trouble::Away(why)),
        };
        let mut refused = Vec::new();
        // Those that are there from before a crash.
        let mut known = 0_usize;
        for error in reply.get_array("writeErrors").into_iter().flatten().filter_map(|e| e.as_document()) {
            let (code, at) = (number(error, "code"), number(error, "index"));
            let code = i32::try_from(code).unwrap_or(0);
            let at = usize::try_from(at).unwrap_or(0);
            let said = error.get_str("errmsg").unwrap_or_default();
            let why = format!("{said} (code {code})");
            let repeated = code == DUPLICATE && is_repeated(error);
            let untold = code == DUPLICATE && said.is_empty() && !error.contains_key("keyPattern");
            // It was written before a crash. (An index of somebody else's may refuse a document, too.) An update finds such a
            // document by its transaction id: the `_id` is that of another one.
            if repeated && matches!(what, Write::Insert(_)) {
                known = known.saturating_add(1);
            } else if is_passing(code) {
                // Another address may lead to the server that can.
                self.next_address();
                return Err(Trouble::Away(self.named(&why)));
            } else if matches!(what, Write::Delete) {
                return Err(Trouble::Away(why));
            } else if FOR_GOOD.contains(&code) || code == DUPLICATE {
                refused.push(Refused { at, why, repeated, untold });
            } else {
                return Err(Trouble::Strange(at, why));
            }
        }
        if let Ok(error) = reply.get_document("writeConcernError") {
            let code = error.get_i32("code").unwrap_or(0);
            let why = error.get_str("errmsg").unwrap_or_default();
            self.degrade(code, why);
            if is_passing(code) {
                self.next_address();
            }
            return Err(Trouble::Away(self.concern_text(code, why)));
        }
        let n = usize::try_from(number(&reply, "n")).unwrap_or(0);
        let wanted = match what {
            Write::Insert(len) => len.saturating_sub(known).saturating_sub(refused.len()),
            Write::Update(len) => refused.first().map_or(len, |r| r.at),
            Write::Delete => 0,
        };
        if n < wanted {
            return Err(Trouble::Away(self.named(&format!("it acknowledged {n} of {wanted} documents"))));
        }
        if refused.is_empty() {
            Ok(reply.get_array("upserted").map_or(0, |made| made.len() as u64))
        } else {
            Err(Trouble::Refused(refused))
        }
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
        if !reply.contains_key("n") {
            return Err(Trouble::Away(format!("count: no number in {reply}")));
        }
        Ok(u64::try_from(number(&reply, "n")).unwrap_or(0))
    }

    /// Removes these.
    pub fn remove(&mut self, database: &str, ids: (&str, &str)) -> Result<(), Trouble> {
        let mut deletes = RawArrayBuf::new();
        deletes.push(rawdoc! { "q": { "_id": range(ids) }, "limit": 0 });
        let command = rawdoc! { "delete": self.collection.as_str(), "writeConcern": self.concern(), "deletes": deletes };
        self.write(database, command, Write::Delete).map(|_| ())
    }
}

/// What a message asks for, and of how many.
#[derive(Clone, Copy)]
enum Write {
    Insert(usize),
    Update(usize),
    Delete,
}

/// A number of a reply, whatever kind it is; 0 = it is not there.
fn number(reply: &Document, key: &str) -> i64 {
    let of = |n: &mongodb::bson::Bson| {
        n.as_i64().or_else(|| n.as_i32().map(i64::from)).or_else(|| n.as_f64().map(|n| n as i64))
    };
    reply.get(key).and_then(of).unwrap_or(0)
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

/// The servers of a connection string, without user, password and options. A password that should be written with `%2F` may
/// have a `/`.
fn hosts(uri: &str) -> &str {
    let rest = uri.split_once("://").map_or(uri, |(_, rest)| rest);
    let rest = rest.rsplit_once('@').map_or(rest, |(_, hosts)| hosts);
    rest.split(['/', '?']).next().unwrap_or(rest)
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
    const PASSING: &[i32] = &[
        6, 7, 24, 46, 50, 63, 64, 70, 89, 91, 112, 133, 134, 150, 189, 202, 234, 246, 249, 262, 314, 317,
        9001, 10_107, 11_600, 11_601, 11_602, 13_388, 13_435, 13_436, 14_031,
    ];
    PASSING.contains(&code)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A part of a password was in the log.
    #[test]
    fn no_part_of_a_password_is_among_the_hosts() {
        for (uri, wanted) in [
            ("mongodb://a:1,b:2/?w=1", "a:1,b:2"),
            ("mongodb://u:s3c/ret@x@a:1/db", "a:1"),
            ("mongodb+srv://u:p?q@a.example", "a.example"),
            ("a:1", "a:1"),
        ] {
            assert_eq!(hosts(uri), wanted, "{uri}");
        }
    }

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

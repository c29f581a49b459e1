//! What a document costs the collector, by what it costs a program that has nothing to do but to insert it.
//!
//! - *bare*: CPU seconds (user, system, all threads) of this process while one thread hands the documents, built before, to
//!   `insert_many` of the official driver: unordered, `bulk_size` at a time, the same write concern.
//! - *client*: CPU seconds of the collector's process, from when it serves until the hour is said to be in the database, without
//!   those of an `fcollector` for the same hour: reading lines from the store, shaping and sending them, and all waiting for a
//!   server that takes its time; by the bare loop's on the very same documents (read back from what the collector has written).
//! - *whole collector*: the same with what `fcollector` costs: receiving, verifying and storing packs, the certificate.
//! - *by raw*: the whole by a loop that has the documents' bytes already (`RawDocumentBuf`), for whoever compares: such a
//!   loop does not even encode them.
//! - *documents*: by wall second, of the collector; the server's own work is most of it.
//!
//! One server, which is on the same disk and the same cores; both write to it three times in turn, each time into an empty
//! database, and sums are compared. Lines are those of all suites in the original's layout, with a transaction id and four
//! more parameters; `journal`, one server. A tenth of `LOGD_BENCH_MB`.

use super::lines;
use super::measure::*;
use super::support::mongo::Server;
use super::support::{Node, Temp, until};
use logd::clock::{Clock, Zone};
use mongodb::bson::{Document, RawDocumentBuf, doc};
use mongodb::options::{Acknowledgment, CollectionOptions, WriteConcern};
use mongodb::{Client, Collection, Database};
use serde_json::Value;
use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// As the key's default.
const BULK: usize = 1_000;
const ROUNDS: usize = 3;
const PATIENCE: Duration = Duration::from_mins(30);
const COLLECTION: &str = "lines";

/// An hour of lines in the original's layout; how many.
fn write(path: &std::path::Path, bytes: u64) -> u64 {
    let (mut text, mut n) = (String::new(), 0);
    let (origin, count) = lines::each(|line| {
        n += 1;
        // `IP - - [time] "GET /path…`: without its own query, so that each line has as many parameters.
        let (before, rest) = line.split_once(" HTTP/").unwrap_or((line, "1.1\" 200 1\n"));
        let before = before.split('?').next().unwrap_or_default();
        let query =
            format!("transaction_id=t{n:09}&uid=u{}&page=p%2F{}&action=click&from=a+b", n % 9_973, n % 77);
        let _ = write!(text, "www.example.com {before}?{query} HTTP/{rest}");
        (text.len() as u64) < bytes
    });
    println!("lines: {origin}, {count} lines of {} bytes", text.len() as u64 / count);
    fs::write(path, text).unwrap();
    count
}

/// CPU and wall seconds of a collector for the hour, until this file below its `save_dir` is there; and the file.
fn collect(temp: &Temp, hour: &str, role: &str, keys: &[(&str, &str)], file: &str) -> (f64, f64, Value) {
    let scratch = scratch("mongo");
    let save = scratch.path("save").display().to_string();
    let all =
        [&[("save_dir", save.as_str()), ("listen", "127.0.0.1:0"), ("checkpoint", "1s")], keys].concat();
    let mut node = Node::start(&scratch, "store", role, &all, &[]);
    let to = node.addr().to_string();
    let pattern = temp.path("access.log.<%Y%m%d%H>").display().to_string();
    let keys = [("log_file", pattern.as_str()), ("send_to", &to), ("name", "web1"), ("timezone", "UTC")];
    let more = [("start", hour), ("quiet", "0"), ("close_wait", "0")];
    let (before, start) = (usage(&node), Instant::now());
    let tail = Node::spawn(&scratch, "web", "tail", &[&keys[..], &more].concat(), &[]);
    let file = scratch.path("save").join(file);
    let done = until(PATIENCE, "the hour's end", || fs::read(&file).ok());
    let wall = start.elapsed().as_secs_f64();
    let after = usage(&node);
    drop(tail);
    let (user, sys) = (after.cpu.user - before.cpu.user, after.cpu.sys - before.cpu.sys);
    println!("{role}: user {user:.2} s, sys {sys:.2} s, wall {wall:.1} s, RSS {:.1} MB", after.rss_mb);
    (user + sys, wall, serde_json::from_slice(&done).unwrap())
}

/// CPU seconds of this process for inserting the documents.
fn insert<T: serde::Serialize + Send + Sync>(tokio: &Runtime, into: &Collection<T>, documents: &[T]) -> f64 {
    let begun = own_cpu();
    for part in documents.chunks(BULK) {
        tokio.block_on(into.insert_many(part).ordered(false).into_future()).unwrap();
    }
    own_cpu() - begun
}

async fn all_of(db: &Database) -> Vec<Document> {
    let mut found = db.collection::<Document>(COLLECTION).find(doc! {}).await.unwrap();
    let mut documents = Vec::new();
    while found.advance().await.unwrap() {
        documents.push(found.deserialize_current().unwrap());
    }
    documents
}

/// See the header.
pub fn mongo(report: &mut Report) {
    let temp = scratch("mongo-lines");
    let hour = Zone::named("UTC").unwrap().hour_at(Clock::real().now_ms() - 2 * 3_600_000).to_string();
    let count = write(&temp.path(&format!("access.log.{hour}")), megabytes() * 100_000);
    let server = Server::new(&temp);
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let uri = format!("mongodb://{}/?directConnection=true", server.addr());
    let client = tokio.block_on(Client::with_uri_str(uri)).unwrap();
    let concern = WriteConcern::builder().w(Acknowledgment::Nodes(1)).journal(true).build();
    let options = CollectionOptions::builder().write_concern(concern).build();
    let bare = client.database("bare");
    let (mut ours, mut stored, mut wall, mut built, mut raw) = (0.0, 0.0, 0.0, 0.0, 0.0);
    let (mongos, bulk) = (server.addr().to_string(), BULK.to_string());
    for round in 0..ROUNDS {
        let name = format!("ours{round}x");
        let keys = [
            ("db", name.as_str()),
            ("mongos", &mongos),
            ("collection", COLLECTION),
            ("bulk_size", &bulk),
            ("write_concern", "1"),
        ];
        let (cpu, seconds, done) =
            collect(&temp, &hour, "mgocollector", &keys, &format!("documents_done/web1_{hour}"));
        assert_eq!(done["inserted"], count, "{done}");
        ours += cpu;
        wall += seconds;
        stored += collect(&temp, &hour, "fcollector", &[], &format!("received/web1_{hour}_{count}")).0;
        let db = client.database(done["database"].as_str().unwrap());
        let documents = tokio.block_on(all_of(&db));
        assert_eq!(documents.len() as u64, count);
        let bytes: Vec<RawDocumentBuf> =
            documents.iter().map(|d| RawDocumentBuf::from_document(d).unwrap()).collect();
        tokio.block_on(db.drop().into_future()).unwrap();
        let cpu = insert(&tokio, &bare.collection_with_options("built", options.clone()), &documents);
        let raw_cpu = insert(&tokio, &bare.collection_with_options("raw", options.clone()), &bytes);
        println!("bare: {cpu:.2} s; of bytes: {raw_cpu:.2} s");
        built += cpu;
        raw += raw_cpu;
        tokio.block_on(bare.drop().into_future()).unwrap();
    }
    let all = count as f64 * ROUNDS as f64;
    let by = |cpu: f64| cpu / all * 1e6;
    println!(
        "CPU by document: collector {:.2} us, of it {:.2} us as fcollector; bare {:.2} us, of bytes {:.2} us",
        by(ours),
        by(stored),
        by(built),
        by(raw)
    );
    report.row("mongo: client's CPU by bare driver's", (ours - stored) / built, "", Target::AtMost(1.3));
    report.row("mongo: whole collector's CPU by bare driver's", ours / built, "", Target::None);
    report.row("mongo: whole collector's CPU by raw driver's", ours / raw, "", Target::None);
    report.row("mongo: documents", all / wall, "/s", Target::None);
}

//! From a line to a document.
//!
//! Every query parameter, the first of several with one name, as a string; `ipinlong` (the client's address as an integer; IPv6 as
//! a string of digits), `time` (unix seconds), `day` (20150517) and `hour` as integers; further fields as strings. Names begin
//! with the first label of the line's host and `_`, but for the transaction id's. What is no UTF-8 becomes U+FFFD.

use crate::config::MongoConfig;
use crate::etl::fields::{Field, Need, Record, Source};
use crate::etl::format::Format;
use crate::etl::lists::Spiders;
use mongodb::bson::{RawDocumentBuf, raw::RawBson};
use std::net::IpAddr;

/// Longest document that a server takes, in bytes.
const DOCUMENT_MAX: usize = 16 << 20;

/// Reason of a rejected line.
const TOO_LARGE: &str = "its document would be larger than 16 MiB";

/// How lines become documents.
pub struct Shape {
    format: Format,
    need: Need,
    spiders: Spiders,
    fields: Vec<(String, Field)>,
    id_key: String,
    prefix: bool,
    only_with_id: bool,
}

/// What a line became.
pub enum Made {
    /// A document without its `_id`, and its transaction id; that is in the document only if `upsert` did not ask for it.
    Document(RawDocumentBuf, Option<String>),
    /// It has no transaction id.
    Skipped,
    /// Why it can be none.
    Rejected(String),
}

/// Buffers that are used again for each line.
#[derive(Default)]
pub struct Work {
    record: Record,
    scratch: Vec<u8>,
}

impl Shape {
    /// Compiles what the configuration says; the error names the key.
    pub fn new(conf: &MongoConfig) -> Result<Self, String> {
        let format = Format::compile(&conf.log_format).map_err(|e| format!("log_format: {e}"))?;
        if conf.id_key.is_empty() || escape(&conf.id_key) != conf.id_key {
            return Err(format!(
                "transaction_id_key: `{}` is no name of a field: not empty, without `.` and `%`, and no `$` in front",
                conf.id_key
            ));
        }
        // For the parameters, the address as a number and what a further field asks for.
        let mut need = Need { params: true, peer: true, client: true, ..Need::default() };
        let mut fields = Vec::new();
        for name in &conf.fields {
            let field = Field::named(name, &format).map_err(|e| format!("fields: {e}"))?;
            need.add(&field);
            fields.push((name.trim_start_matches('$').to_owned(), field));
        }
        Ok(Self {
            format,
            need,
            spiders: Spiders::default(),
            fields,
            id_key: conf.id_key.clone(),
            prefix: conf.prefix,
            only_with_id: conf.only_with_id,
        })
    }

    /// The document of a line. `id` is its `_id`; with `None` it has none, nor the transaction id: both are told beside it.
    pub fn document(&self, work: &mut Work, line: &[u8], source: &Source, id: Option<&str>) -> Made {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            return Made::Rejected("empty line".into());
        }
        let (record, scratch) = (&mut work.record, &mut work.scratch);
        if let Err(why) = record.read(line, &self.format, self.need, &self.spiders) {
            return Made::Rejected(why.to_owned());
        }
        let transaction = record.params().find(|(name, _)| *name == self.id_key.as_bytes());
        // An empty one would make one document of many lines.
        let transaction = transaction.filter(|(_, value)| !value.is_empty());
        let transaction = transaction.map(|(_, value)| String::from_utf8_lossy(value).into_owned());
        if transaction.is_none() && self.only_with_id {
            return Made::Skipped;
        }
        let mut prefix = String::new();
        if self.prefix {
            let host = record.get(&Field::Host, line, source, &self.spiders, scratch);
            let label = host.split(|b| *b == b'.').next().unwrap_or_default();
            prefix = String::from_utf8_lossy(label).into_owned() + "_";
        }
        let mut out = RawDocumentBuf::new();
        let mut names: Vec<String> = Vec::new();
        if let Some(id) = id {
            out.append("_id", id);
            if let Some(transaction) = &transaction {
                let name = escape(&self.id_key);
                out.append(&name, transaction.as_str());
                names.push(name);
            }
        }
        let own = ["ipinlong", "time", "day", "hour"].map(|name| escape(&(prefix.clone() + name)));
        let [ip, time, day, hour] = &own;
        match record.addresses()[0] {
            Some(IpAddr::V4(a)) => out.append(ip, i64::from(u32::from(a))),
            Some(IpAddr::V6(a)) => out.append(ip, u128::from(a).to_string()),
            None => {}
        }
        let stamp = record.stamp();
        out.append(time, stamp.unix());
        for (name, field) in [(day, &Field::Day), (hour, &Field::Hour)] {
            let digits = record.get(field, line, source, &self.spiders, scratch);
            let number: i32 = std::str::from_utf8(digits).ok().and_then(|d| d.parse().ok()).unwrap_or(0);
            out.append(name, number);
        }
        names.extend(own);
        for (name, field) in &self.fields {
            let value = record.get(field, line, source, &self.spiders, scratch);
            append(&mut out, &mut names, &prefix, name, value);
        }
        for (name, value) in record.params().filter(|(name, _)| *name != self.id_key.as_bytes()) {
            append(&mut out, &mut names, &prefix, &String::from_utf8_lossy(name), value);
        }
        // Some of it is around the document in its message.
        if out.as_bytes().len() > DOCUMENT_MAX.saturating_sub(16 << 10) {
            return Made::Rejected(TOO_LARGE.into());
        }
        Made::Document(out, transaction)
    }
}

/// Appends a field, unless there is one with its name.
fn append(out: &mut RawDocumentBuf, names: &mut Vec<String>, prefix: &str, name: &str, value: &[u8]) {
    let name = escape(&format!("{prefix}{name}"));
    if !names.contains(&name) {
        out.append(&name, RawBson::String(String::from_utf8_lossy(value).into_owned()));
        names.push(name);
    }
}

/// A name that a server can hold: `%`, `.`, NUL, a `$` at the beginning and the `_` of `_id` become `%HH`.
fn escape(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for (at, c) in name.char_indices() {
        match c {
            '%' => out.push_str("%25"),
            '.' => out.push_str("%2E"),
            '\0' => out.push_str("%00"),
            '$' if at == 0 => out.push_str("%24"),
            '_' if name == "_id" => out.push_str("%5F"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use mongodb::bson::{Document, doc};

    fn conf(more: &str) -> MongoConfig {
        let text =
            format!("[mgocollector]\nlisten = 127.0.0.1:1\nsave_dir = s\ndb = d\ncollection = c\n{more}");
        crate::config::Config::parse("f", text.as_bytes()).mongo(true).unwrap().0
    }

    fn made(more: &str, line: &str, id: Option<&str>) -> (Document, Option<String>) {
        let shape = Shape::new(&conf(more)).unwrap();
        match shape.document(&mut Work::default(), line.as_bytes(), &Source::default(), id) {
            Made::Document(raw, t) => (raw.to_document().unwrap(), t),
            Made::Skipped => (doc! { "skipped": true }, None),
            Made::Rejected(why) => (doc! { "rejected": why }, None),
        }
    }

    const LINE: &str = "www.shop.example 10.0.0.1 - - [17/May/2015:10:05:03 +0000] \
        \"GET /a?transaction_id=T1&a=1&a=2&b.c=%C3%A9&$d=x&hour=9&%25=y HTTP/1.1\" 200 5 \"-\"";

    #[test]
    fn a_line_is_a_document_as_the_original_made_it() {
        let (document, transaction) = made("", LINE, Some("k"));
        assert_eq!(transaction.as_deref(), Some("T1"));
        let wanted = doc! {
            "_id": "k", "transaction_id": "T1", "www_ipinlong": 167_772_161_i64, "www_time": 1_431_857_103_i64,
            "www_day": 20_150_517, "www_hour": 10, "www_a": "1", "www_b%2Ec": "é", "www_$d": "x", "www_%25": "y",
        };
        assert_eq!(document, wanted);
    }

    #[test]
    fn names_filters_and_fields_follow_the_keys() {
        let (document, transaction) = made(
            "prefix = none\nfields = status, path\nlog_format = $host $ip_ $_i $_u \
            [$time_local] \"$request\" $status $_rest\n",
            LINE,
            None,
        );
        assert_eq!(transaction.as_deref(), Some("T1"));
        assert_eq!((document.get_str("status"), document.get_str("path")), (Ok("200"), Ok("/a")));
        assert_eq!((document.get_str("%24d"), document.get_i32("hour")), (Ok("x"), Ok(10)));
        assert!(document.get("_id").is_none() && document.get("transaction_id").is_none());
        let without = LINE.replace("transaction_id", "other");
        assert!(made("", &without, None).0.contains_key("skipped"));
        assert!(made("filter = none\n", &without, None).0.contains_key("www_other"));
        assert!(made("", "nonsense", None).0.contains_key("rejected"));
        assert!(Shape::new(&conf("log_format = nothing\n")).is_err());
        assert_eq!(escape("_id"), "%5Fid");
    }
}

//! From a line to a document.
//!
//! Every query parameter, the first of several with one name, as a string; `ipinlong` (the client's address as an integer; IPv6 as
//! a string of digits), `time` (unix seconds), `day` (20150517) and `hour` as integers; further fields as strings. Names begin
//! with the first label of the line's host and `_`, but for the transaction id's. What is no UTF-8 becomes U+FFFD.

use super::bson;
use crate::config::MongoConfig;
use crate::etl::fields::{Field, Need, Record, Source};
use crate::etl::format::{Format, Span};
use crate::etl::lists::Spiders;
use std::net::IpAddr;

/// Longest document that a server takes, in bytes.
const DOCUMENT_MAX: usize = 16 << 20;

/// Name of the field that is the client's address.
const IP: &[u8] = b"ipinlong";

/// Longest first label of a host, which is in front of each name: as long as a whole host may be.
const LABEL_MAX: usize = 253;
/// Reason of a rejected line.
const LABEL_LONG: &str = "the first label of its host is longer than 253 bytes";
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
#[derive(Debug)]
pub enum Made<'w> {
    /// A document (BSON), and its transaction id; that is in the document only if the line is one of its own.
    Document(&'w [u8], Option<&'w [u8]>),
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
    fields: Fields,
}

/// The document that is being made.
#[derive(Default)]
struct Fields {
    prefix: Vec<u8>,
    out: Vec<u8>,
    /// The transaction id's name, which no other field has: hosts and parameters come from clients.
    own: Vec<u8>,
    /// Where in it names are.
    names: Vec<Span>,
    /// A bit for the length and the end of each name: one whose bit is not there is new, which nearly all are.
    seen: u64,
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
    pub fn document<'w>(
        &self,
        work: &'w mut Work,
        line: &[u8],
        source: &Source,
        id: Option<&[u8]>,
    ) -> Made<'w> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            return Made::Rejected("empty line".into());
        }
        let Work { record, scratch, fields } = work;
        if let Err(why) = record.read(line, &self.format, self.need, &self.spiders) {
            return Made::Rejected(why.to_owned());
        }
        let id_key = self.id_key.as_bytes();
        let transaction = record.params().find(|(name, _)| *name == id_key).map(|(_, value)| value);
        // An empty one would make one document of many lines.
        let known = transaction.filter(|value| !value.is_empty());
        if known.is_none() && self.only_with_id {
            return Made::Skipped;
        }
        fields.prefix.clear();
        if self.prefix {
            let host = record.get(&Field::Host, line, source, &self.spiders, scratch);
            let label = host.split(|b| *b == b'.').next().unwrap_or_default();
            if label.len() > LABEL_MAX {
                return Made::Rejected(LABEL_LONG.into());
            }
            fields.prefix.extend_from_slice(label);
            fields.prefix.push(b'_');
        }
        fields.out.clear();
        fields.names.clear();
        fields.seen = 0;
        fields.own.clear();
        fields.own.extend_from_slice(id_key);
        let all = bson::begin(&mut fields.out);
        if let Some(id) = id {
            bson::element(&mut fields.out, bson::STRING, b"_id");
            bson::string(&mut fields.out, id);
        }
        if let Some(transaction) = transaction
            && (id.is_some() || known.is_none())
        {
            fields.begin(bson::STRING, false, id_key);
            bson::string(&mut fields.out, transaction);
        }
        let stamp = record.stamp();
        let ip = record.addresses()[0];
        match ip {
            Some(IpAddr::V4(a)) => fields.number(IP, u32::from(a).into()),
            Some(IpAddr::V6(a)) => fields.string(IP, u128::from(a).to_string().as_bytes()),
            None => {}
        }
        fields.number(b"time", stamp.unix());
        let month = i32::from(stamp.year).saturating_mul(100).saturating_add(stamp.month.into());
        let day = month.saturating_mul(100).saturating_add(stamp.day.into());
        for (name, number) in [(b"day".as_slice(), day), (b"hour", stamp.hour.into())] {
            if fields.begin(bson::INT32, true, name) {
                fields.out.extend_from_slice(&number.to_le_bytes());
            }
        }
        // What is no address is not told by a parameter of that name either.
        let without = if ip.is_none() { IP } else { b"" };
        for (name, field) in self.fields.iter().filter(|(name, _)| name.as_bytes() != without) {
            let value = record.get(field, line, source, &self.spiders, scratch);
            fields.string(name.as_bytes(), value);
        }
        for (name, value) in record.params().filter(|(name, _)| *name != id_key && *name != without) {
            fields.string(name, value);
            if fields.out.len() > DOCUMENT_MAX {
                break;
            }
        }
        bson::end(&mut fields.out, all);
        // Some of it is around the document in its message.
        if fields.out.len() > DOCUMENT_MAX.saturating_sub(16 << 10) {
            return Made::Rejected(TOO_LARGE.into());
        }
        Made::Document(&fields.out, known)
    }
}

impl Fields {
    /// Begins a field, whose value follows, unless there is one with its name.
    fn begin(&mut self, kind: u8, with_prefix: bool, name: &[u8]) -> bool {
        let out = &mut self.out;
        let before = out.len();
        out.push(kind);
        let start = out.len();
        if with_prefix {
            out.extend_from_slice(&self.prefix);
        }
        out.extend_from_slice(name);
        if is_odd(name) || is_odd(&self.prefix) || name.ends_with(b"id") {
            escape_from(out, start);
        }
        let (known, name) = out.split_at(start.min(out.len()));
        if with_prefix && name == self.own {
            out.truncate(before);
            return false;
        }
        let last = name.last().copied().unwrap_or_default();
        let bit = 1_u64.wrapping_shl((name.len() as u32).wrapping_mul(7).wrapping_add(last.into()));
        if self.seen & bit != 0 && self.names.iter().any(|n| n.of(known) == name) {
            out.truncate(before);
            return false;
        }
        self.seen |= bit;
        self.names.push(Span { start, end: out.len() });
        out.push(0);
        true
    }

    fn string(&mut self, name: &[u8], value: &[u8]) {
        if self.begin(bson::STRING, true, name) {
            bson::string(&mut self.out, value);
        }
    }

    fn number(&mut self, name: &[u8], value: i64) {
        if self.begin(bson::INT64, true, name) {
            self.out.extend_from_slice(&value.to_le_bytes());
        }
    }
}

/// May a name not be as it is? Few are.
fn is_odd(name: &[u8]) -> bool {
    // Without a way out in the middle it is a few instructions.
    name.iter().fold(false, |odd, b| odd | matches!(b, b'%' | b'.' | b'$' | 0 | 0x80..))
}

/// Makes what stands from `start` on a name that a server can hold.
fn escape_from(out: &mut Vec<u8>, start: usize) {
    let name = out.get(start..).unwrap_or_default();
    if is_odd(name) || name == b"_id" {
        let escaped = escape(&String::from_utf8_lossy(name));
        out.truncate(start);
        out.extend_from_slice(escaped.as_bytes());
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
        let id = id.map(str::as_bytes);
        match shape.document(&mut Work::default(), line.as_bytes(), &Source::default(), id) {
            Made::Document(raw, t) => {
                (Document::from_reader(raw).unwrap(), t.map(|t| String::from_utf8_lossy(t).into_owned()))
            }
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
        assert_eq!(made("prefix = none\n", &LINE.replace("b.c", "_id"), None).0.get_str("%5Fid"), Ok("é"));
        assert_eq!(
            made("", &LINE.replace("www.", ".").replace("b.c", "id"), None).0.get_str("%5Fid"),
            Ok("é")
        );
    }

    /// `transaction_id_key = time` made two fields of one name. An address that nobody can read made none, but a parameter
    /// of its name does not take its place.
    #[test]
    fn no_name_comes_twice() {
        let line =
            LINE.replace("transaction_id=", "time=").replace("10.0.0.1", "unknown").replace("$d", "ipinlong");
        let (document, _) =
            made("prefix = none\ntransaction_id_key = time\nfields = ipinlong, a\n", &line, Some("k"));
        let wanted = doc! {
            "_id": "k", "time": "T1", "day": 20_150_517, "hour": 10, "a": "1", "b%2Ec": "é", "%25": "y",
        };
        assert_eq!(document, wanted);
        let many = (0..300).fold(String::new(), |all, n| all + &format!("&{}=0", n % 150));
        assert_eq!(made("", &LINE.replace("&%25=y", &many), None).0.len(), 7 + 150);
    }

    /// A client that names its host `transaction.x` overwrote the id by a parameter `id`, and one with a long name made gigabytes
    /// of a line of one.
    #[test]
    fn a_host_cannot_take_the_place_of_the_transaction_id_nor_make_a_document_of_gigabytes() {
        let line = LINE.replace("www.", "transaction.").replace("&a=1", "&id=N2");
        for id in [Some("k"), None] {
            let (document, transaction) = made("", &line, id);
            assert_eq!(transaction.as_deref(), Some("T1"));
            assert_eq!(document.get_str("transaction_id").ok(), id.map(|_| "T1"));
            assert_eq!(document.get_str("transaction_a"), Ok("2"));
        }
        let many = (0..900).fold(String::new(), |all, n| all + &format!("&p{n}=0"));
        for (len, wanted) in [(253, false), (254, true), (900_000, true)] {
            let line = LINE.replace("www", &"w".repeat(len)).replace("&%25=y", &many);
            assert_eq!(made("", &line, None).0.contains_key("rejected"), wanted, "{len}");
        }
    }

    /// With `filter = none` an empty transaction id was no field at all.
    #[test]
    fn an_empty_transaction_id_is_kept_and_finds_no_document() {
        let line = LINE.replace("transaction_id=T1", "transaction_id=");
        for id in [Some("k"), None] {
            let (document, transaction) = made("filter = none\n", &line, id);
            assert_eq!((document.get_str("transaction_id"), transaction), (Ok(""), None));
        }
        assert!(made("", &line, None).0.contains_key("skipped"));
    }
}

//! What goes to a database in one message: documents that are inserted, or updates.

use super::bson;
use crate::etl::number::put_unsigned;

/// Of one kind, in the order of their lines.
#[derive(Debug, Default)]
pub struct Batch {
    /// Elements of the message's array.
    elements: Vec<u8>,
    /// Where in them each one's value begins, and ends.
    places: Vec<(usize, usize)>,
}

impl Batch {
    /// How many they are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The elements of an array.
    pub fn elements(&self) -> &[u8] {
        &self.elements
    }

    /// Takes the first ones away.
    pub fn remove_first(&mut self, n: usize) {
        if n >= self.len() {
            // The room is kept.
            self.elements.clear();
            self.places.clear();
            return;
        }
        let old = std::mem::take(self);
        for (from, to) in old.places.into_iter().skip(n) {
            self.insert(old.elements.get(from..to).unwrap_or_default());
        }
    }

    /// Takes one away.
    pub fn remove(&mut self, at: usize) {
        let old = std::mem::take(self);
        for (n, (from, to)) in old.places.into_iter().enumerate() {
            if n != at {
                self.insert(old.elements.get(from..to).unwrap_or_default());
            }
        }
    }

    /// The first one, alone.
    pub fn first(&self) -> Self {
        let mut one = Self::default();
        if let Some((from, to)) = self.places.first() {
            one.insert(self.elements.get(*from..*to).unwrap_or_default());
        }
        one
    }

    /// A document, which has its `_id`.
    pub fn insert(&mut self, document: &[u8]) {
        let start = self.begin();
        self.elements.extend_from_slice(document);
        self.places.push((start, self.elements.len()));
    }

    /// Sets fields of the document with a transaction id, or of the one with this `_id`; if it is not there it is made.
    pub fn upsert(&mut self, id: &[u8], transaction: Option<(&str, &[u8])>, fields: &[u8]) {
        let start = self.begin();
        let out = &mut self.elements;
        let all = bson::begin(out);
        let (key, value) = transaction.unwrap_or(("_id", id));
        bson::element(out, bson::DOCUMENT, b"q");
        let query = bson::begin(out);
        bson::element(out, bson::STRING, key.as_bytes());
        bson::string(out, value);
        bson::end(out, query);
        bson::element(out, bson::DOCUMENT, b"u");
        let change = bson::begin(out);
        bson::element(out, bson::DOCUMENT, b"$set");
        out.extend_from_slice(fields);
        if transaction.is_some() {
            bson::element(out, bson::DOCUMENT, b"$setOnInsert");
            let made = bson::begin(out);
            bson::element(out, bson::STRING, b"_id");
            bson::string(out, id);
            bson::end(out, made);
        }
        bson::end(out, change);
        bson::element(out, bson::BOOLEAN, b"upsert");
        out.push(1);
        bson::end(out, all);
        self.places.push((start, self.elements.len()));
    }

    /// Begins the next element; where its value begins.
    fn begin(&mut self) -> usize {
        self.elements.push(bson::DOCUMENT);
        put_unsigned(self.places.len() as u64, &mut self.elements);
        self.elements.push(0);
        self.elements.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mongodb::bson::{Document, RawDocumentBuf, doc};

    fn read(batch: &Batch) -> Document {
        let mut out = Vec::new();
        let start = bson::begin(&mut out);
        out.extend_from_slice(batch.elements());
        bson::end(&mut out, start);
        Document::from_reader(out.as_slice()).unwrap()
    }

    #[test]
    fn what_is_left_when_the_first_are_done_is_numbered_from_zero() {
        let mut batch = Batch::default();
        let one = |n| RawDocumentBuf::from_document(&doc! { "n": n }).unwrap().into_bytes();
        for n in 0..12 {
            batch.insert(&one(n));
        }
        batch.remove_first(0);
        assert_eq!((batch.len(), read(&batch).get_document("11").unwrap()), (12, &doc! { "n": 11 }));
        batch.remove_first(10);
        assert_eq!(read(&batch), doc! { "0": { "n": 10 }, "1": { "n": 11 } });
        assert_eq!(read(&batch.first()), doc! { "0": { "n": 10 } });
        batch.remove(0);
        assert_eq!(read(&batch), doc! { "0": { "n": 11 } });
        batch.remove_first(9);
        assert!(batch.is_empty() && read(&batch).is_empty());
    }

    #[test]
    fn an_update_finds_its_document_by_the_transaction_id_or_by_its_own() {
        let mut batch = Batch::default();
        let fields = RawDocumentBuf::from_document(&doc! { "a": "b" }).unwrap();
        batch.upsert(b"i", Some(("t", b"x\xff")), fields.as_bytes());
        batch.upsert(b"i", None, fields.as_bytes());
        let wanted = doc! {
            "0": { "q": { "t": "x\u{fffd}" }, "u": { "$set": { "a": "b" }, "$setOnInsert": { "_id": "i" } }, "upsert": true },
            "1": { "q": { "_id": "i" }, "u": { "$set": { "a": "b" } }, "upsert": true },
        };
        assert_eq!(read(&batch), wanted);
    }
}

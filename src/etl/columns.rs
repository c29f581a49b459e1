//! The columns file: which lines are of which kind, which columns a kind has, and into which folders its rows go.
//!
//! JSON. The original's shape is taken as it is; `match` is ours:
//!
//! ```json
//! {"pages": {"match": [{"field": "path", "regex": "\\.html$"}, {"field": "status", "regex": "^5", "not": true}],
//!            "columns": ["time", "ip", "", "path"], "partitions": ["day"]}}
//! ```
//!
//! A line is of the first kind in the file whose rules it all meets; without rules a kind takes every line that comes to
//! it. A column without a name is empty.

use super::fields::{Field, Need};
use super::format::Format;
use super::lists::pattern;
use regex::bytes::Regex;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Most kinds, columns of a kind, and partitions of it.
const KINDS_MAX: usize = 256;
const COLUMNS_MAX: usize = 4096;
const PARTITIONS_MAX: usize = 16;
/// Most rules of all kinds.
const RULES_MAX: usize = 1024;

/// One condition on a line.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Of which value.
    pub field: Field,
    /// What it must look like.
    pub regex: Regex,
    /// Or must not.
    pub not: bool,
}

/// A kind of lines: a table.
#[derive(Clone, Debug)]
pub struct Kind {
    /// Its folder.
    pub name: String,
    /// All must hold.
    pub rules: Vec<Rule>,
    /// In order.
    pub columns: Vec<Field>,
    /// Folders, outermost first: name and value.
    pub partitions: Vec<(String, Field)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    field: String,
    regex: String,
    #[serde(default)]
    not: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawKind {
    #[serde(default, rename = "match")]
    rules: Option<Vec<RawRule>>,
    columns: Vec<String>,
    #[serde(default)]
    partitions: Vec<String>,
}

/// In the order of the file, which decides; a map would sort.
struct RawKinds(Vec<(String, RawKind)>);

impl<'de> Deserialize<'de> for RawKinds {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = RawKinds;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object with a kind of lines for each name")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawKinds, A::Error> {
                let mut all: Vec<(String, RawKind)> = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if all.iter().any(|(n, _)| *n == name) {
                        return Err(serde::de::Error::custom(format!(
                            "the kind {name:?} stands in it twice"
                        )));
                    }
                    all.push((name, map.next_value()?));
                }
                Ok(RawKinds(all))
            }
        }
        d.deserialize_map(InOrder)
    }
}

/// What the original's program itself knew of its four kinds: (kind, field, expression, not).
const ORIGINAL: &[(&str, &str, &str, bool)] = &[
    ("access", "path", "^/img/gut\\.gif$", false),
    ("access", "param.type", "^(access|faccess)$", false),
    ("click", "path", "^/img/gut\\.gif$", false),
    ("click", "param.type", "^[0-9a-zA-Z_.,]*$", false),
    ("open", "path", "^/img/open-gut\\.gif$", false),
    ("open", "param.type", "^[0-9a-zA-Z_.,]*$", false),
    ("others", "path", "^[^.]*$|\\.html?$", false),
    ("others", "param.type", "^[0-9a-zA-Z_.,]*$", false),
    ("others", "param.type", "^bad_type$", true),
];

/// Reads a columns file. Names may begin with one of `prefixes`, which says nothing. Errors name the file, and the place in it.
pub fn parse(
    file: &str,
    bytes: &[u8],
    format: &Format,
    prefixes: &[String],
) -> Result<Vec<Kind>, Vec<String>> {
    let raw: RawKinds =
        serde_json::from_slice(bytes).map_err(|e| vec![format!("{file}:{}: {e}", e.line())])?;
    let (mut kinds, mut wrong) = (Vec::new(), Vec::new());
    if raw.0.is_empty() || raw.0.len() > KINDS_MAX {
        wrong.push(format!("{file}: {} kinds of lines; 1 to {KINDS_MAX} are possible", raw.0.len()));
    }
    let rules = raw.0.iter().map(|(_, k)| k.rules.as_ref().map_or(0, Vec::len));
    let many = rules.fold(0_usize, usize::saturating_add);
    if many > RULES_MAX {
        wrong.push(format!("{file}: {many} rules of all kinds; at most {RULES_MAX} are possible"));
    }
    let named = |name: &str| Field::named(inner(name, prefixes), format);
    for (name, kind) in raw.0 {
        let mut say = |what: String| wrong.push(format!("{file}: kind {name:?}: {what}"));
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        if name.is_empty() || name.len() > 64 || name.starts_with('.') || !name.bytes().all(plain) {
            say("its name becomes a folder: up to 64 letters, digits and - _ . , no . at the beginning"
                .into());
        }
        if kind.columns.is_empty() || kind.columns.len() > COLUMNS_MAX {
            say(format!("{} columns; 1 to {COLUMNS_MAX} are possible", kind.columns.len()));
        }
        if kind.partitions.len() > PARTITIONS_MAX {
            say(format!("{} partitions; at most {PARTITIONS_MAX} are possible", kind.partitions.len()));
        }
        let mut rules = Vec::new();
        let own = match kind.rules {
            Some(own) => own,
            // Its columns file has no rules: they were in the program.
            None if format.original => ORIGINAL
                .iter()
                .filter(|r| r.0 == name)
                .map(|r| RawRule { field: r.1.into(), regex: r.2.into(), not: r.3 })
                .collect(),
            None => Vec::new(),
        };
        for rule in own {
            match named(&rule.field).and_then(|field| Ok((field, pattern(&rule.regex, many)?))) {
                Ok((field, regex)) => rules.push(Rule { field, regex, not: rule.not }),
                Err(why) => say(format!("match: {why}")),
            }
        }
        let mut columns = Vec::new();
        for column in &kind.columns {
            match named(column) {
                Ok(field) => columns.push(field),
                Err(why) => say(format!("column {column:?}: {why}")),
            }
        }
        let mut partitions: Vec<(String, Field)> = Vec::new();
        for partition in &kind.partitions {
            match named(partition) {
                Ok(Field::Empty) => say("a partition needs a name".into()),
                Ok(_) if partitions.iter().any(|(n, _)| n == partition) => {
                    say(format!("partition {partition:?} stands there twice"));
                }
                Ok(field) => partitions.push((partition.clone(), field)),
                Err(why) => say(format!("partition {partition:?}: {why}")),
            }
        }
        kinds.push(Kind { name, rules, columns, partitions });
    }
    if wrong.is_empty() { Ok(kinds) } else { Err(wrong) }
}

/// Names that are parameters' because they are no field's, but look as if they were to be one.
pub fn doubts(file: &str, bytes: &[u8], prefixes: &[String]) -> Vec<String> {
    let Ok(raw) = serde_json::from_slice::<RawKinds>(bytes) else { return Vec::new() };
    let (mut told, mut prefixed) = (Vec::new(), BTreeMap::<&str, BTreeSet<&str>>::new());
    for (kind, raw) in &raw.0 {
        let rules = raw.rules.iter().flatten().map(|r| &r.field);
        let names: BTreeSet<&String> = raw.columns.iter().chain(&raw.partitions).chain(rules).collect();
        for name in names {
            let inner = inner(name, prefixes);
            if Field::is_known(inner) {
                continue;
            }
            if let Some(near) = Field::near(inner) {
                told.push(format!(
                    "{file}: kind {kind:?}: {name:?} is no field but the query parameter of that name; {near:?} is one \
                     (if the parameter is meant, write \"param.{inner}\")"
                ));
            } else if let Some(prefix) = Field::prefix(inner) {
                prefixed.entry(prefix).or_default().insert(inner);
            }
        }
    }
    // One alone is a parameter more likely: utm_source.
    for (prefix, names) in prefixed.iter().filter(|(_, names)| names.len() > 1) {
        let names: Vec<&str> = names.iter().copied().collect();
        told.push(format!(
            "{file}: {} are query parameters of these names; with column_prefixes = {prefix} they would be fields",
            names.join(", ")
        ));
    }
    told
}

/// A name without its prefix.
fn inner<'n>(name: &'n str, prefixes: &[String]) -> &'n str {
    let without = prefixes.iter().filter_map(|p| name.strip_prefix(p.as_str()));
    without.min_by_key(|n| n.len()).unwrap_or(name)
}

/// What all of them ask of a line.
pub fn need(kinds: &[Kind]) -> Need {
    let mut need = Need::default();
    for kind in kinds {
        kind.rules.iter().for_each(|r| need.add(&r.field));
        kind.columns.iter().for_each(|f| need.add(f));
        kind.partitions.iter().for_each(|(_, f)| need.add(f));
    }
    need
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Kind>, Vec<String>> {
        let prefixes = ["event_".to_owned(), "globalhao123_".to_owned()];
        parse("c.json", text.as_bytes(), &Format::compile("combined").unwrap(), &prefixes)
    }

    #[test]
    fn the_originals_shape_loads_as_it_is_and_in_its_order() {
        let text = r#"{"open": {"columns": ["", "event_product", "event_time"],
                                "partitions": ["event_day", "globalhao123_host", "globalhao123_type"]},
                       "access": {"columns": ["ip"]}}"#;
        let kinds = read(text).unwrap();
        assert_eq!(kinds[0].name, "open");
        assert_eq!(kinds[0].columns, [Field::Empty, Field::Param(b"product".as_slice().into()), Field::Time]);
        let names: Vec<_> = kinds[0].partitions.iter().map(|(n, _)| n.as_str()).collect();
        assert_eq!(names, ["event_day", "globalhao123_host", "globalhao123_type"]);
        assert_eq!(kinds[0].partitions[1].1, Field::Host);
        assert!(kinds[0].rules.is_empty() && kinds[1].partitions.is_empty());
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (text, want) in [
            ("{\n\"a\": {\"columns\": [}}", "c.json:2: "),
            ("{\n\n\"a\": {\"column\": []}}", "c.json:3: unknown field `column`"),
            (r#"{"a": {"columns": ["x"]}, "a": {"columns": ["x"]}}"#, "twice"),
            ("{}", "0 kinds"),
            (r#"{"../a": {"columns": ["x"]}}"#, "becomes a folder"),
            (r#"{"a": {"columns": []}}"#, "0 columns"),
            (r#"{"a": {"columns": ["$nothing"]}}"#, "column \"$nothing\": log_format has no $nothing"),
            (r#"{"a": {"columns": ["x"], "partitions": [""]}}"#, "needs a name"),
            (r#"{"a": {"columns": ["x"], "partitions": ["day", "day"]}}"#, "twice"),
            (
                r#"{"a": {"columns": ["x"], "match": [{"field": "path", "regex": "("}]}}"#,
                "no regular expression",
            ),
        ] {
            let wrong = read(text).unwrap_err();
            assert!(wrong[0].contains(want), "{text}: {wrong:?}");
        }
        let rule = r#"{"field": "path", "regex": "x"}"#;
        let text = format!(r#"{{"a": {{"columns": ["x"], "match": [{}]}}}}"#, vec![rule; 1025].join(","));
        assert!(read(&text).unwrap_err()[0].contains("1025 rules"));
    }

    #[test]
    fn names_that_were_to_be_fields_are_doubted() {
        let text = r#"{"a": {"columns": ["time", "statsu", "q", "utm_source", "event_time"], "partitions": ["event_day"],
            "match": [{"field": "parth", "regex": "x"}, {"field": "param.tiem", "regex": "x"}]}}"#;
        let told = doubts("c.json", text.as_bytes(), &[]);
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(told[0].contains(r#"kind "a": "parth" is no field"#) && told[0].contains(r#""path" is one"#));
        assert!(told[1].contains(r#""statsu""#), "{told:?}");
        assert!(
            told[2].starts_with("c.json: event_day, event_time are") && told[2].contains("= event_ they")
        );
        assert_eq!(doubts("c.json", text.as_bytes(), &["event_".into()]).len(), 2);
    }
}

//! The benchmarks: `cargo bench` runs all suites, `cargo bench -- e2e idle` these two.
//!
//! Each suite's header says what is measured, by which clock and on which data. Ratios come from one run and mean something
//! on other machines and beside other load; seconds do not. At the end stands a table of every number that has a target.
//! A missed target is printed, not an error: it may be the machine's.
//!
//! `LOGD_SHARED`: lines are made from `data/apache_combined.log` there; else a seeded generator makes lines that deflate
//! about as well. `LOGD_BENCH_MB` (477): size of an hour. `LOGD_BIN`: the program to measure, instead of the one just built.
//! Results are kept in `tests/bench/results/`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::wildcard_imports,
    reason = "a benchmark that fails is meant to panic, and the tests' support is used as it is"
)]

#[path = "../support/mod.rs"]
mod support;

mod e2e;
#[cfg(feature = "etl")]
mod etl;
mod fanin;
mod growth;
mod guest;
mod lines;
mod load;
mod measure;
#[cfg(feature = "mongodb")]
mod mongo;
mod nodes;
mod peers;
mod siege;
mod size;
mod wan;

use measure::Report;

/// What it is called, and what it does.
type Suite = (&'static str, fn(&mut Report));

/// Suites in the order in which they run.
const SUITES: &[Suite] = &[
    ("e2e", e2e::levels),
    ("relay", e2e::relay),
    #[cfg(feature = "etl")]
    ("etl", etl::etl),
    #[cfg(feature = "mongodb")]
    ("mongo", mongo::mongo),
    ("fanin", fanin::fanin),
    ("growth", growth::growth),
    ("latency", guest::latency),
    ("idle", guest::idle),
    ("neighbour", guest::neighbour),
    ("wan", wan::wan),
    ("siege", siege::siege),
    ("nodes", nodes::nodes),
    ("size", size::size),
    ("peers", peers::peers),
];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test --benches` only looks whether it runs.
    if args.iter().any(|a| a == "--test" || a == "--list") {
        return;
    }
    let asked: Vec<&String> = args.iter().filter(|a| !a.starts_with('-')).collect();
    for name in &asked {
        assert!(
            SUITES.iter().any(|(suite, _)| suite == name),
            "{name:?} is no suite; there are {}",
            SUITES.iter().map(|(suite, _)| *suite).collect::<Vec<_>>().join(", ")
        );
    }
    let mut report = Report::new(&asked);
    for (name, run) in SUITES {
        if asked.is_empty() || asked.iter().any(|a| a == name) {
            println!("\n== {name}");
            run(&mut report);
        }
    }
    report.end();
}

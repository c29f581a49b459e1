//! What it costs to make rows of lines. MB = 10^6 bytes.
//!
//! - *by inflate*: CPU seconds of this process while one thread reads an hour's file, takes its lines apart, makes the rows of
//!   `etc/etl/combined.json` (16 columns, all parameters, the spider list) and writes and syncs their files, divided by the CPU
//!   seconds that inflating the same lines takes in packs of 1 MiB (`measure::codec`). Once more with gzip.
//! - *two workers*: wall seconds for four hours of a quarter each in one thread, divided by those in two.
//! - *RSS*: `VmHWM` of `logd etl` on the file, looked at until it ends.
//!
//! The lines are those of all suites; the number at the end of each is a value of the log format.

use super::lines;
use super::measure::*;
use super::support::{Reaped, Temp, bin};
use logd::config::{Config, EtlConfig};
use logd::disk::Disk;
use logd::etl::fields::Source;
use logd::etl::rules::Rules;
use logd::etl::tables::{Input, Origin, Outcome, Tables};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

const FORMAT: &str = r#"$remote_addr $ident $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent" $number"#;

fn config(temp: &Temp, name: &str, more: &str) -> PathBuf {
    let (dir, etc) = (temp.path(name), concat!(env!("CARGO_MANIFEST_DIR"), "/etc/etl"));
    let dir = dir.display();
    temp.file(
        &format!("{name}.ini"),
        format!(
            "[etlcollector]\nlisten = 127.0.0.1:0\nsave_dir = {dir}/save\nstate_dir = {dir}/state\nlog_format = {FORMAT}\n\
             columns_file = {etc}/combined.json\nspider_list = {etc}/spiders\n{more}"
        ),
    )
}

fn load(path: &Path) -> EtlConfig {
    Config::load(path).and_then(|c| c.etl(false)).unwrap_or_else(|e| panic!("{e}")).0
}

fn make(tables: &Tables, rules: &Rules, source: &Path, name: &str) -> u64 {
    let mut input = Input {
        name,
        source: Source::default(),
        lines: &mut File::open(source).unwrap(),
        path: source,
        origin: Origin::default(),
        exact: false,
    };
    match tables.run(&mut input, rules, 0, &mut |_| false).unwrap() {
        Outcome::Done(marker) => marker.lines,
        other => panic!("{other:?}"),
    }
}

/// See the header.
pub fn etl(report: &mut Report) {
    let temp = scratch("etl");
    let source = temp.file("web1_2026112205", "");
    println!("lines: {}", lines::write(&source, megabytes() * 1_000_000));
    let bytes = source.metadata().unwrap().len() as f64;
    let inflate = codec(&source, 6).inflate;
    let disk = Disk::real();
    for (what, more) in [("plain", ""), ("gzip", "etl_gzip = yes\n")] {
        let conf = load(&config(&temp, what, more));
        let (rules, tables) =
            (Rules::load(&disk, &conf).unwrap(), Tables::open(&disk, &conf, &mut |_| ()).unwrap());
        let (cpu, wall) = (own_cpu(), Instant::now());
        let lines = make(&tables, &rules, &source, "web1_2026112205");
        let (cpu, wall) = (own_cpu() - cpu, wall.elapsed().as_secs_f64());
        println!("etl, {what}: {lines} lines, {:.0} MB/s of CPU, {wall:.2} s", bytes / MB / cpu);
        let target = if what == "plain" { Target::AtMost(4.0) } else { Target::None };
        report.row(&format!("etl: rows, {what}, by inflate of the lines"), cpu / inflate, "", target);
    }
    workers(report, &temp);
    let ini = config(&temp, "child", "");
    let child = Command::new(bin()).arg("etl").arg(&ini).arg(&source).stdout(Stdio::null()).spawn().unwrap();
    let mut child = Reaped(child);
    let mut most = 0.0_f64;
    while child.0.try_wait().unwrap().is_none() {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.0.id())).unwrap_or_default();
        let peak =
            status.lines().find_map(|l| l.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse().ok());
        most = most.max(peak.unwrap_or(0.0));
        std::thread::sleep(Duration::from_millis(5));
    }
    report.row("etl: most RSS", most * 1024.0 / MB, "MB", Target::AtMost(64.0));
}

fn workers(report: &mut Report, temp: &Temp) {
    let disk = Disk::real();
    let sources: Vec<PathBuf> = (0..4).map(|n| temp.file(&format!("web{n}_2026112206"), "")).collect();
    for source in &sources {
        lines::write(source, megabytes() * 250_000);
    }
    let conf = load(&config(temp, "workers", ""));
    let (rules, tables) =
        (Rules::load(&disk, &conf).unwrap(), Tables::open(&disk, &conf, &mut |_| ()).unwrap());
    let run = |threads: usize| {
        let (left, begun) = (Mutex::new(sources.clone()), Instant::now());
        std::thread::scope(|s| {
            for _ in 0..threads {
                s.spawn(|| {
                    loop {
                        let Some(source) = left.lock().unwrap().pop() else { return };
                        make(&tables, &rules, &source, source.file_name().unwrap().to_str().unwrap());
                    }
                });
            }
        });
        begun.elapsed().as_secs_f64()
    };
    // Both replace rows: it takes longer than the first time.
    run(2);
    let (one, two) = (run(1), run(2));
    report.row("etl: one worker's time by two workers'", one / two, "", Target::AtLeast(1.6));
}

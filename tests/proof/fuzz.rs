//! The readers of foreign and damaged bytes, under the committed corpus of `tests/fuzz` and mutations of it.
//!
//! Goal: what `tests/fuzz/targets.rs` asserts (P2, P3, P4, P5 in the small) is tested on any toolchain, and an input that
//! once failed never fails again. The search itself, guided by coverage, is `tests/fuzz/run`; mutations here are blind.

use super::support::{Rng, keeper, proved, seed, soak};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

#[path = "../fuzz/targets.rs"]
mod targets;

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let mut all: Vec<PathBuf> = fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()).collect();
    all.sort();
    all.into_iter().map(|p| (p.clone(), fs::read(&p).unwrap())).collect()
}

/// A few changes of one item, sometimes with a part of another.
fn mutated(rng: &mut Rng, all: &[(PathBuf, Vec<u8>)]) -> Vec<u8> {
    let pick = |rng: &mut Rng| &all[usize::try_from(rng.below(all.len() as u64)).unwrap()].1;
    let mut out = pick(rng).clone();
    for _ in 0..=rng.below(4) {
        let place = |rng: &mut Rng, len: usize| usize::try_from(rng.below(len as u64 + 1)).unwrap();
        let at = place(rng, out.len());
        match rng.below(6) {
            0 | 1 if at < out.len() => out[at] ^= 1 << rng.below(8),
            2 if at < out.len() => out[at] = rng.next_u64().to_le_bytes()[0],
            3 => out.truncate(at.max(1)),
            4 => {
                let end = (at + place(rng, 16)).min(out.len());
                let part = out[at..end].to_vec();
                out.splice(at..at, part);
            }
            5 => {
                let other = pick(rng);
                out.truncate(at.max(1));
                out.extend_from_slice(&other[place(rng, other.len())..]);
            }
            _ => out.insert(at, rng.next_u64().to_le_bytes()[0]),
        }
    }
    out.truncate(16 << 10);
    out
}

/// Runs one input; one that fails is kept where `tests/fuzz/run` keeps its own.
fn run(name: &str, target: fn(&[u8]), input: &[u8], what: &str) {
    if let Err(e) = catch_unwind(AssertUnwindSafe(|| target(input))) {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("fuzz");
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join(format!("{name}-crash-{:08x}", crc32fast::hash(input)));
        fs::write(&path, input).unwrap();
        println!("{name}: failed by {what}; the input is {}", path.display());
        println!("put it into tests/fuzz/corpus/{name}/ together with the fix");
        std::panic::resume_unwind(e);
    }
}

#[test]
fn corpus_and_mutations() {
    let rounds = if soak() { 20_000 } else { 1_000 };
    let mut rng = Rng::new(seed());
    for &(name, target) in targets::ALL {
        let all = corpus(name);
        assert!(!all.is_empty(), "{name}: no corpus");
        for (path, input) in &all {
            run(name, target, input, &path.display().to_string());
        }
        for n in 0..rounds {
            run(name, target, &mutated(&mut rng, &all), &format!("mutation {n}"));
        }
        proved(&format!("corpus {name}"), format!("{} inputs, {rounds} mutations", all.len()), "no crash");
    }
}

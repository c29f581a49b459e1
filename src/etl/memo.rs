//! What was found out about a value, for the next line that has it: user agents, statuses and paths come again and again.

/// Slots of one memo, a power of two: a fleet's lines have some hundred user agents.
const SLOTS: usize = 4096;
/// Longer values are not kept: they hardly come again, and the memory is bounded.
const LONGEST: usize = 512;

/// The last answer for each slot; a value has one slot, which another one may take from it.
#[derive(Debug)]
pub struct Memo<T> {
    kept: Vec<(Vec<u8>, Option<T>)>,
    /// A power of two.
    slots: usize,
}

impl<T> Default for Memo<T> {
    fn default() -> Self {
        Self { kept: Vec::new(), slots: SLOTS }
    }
}

impl<T> Memo<T> {
    /// One of so many that together take no more memory than two others.
    pub fn of_many(memos: usize) -> Self {
        let share = SLOTS.saturating_mul(2).checked_div(memos).unwrap_or(SLOTS).clamp(1, SLOTS / 4);
        Self { kept: Vec::new(), slots: 1 << share.ilog2() }
    }
}

impl<T: Copy> Memo<T> {
    /// What was found out about `value`, or is now.
    pub fn of(&mut self, value: &[u8], find: impl FnOnce() -> T) -> T {
        if value.len() > LONGEST {
            return find();
        }
        if self.kept.is_empty() {
            self.kept.resize_with(self.slots, || (Vec::new(), None));
        }
        let slot = hash(value) & self.slots.saturating_sub(1);
        let Some((kept, answer)) = self.kept.get_mut(slot) else { return find() };
        if let Some(answer) = answer
            && kept == value
        {
            return *answer;
        }
        kept.clear();
        kept.extend_from_slice(value);
        *answer.insert(find())
    }
}

/// Eight bytes at a time in two lanes, by the multiplier of Fibonacci hashing (2^64 divided by the golden ratio). Whoever makes
/// values collide only makes us work as without a memo.
fn hash(value: &[u8]) -> usize {
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let (words, rest) = value.as_chunks::<8>();
    let (pairs, last) = words.as_chunks::<2>();
    let mix = |hash: u64, word: u64| (hash.rotate_left(5) ^ word).wrapping_mul(GOLDEN);
    let word = |bytes: &[u8; 8]| u64::from_le_bytes(*bytes);
    let (a, b) =
        pairs.iter().fold((value.len() as u64, 0), |(a, b), [c, d]| (mix(a, word(c)), mix(b, word(d))));
    let hash = last.iter().fold(mix(a, b), |hash, bytes| mix(hash, word(bytes)));
    let rest = rest.iter().fold(0_u64, |word, b| word.wrapping_shl(8) | u64::from(*b));
    // The best of its bits are at the top.
    mix(hash, rest).wrapping_shr(48) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_that_of_its_value_whatever_came_between() {
        let mut asked = 0;
        for mut memo in [Memo::default(), Memo::of_many(0), Memo::of_many(100), Memo::of_many(usize::MAX)] {
            for round in 0..3 {
                for n in 0..3 * SLOTS {
                    let value = format!("{n}{}", "x".repeat(n % 40));
                    assert_eq!(memo.of(value.as_bytes(), || n), n, "round {round}");
                }
            }
            assert!(memo.kept.len() <= SLOTS);
        }
        let mut memo = Memo::default();
        let mut count = || {
            asked += 1;
            asked
        };
        for _ in 0..5 {
            assert_eq!(memo.of(b"the same", &mut count), 1);
        }
        for n in 2..5 {
            assert_eq!(memo.of(&[b'x'; LONGEST + 1], &mut count), n);
        }
        let slots: std::collections::BTreeSet<usize> =
            (0..SLOTS).map(|n| hash(format!("Mozilla/5.0 (X11; rv:{n}.0)").as_bytes()) % SLOTS).collect();
        assert!(slots.len() > SLOTS / 2, "{} slots of {SLOTS} are used", slots.len());
    }
}

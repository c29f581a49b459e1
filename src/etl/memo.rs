//! What was found out about a value, for the next line that has it: user agents, statuses and paths come again and again.

/// Slots, a power of two.
const SLOTS: usize = 1024;
/// Longer values are not kept: they hardly come again, and the memory is bounded.
const LONGEST: usize = 512;

/// The last answer for each slot; a value has one slot, which another one may take from it.
#[derive(Debug)]
pub struct Memo<T>(Vec<(Vec<u8>, Option<T>)>);

impl<T> Default for Memo<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Copy> Memo<T> {
    /// What was found out about `value`, or is now.
    pub fn of(&mut self, value: &[u8], find: impl FnOnce() -> T) -> T {
        if value.len() > LONGEST {
            return find();
        }
        if self.0.is_empty() {
            self.0.resize_with(SLOTS, || (Vec::new(), None));
        }
        let Some((kept, answer)) = self.0.get_mut(slot(value)) else { return find() };
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

/// Eight bytes at a time, by the multiplier of Fibonacci hashing (2^64 divided by the golden ratio). Whoever makes values
/// collide only makes us work as without a memo.
fn slot(value: &[u8]) -> usize {
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let (words, rest) = value.as_chunks::<8>();
    let mix = |hash: u64, word: u64| (hash.rotate_left(5) ^ word).wrapping_mul(GOLDEN);
    let hash = words.iter().fold(value.len() as u64, |hash, word| mix(hash, u64::from_le_bytes(*word)));
    let rest = rest.iter().fold(0_u64, |word, b| word.wrapping_shl(8) | u64::from(*b));
    (mix(hash, rest).wrapping_shr(54) as usize) % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_that_of_its_value_whatever_came_between() {
        let (mut memo, mut asked) = (Memo::default(), 0);
        for round in 0..3 {
            for n in 0..3 * SLOTS {
                let value = format!("{n}{}", "x".repeat(n % 40));
                assert_eq!(memo.of(value.as_bytes(), || n), n, "round {round}");
            }
        }
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
            (0..SLOTS).map(|n| slot(format!("Mozilla/5.0 (X11; rv:{n}.0)").as_bytes())).collect();
        assert!(slots.len() > SLOTS / 2, "{} slots of {SLOTS} are used", slots.len());
    }
}

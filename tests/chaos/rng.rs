//! The one source of chance: everything that a round decides by lot comes from its seed and number, so that a round can be
//! asked for again. What the operating system makes of it cannot.

use std::time::Duration;

/// `SplitMix64`: small, fast, and the same everywhere.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    /// For a round; `part` keeps its parts apart, so that a change in one does not change the others.
    pub(crate) fn of(seed: u64, round: u32, part: u64) -> Self {
        let mut rng = Self(seed);
        let mixed = rng.next() ^ (u64::from(round) << 32) ^ part.wrapping_mul(0xd134_2543_de82_ef95);
        Self(mixed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// `first` to `last`, both included.
    pub(crate) fn between(&mut self, first: u64, last: u64) -> u64 {
        first + self.next() % (last - first + 1)
    }

    pub(crate) fn millis(&mut self, first: u64, last: u64) -> Duration {
        Duration::from_millis(self.between(first, last))
    }

    /// True so many times in a hundred.
    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }

    pub(crate) fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        let at = usize::try_from(self.next() % of.len() as u64).unwrap_or_default();
        &of[at]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_can_be_asked_for_again_and_its_parts_do_not_depend_on_each_other() {
        let draw = |seed, round, part| {
            let mut rng = Rng::of(seed, round, part);
            [(); 8].map(|()| rng.next())
        };
        assert_eq!(draw(7, 3, 1), draw(7, 3, 1));
        for other in [draw(8, 3, 1), draw(7, 4, 1), draw(7, 3, 2)] {
            assert_ne!(draw(7, 3, 1), other);
        }
        let mut rng = Rng::of(1, 1, 1);
        assert!((0..1000).all(|_| (3..=5).contains(&rng.between(3, 5))));
        assert_eq!((rng.chance(0), rng.chance(100)), (false, true));
    }
}

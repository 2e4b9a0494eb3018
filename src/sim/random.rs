//! A stream of random numbers from a seed (SplitMix64): the only source of randomness in a
//! simulation.

/// The bytes per number that is not from the seed.
const FED_BYTES: usize = 2;

/// A deterministic stream of random numbers.
#[derive(Debug, Clone)]
pub struct Random {
    state: u64,
    /// Numbers to return before those of the seed, in reverse order.
    fed: Vec<u16>,
}

impl Random {
    /// The stream of `seed`.
    pub fn new(seed: u64) -> Self {
        let (state, fed) = (seed, Vec::new());
        Self { state, fed }
    }

    /// The numbers in `bytes`, each of two bytes, followed by the stream of seed 0. So a
    /// fuzzer that changes a byte changes one decision.
    pub fn fed(bytes: &[u8]) -> Self {
        let numbers = bytes.as_chunks::<FED_BYTES>().0.iter().rev();
        Self {
            state: 0,
            fed: numbers.map(|bytes| u16::from_le_bytes(*bytes)).collect(),
        }
    }

    /// The next number.
    pub fn any(&mut self) -> u64 {
        if let Some(number) = self.fed.pop() {
            return number.into();
        }
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`; 0 when that is 0.
    pub fn below(&mut self, end: usize) -> usize {
        let drawn = self.any() % (end.max(1) as u64);
        usize::try_from(drawn).expect("below a usize")
    }

    /// True `per_mille` times in a thousand.
    pub fn chance(&mut self, per_mille: u16) -> bool {
        per_mille > 0 && self.below(1000) < usize::from(per_mille)
    }

    /// One of `choices`.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// Makes an independent stream. It takes the last half of the fed numbers.
    pub fn fork(&mut self) -> Self {
        let rest = self.fed.len() / 2;
        Self {
            state: self.any(),
            fed: self.fed.drain(..rest).collect(),
        }
    }
}

//! Random numbers for openraft: the process's entropy, or the scope's seed where the task is simulated.

use std::convert::Infallible;

use rand_of_openraft::rngs::ThreadRng;
use rand_of_openraft::{TryRng, rng};

use super::current_scope;

/// The step of SplitMix64.
pub(super) const GOLDEN_RATIO: u64 = 0x9e37_79b9_7f4a_7c15;

/// SplitMix64's output function: spreads a counter over all bits.
pub(super) const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Where random numbers come from.
pub enum RuntimeRng {
    /// Production.
    Thread(ThreadRng),
    /// A simulation: SplitMix64's state.
    Seeded(u64),
}

impl RuntimeRng {
    /// The source of the running task.
    pub(super) fn of_this_task() -> Self {
        match current_scope() {
            Some(scope) => Self::Seeded(scope.random()),
            None => Self::Thread(rng()),
        }
    }
}

impl TryRng for RuntimeRng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        self.try_next_u64().map(|wide| u32::try_from(wide >> 32).unwrap_or(u32::MAX))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        match self {
            Self::Thread(thread) => thread.try_next_u64(),
            Self::Seeded(state) => {
                *state = state.wrapping_add(GOLDEN_RATIO);
                Ok(mix(*state))
            }
        }
    }

    fn try_fill_bytes(&mut self, into: &mut [u8]) -> Result<(), Infallible> {
        for chunk in into.chunks_mut(8) {
            let bytes = self.try_next_u64()?.to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
        Ok(())
    }
}

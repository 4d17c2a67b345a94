"""Random bits by key and counter, so that a row's draws depend on nothing but its own key.

SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators", figure 14) from a key as its
seed, its n-th value taken at once. A numpy generator for each row would cost more than all that is drawn from it.
"""

from __future__ import annotations

import numpy as np

GAMMA = np.uint64(0x9E3779B97F4A7C15)
PURPOSE = 32  # bits that count the draws for one purpose


def draw(keys: np.ndarray, purpose: int, counters: np.ndarray) -> np.ndarray:
    """u64 for each key u64 and counter, an integer from 0 to 2**32 - 2 (broadcast), other ones for each purpose."""
    z = keys + (counters.astype(np.uint64) + np.uint64((purpose << PURPOSE) + 1)) * GAMMA
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


def uniform(bits: np.ndarray) -> np.ndarray:
    """f64 in [0, 1)."""
    return (bits >> np.uint64(11)) * 2.0**-53


def below(bits: np.ndarray, limit: int) -> np.ndarray:
    """Integers i64 from 0 to limit - 1; a limit of 2**31 at most, biased by limit / 2**32."""
    return ((bits >> np.uint64(32)) * np.uint64(limit) >> np.uint64(32)).astype(np.int64)

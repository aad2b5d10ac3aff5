"""Choosing the next token from logits, as llama2.c does it: the same seeds give the same text."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_MASK = (1 << 64) - 1


class Xorshift:
    """The generator xorshift64* (Vigna, arXiv:1402.6246), with its upper 32 bits as output."""

    def __init__(self, seed: int):
        self.state = seed & _MASK

    def next_float(self) -> np.float32:
        """The next number in [0, 1): 24 random bits."""
        state = self.state
        state ^= state >> 12
        state = (state ^ (state << 25)) & _MASK
        state ^= state >> 27
        self.state = state
        bits = ((state * 0x2545F4914F6CDD1D) & _MASK) >> 32
        return np.float32(bits >> 8) / np.float32(1 << 24)


@dataclass
class Sampler:
    """Greedy at temperature 0; else from softmax(logits / temperature), cut to a nucleus if 0 < top_p < 1.

    The other cuts are off by default: they are done before that of the nucleus, top_k first.
    """

    temperature: float
    top_p: float
    rng: Xorshift
    top_k: int = 0
    """Only the tokens with the largest logits, this many of them and their equals; 0 for all."""
    min_p: float = 0.0
    """Only tokens that are at least this many times as likely as the likeliest (arXiv:2407.01082)."""
    penalty: float = 1.0
    """Divides the logits of tokens that stand in the text already, or multiplies negative ones (arXiv:1909.05858)."""

    @property
    def fits_device(self) -> bool:
        """Whether `hamkaas.sample` gives the same tokens: greedily, or by temperature and a nucleus.

        Without a nucleus llama2.c adds up the probabilities of all tokens in order, and the rounding of that sum is
        worth a token in thirty at a vocabulary of 49,152: the text is the same only where the sum is.
        """
        is_plain = self.top_k == 0 and self.min_p == 0 and self.penalty == 1
        return is_plain and (self.temperature == 0 or 0 < self.top_p < 1)

    def sample(self, logits: NDArray[np.float32], text: Sequence[int] = ()) -> int:
        """The next token after the tokens of `text`, which matter to the penalty only; `logits` is [vocab_size]."""
        if self.penalty != 1:
            logits = self._penalized(logits, text)
        if self.temperature == 0:
            return int(logits.argmax())
        scaled = logits / np.float32(self.temperature)
        weights = np.exp(scaled - scaled.max())
        if self.top_k == 0 and self.min_p == 0:
            return self._draw(weights)
        least = np.float32(self.min_p)
        if 0 < self.top_k < len(weights):
            least = max(least, np.partition(weights, -self.top_k)[-self.top_k])
        tokens = np.flatnonzero(weights >= least)
        return int(tokens[self._draw(weights[tokens])])

    def _draw(self, weights: NDArray[np.float32]) -> int:
        """A place in the array, as likely as it weighs."""
        # llama2.c adds in order, in float32; so does cumsum, but not sum
        probabilities = weights / np.cumsum(weights, dtype=np.float32)[-1]
        coin = self.rng.next_float()
        if not 0 < self.top_p < 1:
            return _first_above(np.cumsum(probabilities, dtype=np.float32), coin)
        return self._from_nucleus(probabilities, coin)

    def _penalized(self, logits: NDArray[np.float32], text: Sequence[int]) -> NDArray[np.float32]:
        tokens = np.unique(np.asarray(text, np.int64))
        factor = np.float32(self.penalty)
        logits = logits.copy()
        logits[tokens] = np.where(logits[tokens] > 0, logits[tokens] / factor, logits[tokens] * factor)
        return logits

    def _from_nucleus(self, probabilities: NDArray[np.float32], coin: np.float32) -> int:
        """From the smallest set of most likely tokens whose probabilities sum to more than top_p (arXiv:1904.09751)."""
        top_p = np.float32(self.top_p)
        # what is below this cannot be in the nucleus, and need not be sorted
        cutoff = (np.float32(1) - top_p) / np.float32(len(probabilities) - 1) if len(probabilities) > 1 else 0
        tokens = np.flatnonzero(probabilities >= cutoff)
        tokens = tokens[np.argsort(-probabilities[tokens], kind="stable")]
        sums = np.cumsum(probabilities[tokens], dtype=np.float32)
        last = min(int(np.searchsorted(sums, top_p, side="right")), len(sums) - 1)
        return int(tokens[_first_above(sums[: last + 1], coin * sums[last])])


def _first_above(sums: NDArray[np.float32], value: np.float32) -> int:
    """The first place where a running sum exceeds a value; the last if rounding leaves none."""
    return min(int(np.searchsorted(sums, value, side="right")), len(sums) - 1)

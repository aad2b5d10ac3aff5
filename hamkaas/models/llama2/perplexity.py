"""How well a model predicts a text."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import hamkaas as hk
from hamkaas.models.llama2.generate import Feed, chunk_inputs


@dataclass(frozen=True)
class Perplexity:
    """exp of the mean of -log p(token | tokens before it), over all tokens of a text but the first."""

    tokens: int
    """How many tokens were predicted."""
    nats: float
    """The sum of -log p."""

    @property
    def value(self) -> float:
        """The perplexity; not a number for a text of one token."""
        return float(np.exp(self.nats / self.tokens)) if self.tokens else float("nan")


def model_rows(model: hk.Model) -> Feed:
    """Feeds a model whose one graph is a `Transformer.chunk` with all rows: logits [tokens, vocab_size]."""
    graph = next(iter(model.graphs.values()))
    size = next(spec for spec in graph.inputs if spec.name == "tokens").shape[0]

    def rows(tokens: Sequence[int], start: int) -> NDArray[np.float32]:
        return graph.evaluate(chunk_inputs(tokens, start, size))[: len(tokens)]

    return rows


def perplexity(
    rows: Feed, tokens: Sequence[int], context: int, size: int, progress: Callable[[int, int], None] | None = None
) -> Perplexity:
    """Predicts every token but the first exactly once, with a window of `context` tokens that moves on by half.

    So every token is predicted from all that stands before it within a window, at least context // 2 tokens once the
    text is that long. `rows` gives the logits of at most `size` tokens at once. `progress` is told (predicted, in all).
    """
    total, nats = 0, 0.0
    for begin, end in windows(len(tokens), context):
        for at in range(0, end - begin, size):
            # like the last chunk of a prompt, one that would reach beyond the context begins earlier
            first = min(at, context - size)
            last = min(first + size, end - begin)
            logits = rows(tokens[begin + first : begin + last], first)
            fresh = range(max(begin + first, total), min(begin + last, len(tokens) - 1))
            nats += sum(_nats(logits[i - begin - first], tokens[i + 1]) for i in fresh)
            total += len(fresh)
            if progress is not None:
                progress(total, len(tokens) - 1)
    return Perplexity(total, nats)


def windows(count: int, context: int) -> Iterator[tuple[int, int]]:
    """(begin, end) of the windows over a text of `count` tokens: each but the last `context` long."""
    step = max(context // 2, 1)
    for begin in range(0, max(count - 1, 0), step):
        yield begin, min(begin + context, count)
        if begin + context >= count - 1:
            return


def _nats(logits: NDArray[np.float32], token: int) -> float:
    """-log softmax(logits)[token]"""
    shifted = logits.astype(np.float64) - logits.max()
    return float(np.log(np.exp(shifted).sum()) - shifted[token])

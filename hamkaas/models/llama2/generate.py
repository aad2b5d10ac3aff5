"""Feeding tokens to a compiled model, and the loop of generation on anything that gives tokens."""

from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

import hamkaas as hk
from hamkaas.models.llama2.config import Config
from hamkaas.models.llama2.graph import CHUNK, STEP
from hamkaas.models.llama2.sampler import Sampler

Step = Callable[[int, int], NDArray[np.float32]]
"""Logits [vocab_size] of what follows a token at a position."""

Feed = Callable[[Sequence[int], int], NDArray[np.float32]]
"""Logits [vocab_size] of what follows some tokens, the first of them at a position; at least one token."""

CHUNK_SIZE = 64
"""Tokens of a chunk: twice as many are hardly faster each, and half as many cost a quarter more."""

FEW = 6
"""From this many tokens on, a chunk that is mostly filler costs less than as many steps."""


def chunk_size(config: Config, tokens: int) -> int:
    """The size of chunks that a prompt of this many tokens is worth; 0 for none."""
    return min(CHUNK_SIZE, config.max_positions) if tokens >= FEW else 0


def chunk_inputs(tokens: Sequence[int], begin: int, size: int) -> dict[str, NDArray[np.int64]]:
    """What `Transformer.chunk` takes for some tokens from position `begin` on, filled up to `size`."""
    padded = np.zeros(size, np.int64)
    padded[: len(tokens)] = tokens
    bounds = {"begin": np.array([begin]), "end": np.array([begin + size])}
    return {"tokens": padded, "positions": np.arange(begin, begin + size), **bounds}


def parts(start: int, end: int, size: int, context: int) -> Iterator[tuple[int, int]]:
    """How positions `start` to `end` - 1 are fed: the bounds of chunks of `size`, and of steps.

    Chunks are whole, but for the last one, which may be filled up. A chunk that would reach beyond the context begins
    earlier instead: the positions that it has in common with the one before are computed twice.
    """
    at = start
    while at < end:
        begin = min(at, context - size)
        if size and end - at >= FEW and begin >= start:
            at = min(begin + size, end)
            yield begin, at
        else:
            yield at, at + 1
            at += 1


class ModelFeed:
    """Feeds a model of `build_graphs`: many tokens in chunks, if it has a graph for them, few one by one."""

    def __init__(
        self,
        model: hk.Model,
        config: Config,
        progress: Callable[[int, int], None] | None = None,
        step: Step | None = None,
    ):
        """`progress` is told (tokens fed, tokens in all) of prompts as their parts are done.

        `step` feeds one token; by default that is the graph "step".
        """
        self._step = step or model_step(model)
        self._chunk = model.graphs.get(CHUNK)
        self._size = 0 if self._chunk is None else next(i for i in self._chunk.inputs if i.name == "tokens").shape[0]
        self._context = config.max_positions
        self._progress = progress

    def __call__(self, tokens: Sequence[int], start: int) -> NDArray[np.float32]:
        """See `Feed`. Raises `InputError` for positions beyond the context."""
        if not 0 < len(tokens) <= self._context - start:
            raise hk.InputError(
                f"expected 1 to {self._context - start} tokens from position {start} on, got {len(tokens)}"
            )
        if len(tokens) == 1:
            return self._step(tokens[0], start)
        logits = np.empty(0, np.float32)
        if self._progress is not None:
            self._progress(0, len(tokens))
        for begin, end in parts(start, start + len(tokens), self._size, self._context):
            logits = self._feed_part(tokens[begin - start : end - start], begin)
            if self._progress is not None:
                self._progress(end - start, len(tokens))
        return logits

    def _feed_part(self, tokens: Sequence[int], begin: int) -> NDArray[np.float32]:
        if len(tokens) == 1 or self._chunk is None:
            return self._step(tokens[0], begin)
        row = {"row": np.array([len(tokens) - 1])}
        return self._chunk.evaluate(chunk_inputs(tokens, begin, self._size) | row)


def model_step(model: hk.Model) -> Step:
    """One step of a compiled graph of `build_step`, with arrays that are made once."""
    graph = model.graphs.get(STEP) or next(iter(model.graphs.values()))
    token, position, length = (np.zeros(1, np.int64) for _ in range(3))
    inputs: dict[str, Any] = {"token": token, "position": position, "length": length}

    def step(new_token: int, new_position: int) -> NDArray[np.float32]:
        token[0], position[0], length[0] = new_token, new_position, new_position + 1
        return graph.evaluate(inputs)

    return step


class Source(Protocol):
    """Where the tokens of a text come from: `Steps`, or `Bursts`."""

    @property
    def logits(self) -> NDArray[np.float32] | None:
        """The logits [vocab_size] that were computed last; None if none were."""
        ...

    def begin(self, prompt: Sequence[int], before: Sequence[int], end: int) -> None:
        """A text begins: at least one token, after those that the context holds. Positions from `end` on stay free."""
        ...

    def next(self) -> int:
        """The token after the prompt, and then the one after that; asked for at most until position `end` is taken."""
        ...


class Steps:
    """One token at a time, chosen on the host from the logits that a feed gives."""

    def __init__(self, feed: Feed, sampler: Sampler):
        self._feed = feed
        self._sampler = sampler
        self._text: list[int] = []
        self._num_fed = 0
        self._logits: NDArray[np.float32] | None = None

    @property
    def logits(self) -> NDArray[np.float32] | None:
        """See `Source`."""
        return self._logits

    def begin(self, prompt: Sequence[int], before: Sequence[int], end: int) -> None:
        """See `Source`."""
        self._text = [*before, *prompt]
        self._num_fed = len(before)

    def next(self) -> int:
        """See `Source`. Feeds what was not fed yet: the prompt, and then the token that was given last."""
        logits = self._logits = self._feed(self._text[self._num_fed :], self._num_fed)
        self._num_fed = len(self._text)
        self._text.append(self._sampler.sample(logits, self._text))
        return self._text[-1]


def generate(
    source: Source, prompt: Sequence[int], end: int, stop: AbstractSet[int], seen: list[int] | None = None
) -> Iterator[tuple[int, int]]:
    """(token, token before it) for each token of the text after the first: the prompt's, then those of the source.

    No position from `end` on is used. A token of `stop` that the source gives ends the text and is not part of it; in
    the prompt it is a token like others. `seen` are the tokens that stand before the prompt in the context: those that
    follow are appended once their keys and values are there, so that an interrupted text can be gone on with.
    """
    seen = [] if seen is None else seen
    known = prompt[: end - len(seen) + 1]
    free = end - len(seen) - len(known)
    if free < 0:
        yield from zip(known[1:], known, strict=False)
        return
    source.begin(known, seen, end)
    token = known[-1]
    for number in range(free + 1):
        previous, token = token, source.next()
        if number == 0:
            seen.extend(known[:-1])
            yield from zip(known[1:], known, strict=False)
        seen.append(previous)
        if token in stop:
            return
        yield token, previous

"""The loop of generation, on any function from token and position to logits."""

from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np
from numpy.typing import NDArray

import hamkaas as hk
from hamkaas.models.llama2.sampler import Sampler

Step = Callable[[int, int], NDArray[np.float32]]
"""Logits [vocab_size] of what follows a token at a position."""


def model_step(model: hk.Model) -> Step:
    """One step of a compiled graph of `build_step`, with arrays that are made once."""
    graph = next(iter(model.graphs.values()))
    token, position, length = (np.zeros(1, np.int64) for _ in range(3))
    inputs: dict[str, Any] = {"token": token, "position": position, "length": length}

    def step(new_token: int, new_position: int) -> NDArray[np.float32]:
        token[0], position[0], length[0] = new_token, new_position, new_position + 1
        return graph.evaluate(inputs)

    return step


def generate(
    step: Step, prompt: Sequence[int], sampler: Sampler, end: int, stop: AbstractSet[int], start: int = 0
) -> Iterator[tuple[int, int]]:
    """(token, token before it) for each token of the text after the first: the prompt's, then sampled ones.

    The prompt stands at positions from `start` on; no position from `end` on is used. A token of `stop` that is sampled
    ends the text and is not part of it; in the prompt it is a token like others.
    """
    token = prompt[0]
    for position in range(start, end):
        logits = step(token, position)
        known = position + 1 - start
        following = prompt[known] if known < len(prompt) else sampler.sample(logits)
        if known >= len(prompt) and following in stop:
            return
        yield following, token
        token = following

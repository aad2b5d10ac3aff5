"""The loop of generation, on any function from token and position to logits."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import hamkaas as hk
from hamkaas.models.llama2.sampler import Sampler
from hamkaas.models.llama2.tokenizer import BOS

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


def generate(step: Step, prompt: Sequence[int], sampler: Sampler, steps: int) -> Iterator[tuple[int, int]]:
    """(token, token before it) for each token of the text: the prompt's, then sampled ones.

    `prompt` starts with BOS. At most `steps` steps are run, one for each token but the first; a BOS ends the text.
    """
    token = prompt[0]
    for position in range(steps):
        logits = step(token, position)
        following = prompt[position + 1] if position + 1 < len(prompt) else sampler.sample(logits)
        if following == BOS:
            return
        yield following, token
        token = following

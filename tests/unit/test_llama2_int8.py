"""Version 2 checkpoints (Q8_0): our logits, and why our text is another one than that of llama2.c's runq.

runq rounds activations to int8 before each product; we do not. A numpy runq with that rounding gives runq's text, and
without it our logits and our text: the rounding is the whole difference.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import llama_reference
import numpy as np
import pytest
from numpy.typing import NDArray
from runq_reference import Runq, dequantized

import hamkaas as hk
from hamkaas.models.llama2 import (
    BOS,
    Checkpoint,
    ModelFeed,
    Sampler,
    Steps,
    TextStream,
    Tokenizer,
    Xorshift,
    build_graphs,
    generate,
    load_checkpoint,
    load_tokenizer,
)

GROUP = 4


@pytest.fixture(scope="module")
def checkpoint(models: Path) -> Checkpoint:
    return load_checkpoint(models / "stories260K_v2_q80_gs4.bin")


@pytest.fixture(scope="module")
def tokenizer(models: Path) -> Tokenizer:
    return load_tokenizer(models / "tok512.bin", 512)


@pytest.fixture(scope="module")
def feed(checkpoint: Checkpoint) -> Iterator[ModelFeed]:
    with hk.compile(build_graphs(checkpoint.config, checkpoint.weights, 64), target="cpu") as model:
        yield ModelFeed(model, checkpoint.config)


@pytest.fixture(scope="module")
def expected(models: Path) -> str:
    return (models / "expected" / "runq_gs4_once_upon_a_t0_n256.txt").read_text()


Step = Callable[[int, int], NDArray[np.float32]]


def tokens_of(step: Step, tokenizer: Tokenizer) -> list[int]:
    """The greedy text of 256 positions."""
    source = Steps(
        lambda tokens, start: [step(t, start + i) for i, t in enumerate(tokens)][-1], Sampler(0, 0, Xorshift(1))
    )
    prompt = tokenizer.encode("Once upon a time")
    return [prompt[0], *(token for token, _ in generate(source, prompt, 256, {BOS}))]


def text_of(tokens: list[int], tokenizer: Tokenizer) -> str:
    stream = TextStream(tokenizer)
    text = "".join(stream.push(token, previous) for previous, token in pairwise(tokens))
    return text + stream.finish() + "\n"


def test_rounding_of_activations_is_the_whole_difference(
    checkpoint: Checkpoint, tokenizer: Tokenizer, feed: ModelFeed, expected: str
) -> None:
    def ours(token: int, position: int) -> NDArray[np.float32]:
        return feed([token], position)

    exact, rounding = (Runq(checkpoint.config, checkpoint.weights, GROUP, rounds=rounds) for rounds in (False, True))
    reference = tokens_of(rounding.step, tokenizer)
    assert text_of(reference, tokenizer) == expected
    own = tokens_of(ours, tokenizer)
    assert own == tokens_of(exact.step, tokenizer)
    assert text_of(own, tokenizer) != expected
    # docs/performance.md says how large the difference is over the text of runq
    pairs = [(ours(token, i), rounding.step(token, i)) for i, token in enumerate(reference[:256])]
    differences = [np.abs(a - b).max() / np.abs(a).max() for a, b in pairs]
    assert max(differences) == pytest.approx(0.010, abs=0.0005)
    assert np.median(differences) == pytest.approx(0.0056, abs=0.0001)


def test_logits_of_int8_weights_and_float_activations(
    checkpoint: Checkpoint, tokenizer: Tokenizer, feed: ModelFeed, expected: str
) -> None:
    weights = {name: dequantized(weight) for name, weight in checkpoint.weights.items()}
    tokens = tokenizer.encode(expected)
    reference = llama_reference.logits(checkpoint.config, weights, tokens)
    for position, token in enumerate(tokens):
        row = reference[position]
        np.testing.assert_allclose(feed([token], position), row, rtol=0, atol=1e-4 * np.abs(row).max())
    np.testing.assert_allclose(feed(tokens, 0), reference[-1], rtol=0, atol=1e-4 * np.abs(reference[-1]).max())

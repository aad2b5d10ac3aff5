"""Llama 2 on the CUDA target: the exact text and the logits of llama2.c."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import hamkaas as hk
from hamkaas.models.llama2 import (
    BOS,
    ModelFeed,
    Sampler,
    Steps,
    TextStream,
    Transformer,
    Xorshift,
    build_graphs,
    build_step,
    generate,
    load_checkpoint,
    load_tokenizer,
    model_step,
)

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("gpu")]


def test_logits(models: Path) -> None:
    checkpoint = load_checkpoint(models / "stories260K.bin")
    reference = np.load(models / "stories260K_once_n64_logits.npz")
    with hk.compile(build_step(checkpoint.config, checkpoint.weights), target="cuda") as model:
        step = model_step(model)
        for position, (token, expected) in enumerate(zip(reference["tokens"], reference["logits"], strict=True)):
            np.testing.assert_allclose(step(int(token), position), expected, rtol=0, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("Once upon a time", "once_upon_a_time_t0_n256.txt"),
        ("Donald was a little duck", "donald_duck_t0_n256.txt"),
        ("", "empty_prompt_t0_n256.txt"),
    ],
)
def test_greedy_text(models: Path, prompt: str, expected: str) -> None:
    checkpoint = load_checkpoint(models / "stories260K.bin")
    tokenizer = load_tokenizer(models / "tok512.bin", checkpoint.config.vocab_size)
    stream = TextStream(tokenizer)
    with hk.compile(build_graphs(checkpoint.config, checkpoint.weights, 64), target="cuda") as model:
        source = Steps(ModelFeed(model, checkpoint.config), Sampler(0, 0.9, Xorshift(1)))
        pairs = generate(source, tokenizer.encode(prompt), 256, checkpoint.stop)
        text = "".join(stream.push(token, previous) for token, previous in pairs)
    assert text + stream.finish() + "\n" == (models / "expected" / expected).read_text()


def test_generation_on_the_device(models: Path) -> None:
    checkpoint = load_checkpoint(models / "stories260K.bin")
    tokenizer = load_tokenizer(models / "tok512.bin", checkpoint.config.vocab_size)
    stream = TextStream(tokenizer)
    with hk.compile(Transformer(checkpoint.config, checkpoint.weights).decode(), target="cuda") as model:
        model["start"](token=np.array([BOS]), position=np.array([0]))
        tokens, position, _ = model["next"].evaluate({}, times=256)
    assert position[0] == 256
    text = "".join(stream.push(int(token), int(previous)) for previous, token in pairwise(tokens[:257]))
    assert text + stream.finish() + "\n" == (models / "expected" / "empty_prompt_t0_n256.txt").read_text()

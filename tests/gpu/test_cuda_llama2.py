"""Llama 2 on the CUDA target: the exact text and the logits of llama2.c, and the tokens of a real chat model."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import hamkaas as hk
from hamkaas.models.llama2 import (
    BOS,
    Bursts,
    Checkpoint,
    ModelFeed,
    Sampler,
    Source,
    Steps,
    TextStream,
    Transformer,
    Xorshift,
    build_burst_graphs,
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


def in_steps(checkpoint: Checkpoint, sampler: Sampler) -> tuple[hk.Model, Source]:
    model = hk.compile(build_graphs(checkpoint.config, checkpoint.weights, 64), target="cuda")
    return model, Steps(ModelFeed(model, checkpoint.config), sampler)


def in_bursts(checkpoint: Checkpoint, sampler: Sampler) -> tuple[hk.Model, Source]:
    graphs = build_burst_graphs(checkpoint.config, checkpoint.weights, 64, sampled=sampler.temperature > 0)
    model = hk.compile(graphs, target="cuda")
    return model, Bursts(model, checkpoint.config, sampler)


Way = Callable[[Checkpoint, Sampler], tuple[hk.Model, Source]]
WAYS = pytest.mark.parametrize("way", [in_steps, in_bursts])
"""The host chooses each token, or the device several at once."""


@WAYS
@pytest.mark.parametrize(
    ("prompt", "temperature", "expected"),
    [
        ("Once upon a time", 0.0, "once_upon_a_time_t0_n256.txt"),
        ("Donald was a little duck", 0.0, "donald_duck_t0_n256.txt"),
        ("", 0.0, "empty_prompt_t0_n256.txt"),
        ("", 1.0, "seeded_t1_p09_s133742_n256.txt"),
    ],
)
def test_texts_of_llama2c(models: Path, way: Way, prompt: str, temperature: float, expected: str) -> None:
    checkpoint = load_checkpoint(models / "stories260K.bin")
    tokenizer = load_tokenizer(models / "tok512.bin", checkpoint.config.vocab_size)
    stream = TextStream(tokenizer)
    model, source = way(checkpoint, Sampler(temperature, 0.9, Xorshift(133742)))
    with model:
        pairs = generate(source, tokenizer.encode(prompt), 256, checkpoint.stop)
        text = "".join(stream.push(token, previous) for token, previous in pairs)
    assert text + stream.finish() + "\n" == (models / "expected" / expected).read_text()


def exact_choice(logits: np.ndarray, temperature: float, top_p: float, coin: float) -> int:
    """What nucleus sampling chooses if nothing is rounded: llama2.c's order of steps in float64."""
    if temperature == 0:
        return int(logits.argmax())
    weights = np.exp((logits.astype(np.float64) - logits.max()) / temperature)
    tokens = np.argsort(-weights, kind="stable")
    sums = np.cumsum(weights[tokens] / weights.sum())
    last = np.searchsorted(sums, top_p, side="right")
    return int(tokens[np.searchsorted(sums[: last + 1], coin * sums[last], side="right")])


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 0.9), (0.7, 0.5), (0.0, 0.9)])
def test_the_device_chooses_a_token(temperature: float, top_p: float) -> None:
    # once in a long while a coin falls between a sum and its exact value; the host, which adds one by one as llama2.c
    # does, differs from the exact choice nine times here
    rng = np.random.default_rng(1)
    inputs = [hk.InputTensor("logits", "float32", [32000]), *(hk.InputTensor(n, "float32", [1]) for n in "tpc")]
    with hk.compile(hk.sample(*inputs), target="cuda") as model:
        same = 0
        for seed in range(1, 201):
            logits = (3 * rng.standard_normal(32000)).astype(np.float32)
            coin = Xorshift(seed).next_float()
            numbers = {"t": temperature, "p": top_p, "c": coin}
            found = model(logits=logits, **{name: np.array([x], np.float32) for name, x in numbers.items()})
            same += int(found[0]) == exact_choice(logits, temperature, top_p, float(coin))
    assert same >= 198


@WAYS
def test_greedy_tokens_of_a_chat_model(models: Path, smollm2: Path, way: Way) -> None:
    checkpoint = load_checkpoint(smollm2)
    model, source = way(checkpoint, Sampler(0, 0.9, Xorshift(1)))
    with model:
        for chat in json.loads((models / "expected" / "smollm2_135m_chats.json").read_text()):
            prompt, expected = chat["prompt_ids"], chat["greedy_ids"]
            pairs = generate(source, prompt, len(prompt) + len(expected), frozenset())
            assert [token for token, _ in pairs][len(prompt) - 1 :][: len(expected)] == expected


def test_the_runner_generates_in_bursts(models: Path) -> None:
    runner = Path(__file__).parents[2] / "examples" / "llama2.py"
    options = "-t 1.0 -p 0.9 -s 133742 -n 256 --target cuda".split()
    command = [sys.executable, runner, models / "stories260K.bin", "-z", models / "tok512.bin", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, (models / "expected" / "seeded_t1_p09_s133742_n256.txt").read_text())
    assert re.search(r"GB/s of weights \(\d+ % of \d+\.\d for a copy\)", done.stderr)


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

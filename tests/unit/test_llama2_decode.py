"""Generation on the device: many runs of a graph whose token and position are states, against one step at a time."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest

import hamkaas as hk
from hamkaas.models.llama2 import (
    BOS,
    Bursts,
    Chat,
    Checkpoint,
    ModelFeed,
    Sampler,
    ScoredTokenizer,
    Steps,
    TextStream,
    Transformer,
    Xorshift,
    build_burst_graphs,
    build_graphs,
    generate,
    load_checkpoint,
    load_tokenizer,
    with_template,
)

CONTEXT = 300
"""Positions; not a multiple of any burst."""


@pytest.fixture(scope="module")
def checkpoint(models: Path) -> Checkpoint:
    checkpoint = load_checkpoint(models / "stories260K.bin")
    config = replace(checkpoint.config, max_positions=CONTEXT)
    return replace(checkpoint, config=config, tokenizer=load_tokenizer(models / "tok512.bin", 512))


@pytest.fixture(scope="module")
def in_steps(checkpoint: Checkpoint) -> Iterator[hk.Model]:
    with hk.compile(build_graphs(checkpoint.config, checkpoint.weights, 64), target="cpu") as model:
        yield model


@pytest.fixture(scope="module")
def greedy(checkpoint: Checkpoint) -> Iterator[hk.Model]:
    graphs = build_burst_graphs(checkpoint.config, checkpoint.weights, 64, sampled=False)
    with hk.compile(graphs, target="cpu") as model:
        yield model


@pytest.fixture(scope="module")
def sampled(checkpoint: Checkpoint) -> Iterator[hk.Model]:
    graphs = build_burst_graphs(checkpoint.config, checkpoint.weights, 64, sampled=True)
    with hk.compile(graphs, target="cpu") as model:
        yield model


def test_text_of_llama2c(models: Path) -> None:
    checkpoint = load_checkpoint(models / "stories260K.bin")
    tokenizer = load_tokenizer(models / "tok512.bin", checkpoint.config.vocab_size)
    stream = TextStream(tokenizer)
    with hk.compile(Transformer(checkpoint.config, checkpoint.weights).decode(), target="cpu") as model:
        model["start"](token=np.array([BOS]), position=np.array([0]))
        for part in (1, 100, 155):
            tokens, position, _ = model["next"].evaluate({}, times=part)
        assert position[0] == 256
        text = "".join(stream.push(int(token), int(previous)) for previous, token in pairwise(tokens[:257]))
        assert text + stream.finish() + "\n" == (models / "expected" / "empty_prompt_t0_n256.txt").read_text()
        _, position, _ = model["next"].evaluate({}, times=256)
        assert position[0] == checkpoint.config.max_positions
        with pytest.raises(hk.RuntimeFault, match=r"replace_slice|gather"):
            model["next"].evaluate({})
        with pytest.raises(hk.InputError, match="expected at least one run, got 0"):
            model["next"].evaluate({}, times=0)


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 0.9), (0.7, 0.5), (1.3, 0.95), (0.0, 0.9)])
def test_the_device_chooses_as_the_host_does(temperature: float, top_p: float) -> None:
    rng = np.random.default_rng(1)
    inputs = [hk.InputTensor("logits", "float32", [300]), *(hk.InputTensor(n, "float32", [1]) for n in "tpc")]
    with hk.compile(hk.sample(*inputs), target="cpu") as model:
        for seed in range(1, 300):
            logits = (3 * rng.standard_normal(300)).astype(np.float32)
            numbers = {"t": temperature, "p": top_p, "c": Xorshift(seed).next_float()}
            found = model(logits=logits, **{name: np.array([x], np.float32) for name, x in numbers.items()})
            assert found[0] == Sampler(temperature, top_p, Xorshift(seed)).sample(logits)


PROMPTS = ([1], [1, 403], [1, 403, 407, 261, 378], [1, *range(300, 400)], [1, *range(10, 300)])
"""Of one token, of several that are fed one by one, and of those that take chunks, up to almost the whole context."""


@pytest.mark.parametrize("most", [1, 5, 16])
@pytest.mark.parametrize(("temperature", "top_p"), [(0.0, 0.9), (1.0, 0.9), (0.8, 0.5)])
def test_bursts_give_what_steps_give(
    request: pytest.FixtureRequest,
    checkpoint: Checkpoint,
    in_steps: hk.Model,
    temperature: float,
    top_p: float,
    most: int,
) -> None:
    model: hk.Model = request.getfixturevalue("sampled" if temperature else "greedy")
    samplers = [Sampler(temperature, top_p, Xorshift(77)) for _ in range(2)]
    steps = Steps(ModelFeed(in_steps, checkpoint.config), samplers[0])
    bursts = Bursts(model, checkpoint.config, samplers[1], most)
    for prompt in PROMPTS:  # one after the other: the generator goes on, and the cache is full of what came before
        for end in (len(prompt) - 1, len(prompt), CONTEXT):
            texts = [list(generate(source, prompt, end, {BOS})) for source in (steps, bursts)]
            assert texts[0] == texts[1]
            assert samplers[0].rng.state == samplers[1].rng.state
    assert steps.logits is not None
    assert bursts.logits is not None
    np.testing.assert_allclose(bursts.logits, steps.logits, rtol=0, atol=1e-4)


def test_a_text_that_is_left_within_a_burst(checkpoint: Checkpoint, sampled: hk.Model, in_steps: hk.Model) -> None:
    samplers = [Sampler(1.0, 0.9, Xorshift(5)) for _ in range(2)]
    steps = Steps(ModelFeed(in_steps, checkpoint.config), samplers[0])
    seen: list[list[int]] = []
    for source in (steps, Bursts(sampled, checkpoint.config, samplers[1])):
        first = [token for token, _ in islice(generate(source, [1], CONTEXT, {BOS}), 21)]
        known = [1]
        more = [token for token, _ in islice(generate(source, first, CONTEXT, {BOS}, known), 40)]
        assert known == [1, *first, *more[20:-1]]  # the last token was not fed, as far as anybody knows
        seen.append(more)
    assert seen[0] == seen[1]
    assert samplers[0].rng.state == samplers[1].rng.state


def test_a_sampler_that_the_graphs_cannot_stand_in_for(checkpoint: Checkpoint, greedy: hk.Model) -> None:
    rng = Xorshift(1)
    for sampler in (Sampler(1.0, 0.9, rng), Sampler(0, 0.9, rng, penalty=1.1), Sampler(1.0, 1.0, rng)):
        with pytest.raises(ValueError, match="expected a sampler that the graphs can stand in for"):
            Bursts(greedy, checkpoint.config, sampler)


def test_a_chat_in_bursts(checkpoint: Checkpoint, in_steps: hk.Model, sampled: hk.Model) -> None:
    """Stop tokens and stop strings within a burst leave a cache with which the next turn goes on."""
    checkpoint = with_template(checkpoint, "chatml")
    assert isinstance(checkpoint.tokenizer, ScoredTokenizer)
    make: list[Callable[[Sampler], Steps | Bursts]] = [
        lambda sampler: Steps(ModelFeed(in_steps, checkpoint.config), sampler),
        lambda sampler: Bursts(sampled, checkpoint.config, sampler, 7),
    ]
    answers: list[list[str]] = []
    for source in make:
        chat = Chat(checkpoint, source(Sampler(1.0, 0.9, Xorshift(3))), stop_strings=["."])
        answers.append(["".join(chat.reply(message)) for message in ("hi", "a", "the end")])
        assert chat.positions < CONTEXT
    assert answers[0] == answers[1]
    assert all(answers[0])

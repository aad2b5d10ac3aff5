"""Kernels that stay on the device for many launches: the same results as launches one by one, run after run."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from graphs import Case, cases, random_graphs, runs_of
from hypothesis import HealthCheck, given, settings

import hamkaas as hk
from hamkaas.artifact import Persistent
from hamkaas.models.llama2 import (
    Bursts,
    Checkpoint,
    ModelFeed,
    Sampler,
    Source,
    Steps,
    TextStream,
    Xorshift,
    build_burst_graphs,
    build_graphs,
    generate,
    load_checkpoint,
    load_tokenizer,
)
from hamkaas.pipeline import Schedule

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("gpu")]


def stays(model: hk.Model) -> bool:
    """Whether there is a persistent kernel in it."""
    return any(isinstance(step, Persistent) for one in model.artifact.programs for step in one.steps)


# any graph


@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in cases()])
def test_operation(make: Callable[[], Case]) -> None:
    with runs_of(1):
        make().check("cuda", schedule="persistent")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(random_graphs())
def test_random_graph(case: Case) -> None:
    with runs_of(1):
        case.check("cuda", schedule="persistent")


# many steps, of one block or of more than stay, many times


def towers(widths: tuple[int, ...], schedule: Schedule) -> hk.Model:
    """A state to which each run adds what 24 products make of it: steps of few blocks and of many follow each other.

    No run is like the one before, so that what that left behind would be noticed.
    """
    rng = np.random.default_rng(7)
    state = hk.BufferTensor("float32", [1, widths[0]], "state")
    x = state * 0.01 + hk.InputTensor("x", "float32", [1, widths[0]])
    for layer in range(24):
        n, k = widths[layer % len(widths)], widths[(layer + 1) % len(widths)]
        matrix = (1.7 * rng.standard_normal((n, k)) / np.sqrt(n)).astype(np.float32)
        x = (x @ hk.ConstantTensor(matrix, f"w{layer}")).silu()
    added = state.replace(state + x.sliced_softmax(widths[0]), 0, 1)
    return hk.compile([added, x], target="cuda", schedule=schedule, cudnn=False)


@pytest.mark.parametrize("widths", [(32, 2048), (8, 40, 3000), (2048, 2048), (64, 64)], ids=str)
def test_runs_in_a_row(widths: tuple[int, ...]) -> None:
    x = np.random.default_rng(1).standard_normal((1, widths[0])).astype(np.float32)
    with towers(widths, "graph") as graph, towers(widths, "persistent") as persistent:
        assert not stays(graph)
        assert stays(persistent)
        for times in (1, 1, 2, 9, 500, 1):
            results: list[tuple[np.ndarray, ...]] = []
            for model in (graph, persistent, persistent):
                model.reset()
                results.append(next(iter(model.graphs.values())).evaluate({"x": x}, times))
            for expected, found, again in zip(*results, strict=True):
                np.testing.assert_array_equal(found, again)
                if times < 10:  # what is rounded otherwise grows with the runs
                    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_two_models_in_turn() -> None:
    x = np.ones((1, 32), np.float32)
    with towers((32, 2048), "persistent") as one, towers((32, 2048), "persistent") as other:
        for _ in range(20):
            np.testing.assert_array_equal(one(x=x)[1], other(x=x)[1])


def test_inputs_on_the_device() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    with towers((32, 2048), "persistent") as model:
        for seed in range(5):  # each lies somewhere else
            x = np.random.default_rng(seed).standard_normal((1, 32)).astype(np.float32)
            model.reset()
            expected = model(x=x)[1]
            model.reset()
            found = torch.as_tensor(model(x=torch.tensor(x, device="cuda"))[1], device="cuda").cpu().numpy()
            np.testing.assert_array_equal(found, expected)


# llama


def in_steps(checkpoint: Checkpoint, sampler: Sampler) -> tuple[hk.Model, Source]:
    graphs = build_graphs(checkpoint.config, checkpoint.weights, 64)
    model = hk.compile(graphs, target="cuda", schedule="persistent")
    return model, Steps(ModelFeed(model, checkpoint.config), sampler)


def in_bursts(checkpoint: Checkpoint, sampler: Sampler) -> tuple[hk.Model, Source]:
    graphs = build_burst_graphs(checkpoint.config, checkpoint.weights, 64, sampled=sampler.temperature > 0)
    model = hk.compile(graphs, target="cuda", schedule="persistent")
    return model, Bursts(model, checkpoint.config, sampler)


@pytest.mark.parametrize("way", [in_steps, in_bursts])
@pytest.mark.parametrize(
    ("prompt", "temperature", "expected"),
    [
        ("Once upon a time", 0.0, "once_upon_a_time_t0_n256.txt"),
        ("Donald was a little duck", 0.0, "donald_duck_t0_n256.txt"),
        ("", 0.0, "empty_prompt_t0_n256.txt"),
        ("", 1.0, "seeded_t1_p09_s133742_n256.txt"),
    ],
)
def test_texts_of_llama2c(
    models: Path,
    way: Callable[[Checkpoint, Sampler], tuple[hk.Model, Source]],
    prompt: str,
    temperature: float,
    expected: str,
) -> None:
    checkpoint = load_checkpoint(models / "stories260K.bin")
    tokenizer = load_tokenizer(models / "tok512.bin", checkpoint.config.vocab_size)
    stream = TextStream(tokenizer)
    model, source = way(checkpoint, Sampler(temperature, 0.9, Xorshift(133742)))
    with model:
        assert stays(model)
        pairs = generate(source, tokenizer.encode(prompt), 256, checkpoint.stop)
        text = "".join(stream.push(token, previous) for token, previous in pairs)
    assert text + stream.finish() + "\n" == (models / "expected" / expected).read_text()

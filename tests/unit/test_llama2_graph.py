"""The graphs of the transformer, on the CPU, against a llama in plain numpy; and how prompts are fed to them."""

import time
from dataclasses import replace
from typing import Any

import llama_reference
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hamkaas as hk
from hamkaas.models.llama2 import Config, ModelFeed, Quantized, Weight, build_graphs, chunk_inputs, parts
from hamkaas.models.llama2.graph import Transformer

# dim, hidden_dim, layers, heads, kv heads, vocabulary, positions, shared classifier
ODD = {
    "odd": Config(20, 172, 2, 5, 1, 33, 17, True),
    "one head": Config(14, 9, 1, 1, 1, 33, 17, False),
    "pairs": Config(6, 10, 3, 3, 3, 7, 5, True),
    "grouped": Config(64, 172, 2, 8, 4, 33, 17, False, rope_theta=500000.0, norm_eps=1e-6),
}


@pytest.mark.parametrize("size", [0, 1, 2, 6, 7, 17])
@pytest.mark.parametrize("name", list(ODD))
def test_every_logit_of_every_position(name: str, size: int) -> None:
    config = ODD[name]
    weights = llama_reference.random_weights(config)
    tokens = np.random.default_rng(1).integers(0, config.vocab_size, config.max_positions).tolist()
    expected = llama_reference.logits(config, weights, tokens)
    size = min(size, config.max_positions)
    with hk.compile(build_graphs(config, weights, size), target="cpu") as model:
        feed = ModelFeed(model, config)
        for end in range(1, len(tokens) + 1) if size else ():
            model.reset()
            np.testing.assert_allclose(feed(tokens[:end], 0), expected[end - 1], rtol=0, atol=1e-4)
        model.reset()
        for position, token in enumerate(tokens):
            np.testing.assert_allclose(feed([token], position), expected[position], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", list(ODD))
def test_a_chunk_with_all_rows(name: str) -> None:
    config = ODD[name]
    weights = llama_reference.random_weights(config, 2)
    tokens = np.random.default_rng(3).integers(0, config.vocab_size, config.max_positions).tolist()
    with hk.compile(Transformer(config, weights).chunk(len(tokens), all_rows=True), target="cpu") as model:
        logits = model.evaluate(chunk_inputs(tokens, 0, len(tokens)))
    np.testing.assert_allclose(logits, llama_reference.logits(config, weights, tokens), rtol=0, atol=1e-4)


def test_int8_weights() -> None:
    config = ODD["odd"]
    rng = np.random.default_rng(4)
    plain = llama_reference.random_weights(config)
    weights: dict[str, Weight] = {}
    for name, array in plain.items():
        if array.ndim == 1:
            weights[name] = array
            continue
        values = rng.integers(-127, 128, array.shape).astype(np.int8)
        scales = (rng.random((array.shape[0], array.shape[1] // 4)) * 0.005).astype(np.float32)
        weights[name] = Quantized(values, scales)
        plain[name] = values * np.repeat(scales, 4, axis=1)
    tokens = rng.integers(0, config.vocab_size, 12).tolist()
    expected = llama_reference.logits(config, plain, tokens)
    with hk.compile(build_graphs(config, weights, 8), target="cpu") as model:
        feed = ModelFeed(model, config)
        np.testing.assert_allclose(feed(tokens, 0), expected[-1], rtol=0, atol=1e-4)
        model.reset()
        for position, token in enumerate(tokens):
            np.testing.assert_allclose(feed([token], position), expected[position], rtol=0, atol=1e-4)


@given(st.integers(1, 300), st.integers(0, 80), st.data())
def test_parts_cover_each_position_and_stay_in_the_context(context: int, size: int, data: st.DataObject) -> None:
    size = min(size, context)
    start = data.draw(st.integers(0, context - 1))
    end = data.draw(st.integers(start + 1, context))
    at = start
    for begin, stop in parts(start, end, size, context):
        assert start <= begin <= at < stop <= end
        assert stop == begin + 1 or begin + size <= context
        at = stop
    assert at == end


def test_too_many_tokens_are_refused() -> None:
    config = replace(ODD["pairs"], num_layers=1)
    with hk.compile(build_graphs(config, llama_reference.random_weights(config), 0), target="cpu") as model:
        feed = ModelFeed(model, config)
        with pytest.raises(hk.InputError, match="expected 1 to 2 tokens from position 3 on, got 3"):
            feed([1, 2, 3], 3)


def test_a_prompt_costs_less_than_a_quarter_of_its_steps() -> None:
    config = Config(288, 768, 6, 6, 6, 32000, 256, True)
    tokens = np.random.default_rng(5).integers(0, config.vocab_size, 256).tolist()
    with hk.compile(build_graphs(config, llama_reference.random_weights(config), 64), target="cpu") as model:
        feed = ModelFeed(model, config)

        def steps() -> Any:
            return [feed([token], position) for position, token in enumerate(tokens)][-1]

        ratios: list[float] = []
        for _ in range(3):  # in turns, so that what else the machine does slows both down
            started = time.perf_counter()
            slow = steps()
            between = time.perf_counter()
            fast = feed(tokens, 0)
            ratios.append((between - started) / (time.perf_counter() - between))
            np.testing.assert_allclose(fast, slow, rtol=0, atol=1e-4)
    assert max(ratios) > 4

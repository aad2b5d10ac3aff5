"""GGUF files of every kind of quantisation that people use, as the `gguf` package has them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import llama_reference
import numpy as np
import pytest
from gguf_files import Types, write_gguf
from numpy.typing import NDArray

import hamkaas as hk
from hamkaas.models.llama2 import Config, ModelFeed, Quantized, build_graphs, load_checkpoint

CONFIG = Config(256, 512, 2, 4, 2, 262, 16, False)
"""Rows of whole blocks of 256, which the kinds with a K take."""

SMALL = Config(8, 12, 1, 2, 1, 262, 6, True)

LARGE_BLOCKS = {"Q4_K": (0, 2), "Q6_K": (208,)}
"""Kinds that the package reads but does not write: blocks of bytes of which only the float16 factors are not arbitrary,
and where these stand."""


def quantized(weight: NDArray[np.float32], kind: str, rng: np.random.Generator) -> NDArray[Any]:
    """A matrix [out, in] of a kind, most as rows of bytes; another one, of numbers as large, where nobody writes it."""
    if kind not in LARGE_BLOCKS:
        return gguf.quantize(weight, Types[kind])
    per_block, size = gguf.GGML_QUANT_SIZES[Types[kind]]
    blocks = rng.integers(0, 256, (weight.size // per_block, size), np.uint8)
    for place in LARGE_BLOCKS[kind]:
        blocks[:, place : place + 2] = np.full((len(blocks), 1), 1e-4, np.float16).view(np.uint8)
    return blocks.reshape(len(weight), -1)


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q6_K"])
def test_quantisations(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(1)
    plain = llama_reference.random_weights(CONFIG)
    stored: dict[str, NDArray[Any]] = {}
    for name, weight in plain.items():
        stored[name] = weight if weight.ndim == 1 else quantized(weight, kind, rng)
        if weight.ndim > 1:
            plain[name] = gguf.dequantize(stored[name], Types[kind]).reshape(weight.shape)
    write_gguf(tmp_path / "model.gguf", CONFIG, stored, Types[kind])
    checkpoint = load_checkpoint(tmp_path / "model.gguf")
    assert replace(checkpoint.config, norm_eps=CONFIG.norm_eps) == CONFIG  # the file has float32 numbers
    kept = {"F32": np.float32, "F16": np.float16, "BF16": "bfloat16", "Q8_0": Quantized}
    for name, weight in checkpoint.weights.items():
        if plain[name].ndim > 1 and kind in kept:  # as it is in the file
            assert isinstance(weight, Quantized) if kind == "Q8_0" else weight.dtype == kept[kind]  # type: ignore[union-attr]
    tokens = rng.integers(0, CONFIG.vocab_size, 12).tolist()
    expected = llama_reference.logits(CONFIG, plain, tokens)
    with hk.compile(build_graphs(checkpoint.config, checkpoint.weights, 8), target="cpu") as model:
        feed = ModelFeed(model, CONFIG)
        np.testing.assert_allclose(feed(tokens, 0), expected[-1], rtol=0, atol=1e-4 * np.abs(expected[-1]).max())
        for position, token in enumerate(tokens):
            row = expected[position]
            np.testing.assert_allclose(feed([token], position), row, rtol=0, atol=1e-4 * np.abs(row).max())


@pytest.mark.parametrize("kind", ["Q4_1", "Q8_0"])
def test_weights_are_not_in_memory_twice(tmp_path: Path, kind: str) -> None:
    plain = llama_reference.random_weights(CONFIG)
    stored = {name: gguf.quantize(w, Types[kind]) if w.ndim > 1 else w for name, w in plain.items()}
    write_gguf(tmp_path / "model.gguf", CONFIG, stored, Types[kind])
    checkpoint = load_checkpoint(tmp_path / "model.gguf")
    matrices = {
        name: weight.values if isinstance(weight, Quantized) else weight
        for name, weight in checkpoint.weights.items()
        if plain[name].ndim > 1
    }
    with hk.compile(build_graphs(checkpoint.config, checkpoint.weights, 8), target="cpu") as model:
        used: Any = zip(model.artifact.weights, model.runtime._weights, strict=True)  # type: ignore[attr-defined]
        shared = [spec.name for spec, array in used if np.shares_memory(array, matrices.get(spec.name, np.empty(0)))]
    assert sorted(shared) == sorted(matrices)


def test_a_quantisation_that_nobody_knows(tmp_path: Path) -> None:
    plain = llama_reference.random_weights(CONFIG)
    weights = {
        name: w if w.ndim == 1 else np.zeros((len(w), w.shape[1] // 32 * 40), np.uint8) for name, w in plain.items()
    }
    write_gguf(tmp_path / "model.gguf", CONFIG, weights, Types.Q8_1)
    with pytest.raises(hk.CheckpointError, match=r"token_embd.weight: the quantisation Q8_1 is not known"):
        load_checkpoint(tmp_path / "model.gguf")


WRITE: list[tuple[str, Callable[[list[Any]], list[Any]], str]] = [
    ("scores", lambda scores: scores[:-1], "scores: expected one float for each of 262 tokens"),
    ("scores", lambda scores: ["high"] * len(scores), "scores: expected one float for each of 262 tokens"),
    ("types", lambda types: [*types, 3], "token_type: expected one int for each of 262 tokens"),
]
"""What is written of each token, what a file has instead, and what is said of it."""


@pytest.mark.parametrize(("of_tokens", "change", "message"), WRITE)
def test_broken_tokenizers(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    of_tokens: str,
    change: Callable[[list[Any]], list[Any]],
    message: str,
) -> None:
    key = {"scores": "scores", "types": "token_type"}[of_tokens]

    def write(writer: gguf.GGUFWriter, values: list[Any]) -> None:
        writer.add_array(f"tokenizer.ggml.{key}", change(values))

    monkeypatch.setattr(gguf.GGUFWriter, f"add_token_{of_tokens}", write)
    write_gguf(tmp_path / "model.gguf", SMALL, llama_reference.random_weights(SMALL))
    with pytest.raises(hk.CheckpointError, match=message):
        load_checkpoint(tmp_path / "model.gguf")


@pytest.mark.parametrize("tokenizer", ["llama", "gpt2"])
@pytest.mark.parametrize(("name", "token"), [("bos", -1), ("bos", 262), ("eos", "</s>")])
def test_tokens_that_do_not_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: str, name: str, token: object
) -> None:
    kind = gguf.GGUFValueType.get_type(token)

    def write(writer: gguf.GGUFWriter, _: int) -> None:
        writer.add_key_value(f"tokenizer.ggml.{name}_token_id", token, kind)

    monkeypatch.setattr(gguf.GGUFWriter, f"add_{name}_token_id", write)
    write_gguf(tmp_path / "model.gguf", SMALL, llama_reference.random_weights(SMALL), tokenizer=tokenizer)
    with pytest.raises(hk.CheckpointError, match=f"{name}_token_id: expected one of 262 tokens, got {token!r}"):
        load_checkpoint(tmp_path / "model.gguf")

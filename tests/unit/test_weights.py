"""Weights in fewer bits: what arrays become, and what that does to results."""

from typing import Any

import numpy as np
import pytest

import hamkaas as hk
from hamkaas.weights import quantize


@pytest.mark.parametrize("group", [1, 4, 16])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_quantize(group: int, dtype: Any) -> None:
    array = np.random.default_rng(1).standard_normal((5, 16)).astype(np.float32)
    array[2] = 0
    values, scales = quantize(array, group, dtype)
    assert (values.dtype, scales.dtype, scales.shape) == (np.int8, dtype, (5, 16 // group))
    steps = np.repeat(scales.astype(np.float32), group, axis=1)
    assert np.all(np.abs(values * steps - array) <= 0.5001 * steps)
    assert np.abs(values.reshape(5, -1, group)).max(axis=2)[[0, 1, 3, 4]].min() == 127


def test_small_numbers_have_scales_that_are_large_enough() -> None:
    # below 6e-5 a float16 has fewer digits: the next one below would make numbers of more than 127
    array = (np.random.default_rng(1).standard_normal((50, 8)) * 1e-5).astype(np.float32)
    values, scales = quantize(array, 8, np.float16)
    steps = scales.astype(np.float32)
    assert np.all(np.abs(values * steps - array) <= 0.5001 * steps)


def test_numbers_beyond_a_scale() -> None:
    with pytest.raises(hk.CompileError, match=r"expected numbers of at most 8.31901e\+06 for int8, got 1e\+07"):
        quantize(np.full((1, 4), 1e7, np.float32), 4, np.float16)


@pytest.mark.parametrize(("weights", "error"), [("f32", 1e-6), ("f16", 1e-3), ("bf16", 8e-3), ("i8", 1e-2)])
@pytest.mark.parametrize("n", [64, 40, 7])
def test_products(weights: Any, error: float, n: int) -> None:
    rng = np.random.default_rng(2)
    table, w = (rng.standard_normal((30, n)).astype(np.float32) for _ in range(2))
    x = hk.InputTensor("x", "int64", [1])
    graph = hk.ConstantTensor(table).gather(x).reshape(n) @ hk.ConstantTensor(w).permute(1, 0)
    with hk.compile(graph, target="cpu", weights=weights) as model:
        found = model(x=np.array([7]))
        assert all(spec.dtype != "float32" for spec in model.artifact.weights if weights in ("f16", "bf16"))
    expected = w @ table[7]
    assert np.abs(found - expected).max() <= error * np.abs(expected).max() * 3
    assert weights == "f32" or np.any(found != expected)


def test_unknown_precision() -> None:
    with pytest.raises(hk.CompileError, match="expected weights to be 'f32', 'f16', 'bf16' or 'i8', got 'f8'"):
        hk.compile(hk.InputTensor("x", "float32", [1]).relu(), target="cpu", weights="f8")  # type: ignore[arg-type]

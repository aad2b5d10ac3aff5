"""Attention that is written with products and a softmax: found in all its forms, and the same numbers afterwards."""

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from graphs import Case, Maker, assert_close
from hypothesis import given
from xdsl.transforms.canonicalize import CanonicalizePass

import hamkaas as hk
from hamkaas.dialects import hamkaas
from hamkaas.frontend import build_module
from hamkaas.interpreters.hamkaas import run_function
from hamkaas.passes.hamkaas_raise_attention import HamkaasRaiseAttentionPass
from hamkaas.pipeline import run_pass
from hamkaas.remarks import collect
from hamkaas.universe import context


def attentions(case: Case, **options: Any) -> int:
    """Runs the pass, compares the numbers before and after it, and gives how many attentions there are then."""
    built = build_module({"main": case.outputs})
    module = built.module.clone()
    CanonicalizePass().apply(context(), module)
    run_pass(context(), module, HamkaasRaiseAttentionPass(**options))
    module.verify()
    for result, expected in zip(run_function(module, case.inputs, built.weights, {}), case.expected(), strict=True):
        assert_close(result, expected, case.tolerance)
    found = sum(isinstance(op, hamkaas.AttentionOp) for op in module.walk())
    softmaxes = sum(isinstance(op, hamkaas.SlicedSoftmaxOp) for op in module.walk())
    products = sum(isinstance(op, hamkaas.MatmulOp) for op in module.walk())
    assert products == 2 * softmaxes, "the parts of what was raised are gone"
    return found


@st.composite
def written(draw: st.DrawFn) -> Case:
    """Attention in one of its forms, over a cache that is zero behind the prefix, or with a mask."""
    m = Maker(draw(st.integers(0, 1 << 20)))
    b, rows, n, d = (draw(st.integers(1, high)) for high in (3, 4, 9, 6))
    has_lengths = rows > 1 and draw(st.booleans())
    masked_by = draw(st.sampled_from(["keys", "values"] if has_lengths else ["keys", "values", "factor"]))
    lengths = [draw(st.integers(1, n)) for _ in range(rows if has_lengths else 1)]
    kept = (np.arange(n) < min(lengths)).astype(np.float32)
    arrays = [m.rng.standard_normal((b, n, d)).astype(np.float32) for _ in range(2)]
    if masked_by != "factor":
        arrays[masked_by == "values"] *= kept[:, None]

    def stored(array: np.ndarray, axes: tuple[int, ...]) -> hk.Tensor:
        """An input in some layout, as [b, n, d] or a permutation of that."""
        layout = draw(st.permutations([0, 1, 2]))
        back = [layout.index(axis) for axis in axes]
        return m.add(np.ascontiguousarray(array.transpose(layout))).permute(back)

    query = m.rng.standard_normal((b, rows, d)).astype(np.float32)
    if draw(st.booleans()):
        scores = stored(query, (0, 1, 2)) @ stored(arrays[0], (0, 2, 1))
    else:
        scores = (stored(arrays[0], (0, 1, 2)) @ stored(query, (0, 2, 1))).permute(0, 2, 1)
    if not has_lengths and draw(st.booleans()):
        scores = scores.reshape(b * rows, n)
    one = [1] * len(scores.shape)
    scale = draw(st.sampled_from([0.5, hk.ConstantTensor(np.full(one, 0.25, np.float32)), None]))
    scores = scores if scale is None else scores * scale
    weights = scores.sliced_softmax(m.index(*lengths))
    if masked_by == "factor":
        weights = weights * m.add(kept.reshape(*one[:-1], n))
    weights = weights.reshape(b, rows, n)
    if draw(st.booleans()):
        result = weights @ stored(arrays[1], (0, 1, 2))
    else:
        result = stored(arrays[1], (0, 2, 1)) @ weights.permute(0, 2, 1)
    return m.case(result.reshape(-1) * 2)


@given(written())
def test_every_form_is_found(case: Case) -> None:
    assert attentions(case, masked=True) == 1


def test_of_fewer_axes() -> None:
    m = Maker(1)
    keys, values = m.real(7, 4), m.real(7, 4)
    one = (m.real(4) @ keys.permute(1, 0) * 0.5).sliced_softmax(7) @ values
    several = (m.real(3, 4) @ keys.permute(1, 0)).sliced_softmax(7) @ values
    turned = values.permute(1, 0) @ (keys @ m.real(4, 3)).permute(1, 0).sliced_softmax(7).permute(1, 0)
    assert attentions(m.case(one, several, turned)) == 3


def test_as_the_original_project_has_it() -> None:
    """All caches in one buffer, keys times queries, a scale that is a weight, and an indicator of positions."""
    layers, n, heads, d = 2, 10, 3, 4
    m = Maker(2)
    scale = hk.ConstantTensor(np.array([[1 / np.sqrt(d)]], np.float32))
    indicator = m.add((np.arange(n) < 6).astype(np.float32))
    caches = m.real(layers * n * heads * d), m.real(layers * n * heads * d)
    x = m.real(heads * d)
    for layer in range(layers):
        begin, end = layer * n * heads * d, (layer + 1) * n * heads * d
        keys, values = (cache[begin:end].reshape(n, heads, d) for cache in caches)
        scores = (keys.permute(1, 0, 2) @ x.reshape(heads, d, 1)).reshape(heads, n) * scale
        weights = scores.sliced_softmax(m.index(6)) * indicator.reshape(1, n)
        x = x + (values.permute(1, 2, 0) @ weights.reshape(heads, n, 1)).reshape(heads * d)
    case = m.case(x)
    assert attentions(case, masked=True) == 2
    assert attentions(case) == 0  # nobody knows what the indicator is


@pytest.mark.parametrize("rows", [64, 65])
def test_many_rows(rows: int) -> None:
    m = Maker(3)
    case = m.case((m.real(2, rows, 4) @ m.real(2, 4, 5)).sliced_softmax(5) @ m.real(2, 5, 4))
    with collect() as remarks:
        assert attentions(case) == (rows == 64)
    assert len(remarks) == (rows == 65)


def test_unmasked_tails_are_kept() -> None:
    m = Maker(4)
    keys, values = m.real(2, 9, 4), m.real(2, 9, 4)
    scores = [m.real(2, 1, 4) @ keys.permute(0, 2, 1) for _ in range(2)]
    case = m.case(scores[0].sliced_softmax(m.index(5)) @ values, scores[1].sliced_softmax(8) @ values)
    with collect() as remarks:
        assert attentions(case) == 0
    assert all("what is behind the prefix counts" in one.why for one in remarks)
    assert len(remarks) == 2

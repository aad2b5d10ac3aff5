"""Graphs for tests of targets: one per operation and shape rule, and random ones; with the oracle's answer."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

import hamkaas as hk
from hamkaas import pipeline
from hamkaas.dialects.hamkaas import RmsScaleOp
from hamkaas.frontend import build_module
from hamkaas.frontend.tensor import apply_op
from hamkaas.interpreters.hamkaas import run_function
from hamkaas.passes.program_to_persistent import ProgramToPersistentPass
from hamkaas.schedules.vector_shape import VectorShape

Array = NDArray[Any]


@dataclass(frozen=True)
class Case:
    """Outputs of a graph and arrays for its inputs."""

    outputs: tuple[hk.Tensor, ...]
    inputs: dict[str, Array]
    tolerance: float = 2e-5
    """Relative to the largest finite number of the reference."""

    def expected(self, states: dict[str, Array] | None = None) -> tuple[Array, ...]:
        """What the interpreter says."""
        built = build_module({"main": self.outputs})
        return run_function(built.module, self.inputs, built.weights, {} if states is None else states)

    def check(self, target: Any, **options: Any) -> None:
        """Compiles the graph for a target and compares all outputs with the interpreter's."""
        with hk.compile(self.outputs, target=target, **options) as model:
            used = next(iter(model.graphs.values())).inputs
            results = model.evaluate({spec.name: self.inputs[spec.name] for spec in used})
        for result, expected in zip(results, self.expected(), strict=True):
            assert_close(result, expected, self.tolerance)


def assert_close(result: Array, expected: Array, tolerance: float) -> None:
    """Same shape, dtype and numbers; NaN and infinities in the same places."""
    assert result.shape == expected.shape
    assert result.dtype == expected.dtype
    if expected.dtype == np.int64:
        np.testing.assert_array_equal(result, expected)
        return
    result, expected = result.astype(np.float32), expected.astype(np.float32)
    finite = np.isfinite(expected)
    scale = max(1.0, float(np.abs(expected[finite]).max(initial=0)))
    np.testing.assert_allclose(result, expected, rtol=tolerance, atol=tolerance * scale, equal_nan=True)


class Maker:
    """Makes inputs with random values."""

    def __init__(self, seed: int, special: bool = False):
        self.rng = np.random.default_rng(seed)
        self.special = special
        self.inputs: dict[str, Array] = {}

    def real(self, *shape: int, dtype: Any = np.float32) -> hk.Tensor:
        """A float input; with NaN and infinities in it where `special` is set."""
        array = self.rng.standard_normal(shape).astype(np.float32)
        if self.special:
            places = self.rng.random(shape)
            array = np.select([places < 0.05, places < 0.1, places < 0.15], [np.nan, np.inf, -np.inf], array)
        return self.add(array.astype(dtype))

    def index(self, *values: int) -> hk.Tensor:
        """An int64 input."""
        return self.add(np.array(values, np.int64))

    def add(self, array: Array) -> hk.Tensor:
        """An input with these values."""
        name = f"x{len(self.inputs)}"
        self.inputs[name] = array
        return hk.InputTensor(name, array.dtype, array.shape)

    def case(self, *outputs: hk.Tensor, tolerance: float = 2e-5) -> Case:
        """The case with these outputs."""
        return Case(outputs, self.inputs, tolerance)


SHAPES = ((1,), (5,), (8,), (17,), (64,), (257,), (3, 5), (4, 8), (1, 9), (100, 77), (2, 3, 4), (5, 1, 7), (2, 16, 8))
"""Around the sizes of vectors, warps and blocks, and with axes of 1."""


NARROW = (
    (16, 5, "i8 4 half"),
    (33, 6, "float16"),
    (288, 33, "i8 32"),
    (288, 17, "bfloat16"),
    (768, 20, "i8 64"),
    (1024, 9, "float16"),
    (1028, 10, "float16"),
    (1028, 3, "i8 4"),
    (1040, 7, "i8 16"),
    (1104, 21, "i8 8"),
    (1200, 13, "bfloat16"),
    (2048, 66, "i8 32 half"),
    (2048, 1, "float16"),
    (4096, 40, "float32"),
    (4096, 40, "float16"),
    (4096, 33, "bfloat16"),
    (4096, 18, "i8 4"),
    (4096, 31, "i8 16"),
    (4096, 40, "i8 32 half"),
    (4096, 2, "i8 64"),
    (8192, 12, "i8 32"),
    (11008, 17, "float32"),
    (11008, 17, "float16"),
    (11008, 34, "i8 32 half"),
    (11008, 5, "i8 64"),
    (14336, 12, "i8 32"),
)
"""Vector sizes, columns and matrices of products with one row: around what a warp and a block take at a time."""

VECTOR_SHAPES = tuple(
    VectorShape(block, team, columns, staged, in_flight)
    for block, team, columns, staged, in_flight in (
        (256, 64, 2, True, 64),
        (256, 128, 2, True, 64),
        (256, 64, 1, True, 64),
        (128, 32, 1, True, 64),
        (256, 32, 2, True, 32),
        (256, 32, 2, True, 64),
        (256, 32, 4, True, 32),
        (256, 32, 4, False, 64),
        (256, 64, 2, False, 64),
        (512, 64, 2, True, 32),
        (512, 128, 3, True, 48),
        (256, 256, 4, True, 128),
    )
)
"""How products of one row may be shared out: the rule's choices for large matrices, and what a search may try."""

LONG: tuple[tuple[int, int, int, int, Any, tuple[int, ...]], ...] = (
    (2, 2, 64, 1100, np.float32, (0, 1, 7, 8, 9, 15, 16, 127, 128, 129, 511, 512, 513, 1024, 1100)),
    (2, 1, 128, 520, np.float16, (0, 1, 3, 4, 5, 64, 256, 257, 519, 520)),
    (4, 2, 80, 300, ml_dtypes.bfloat16, (0, 1, 2, 3, 299, 300)),
    (3, 1, 48, 700, np.float32, (0, 1, 8, 64, 255, 699, 700)),
    (32, 8, 64, 260, np.float32, (0, 1, 5, 260)),  # heads that share keys
    (64, 16, 16, 600, np.float16, (1, 599)),
)
"""Attention over caches that are long enough for several blocks: query heads, key heads, their size, positions, type of
the cache, lengths."""


@contextmanager
def runs_of(launches: int) -> Generator[None]:
    """As if runs of so many launches were long enough."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "ProgramToPersistentPass", partial(ProgramToPersistentPass, min_launches=launches))
        yield


def cases() -> Iterator[tuple[str, Callable[[], Case]]]:
    """(name, how to make it) of a case for every operation and shape rule."""
    for shape in SHAPES:
        name = "x".join(map(str, shape))
        for method in ("relu", "silu"):
            yield f"{method}-{name}", lambda s=shape, m=method: (m_ := Maker(1)).case(getattr(m_.real(*s), m)())
        for mask in product((False, True), repeat=len(shape)):
            right = tuple(1 if one else size for one, size in zip(mask, shape, strict=True))
            label = "x".join(map(str, right))
            yield f"broadcast-{name}-{label}", lambda s=shape, r=right: _broadcast(s, r)
        yield f"views-{name}", lambda s=shape: _views(s)
        yield f"rms_norm-{name}", lambda s=shape: (m := Maker(3)).case(m.real(*s).rms_norm(m.real(s[-1])))
        for prefix in sorted({0, 1, shape[-1] // 2, shape[-1]}):
            yield f"softmax-{name}-{prefix}", lambda s=shape, p=prefix: _softmax(s, p)
        if len(shape) < 3:
            yield f"argmax-{name}", lambda s=shape: (m := Maker(5)).case(m.real(*s).argmax())
        if len(shape) > 1:
            yield f"softmax-rows-{name}", lambda s=shape: _softmax_rows(s)
        yield f"gather-{name}", lambda s=shape: (m := Maker(6)).case(m.real(*s).gather(m.index(0, s[0] - 1, 0)).relu())
        yield f"replace-{name}", lambda s=shape: _replace(s)
    for shape in ((2,), (3, 2), (6, 24, 2), (5, 7, 2)):
        for mask in product((False, True), repeat=len(shape) - 1):
            right = (*(1 if one else size for one, size in zip(mask, shape[:-1], strict=True)), 2)
            label = "x".join(map(str, (*shape, "by", *right)))
            yield f"complex-{label}", lambda s=shape, r=right: _complex(s, r)
    for m, n, k in product((1, 2, 5, 70), (1, 8, 17, 100), (1, 3, 8, 33, 66)):
        yield f"matmul-{m}x{n}x{k}", lambda m=m, n=n, k=k: _matmul(m, n, k)
    for m, k in ((2, 3), (3, 4), (5, 6), (6, 3), (70, 9)):
        yield f"turned-{m}x{k}", lambda m=m, k=k: _turned(m, k)
    for n, k in product((1, 8, 17, 100, 1024), (1, 3, 8, 33, 66, 300)):
        yield f"matvec-{n}x{k}", lambda n=n, k=k: _matvec(n, k)
    for m, n, k in ((1, 5, 3), (3, 8, 8), (65, 17, 66)):
        yield f"batched-{m}x{n}x{k}", lambda m=m, n=n, k=k: _batched(m, n, k)
    for heads, kv, d, positions in (
        (1, 1, 1, 1),
        (4, 2, 8, 16),
        (8, 4, 16, 32),
        (6, 6, 48, 300),
        (3, 1, 5, 9),
        (2, 1, 136, 10),
    ):
        label = f"{heads}x{kv}x{d}x{positions}"
        yield f"attention-{label}", lambda a=heads, b=kv, c=d, e=positions: _attention(a, b, c, e)
    for heads, kv, d, positions, dtype, lengths in LONG:
        label = f"{heads}x{kv}x{d}x{positions}-{np.dtype(dtype).name}"
        yield f"attention-{label}", lambda a=heads, b=kv, c=d, e=positions, t=dtype, n=lengths: _long(a, b, c, e, t, n)
    for rows in (1, 3):
        yield f"attention-written-out-{rows}", lambda r=rows: _written_out(r)
    yield "rope-epilogue", _rope
    for rows, heads, d in ((1, 3, 2), (5, 4, 8), (64, 3, 24), (70, 6, 48), (3, 1, 6)):
        yield f"rope-rows-{rows}x{heads}x{d}", lambda a=rows, h=heads, d=d: _rope_rows(a, h, d)
    yield "rope-large", _rope_large
    yield "residual-epilogue", _residual
    yield "gated", _gated
    for n, k in ((40, 88), (64, 33), (7, 5), (300, 64)):
        yield f"qkv-{n}x{k}", lambda n=n, k=k: _qkv(n, k)
        yield f"twins-{n}x{k}", lambda n=n, k=k: _twins(n, k)
    for dtype in (np.float16, ml_dtypes.bfloat16):
        yield f"cast-{np.dtype(dtype).name}", lambda d=dtype: _cast(d)
    yield "dequantize", _dequantize
    for n, k, form in NARROW:
        yield f"narrow-{n}x{k}-{form.replace(' ', '-')}", lambda n=n, k=k, f=form: narrow(n, k, f)
    for rows, n in ((1, 8), (5, 33), (16, 64)):
        yield f"rms_scale-{rows}x{n}", lambda r=rows, n=n: _rms_scale(r, n)
    for seed in range(8):
        yield f"sample-{seed}", lambda s=seed: _sample(s)
    for prefix in range(4):
        yield f"softmax-complex-{prefix}", lambda p=prefix: _softmax_complex(p)
    for m, n, k in ((2, 8, 33), (2, 8, 34), (1, 64, 10), (3, 5, 6), (1, 7, 2)):
        yield f"reshaped-{m}x{n}x{k}", lambda m=m, n=n, k=k: _reshaped(m, n, k)
    for heads, d in ((2, 5), (4, 7), (2, 6)):
        yield f"attention-reshaped-{heads}x{d}", lambda h=heads, d=d: _attention_reshaped(h, d)
    yield "norm-complex", _norm_complex
    for n in (3, 8, 33):
        yield f"dequantize-column-{n}", lambda n=n: _dequantize_column(n)
        yield f"greedy-{n}", lambda n=n: _greedy(n)
    for dtype in (np.float16, ml_dtypes.bfloat16):
        yield f"narrow-values-{np.dtype(dtype).name}", lambda d=dtype: _narrow_values(d)
    for dtype in (np.int8, np.int64):
        yield f"integers-{np.dtype(dtype).name}", lambda d=dtype: _integers(d)
    yield "constants-only", _constants_only
    yield "returns", _returns
    yield "shifted-updates", _shifted_updates


def _softmax_complex(prefix: int) -> Case:
    """Pairs of which one element lies inside of the prefix and the other one outside."""
    m = Maker(31)
    x, z = m.real(4, 2), m.real(4, 2)
    wide, flat = m.real(3, 6), m.real(9, 2)
    y = x.sliced_softmax(min(prefix, 2))
    return m.case(
        y.complex_hadamard_product(z),
        (y * 3).reshape(2, 2, 2).complex_hadamard_product(z.reshape(2, 2, 2)),
        wide.sliced_softmax(prefix).reshape(9, 2).complex_hadamard_product(flat),
        wide.sliced_softmax(m.index(prefix)).permute(1, 0).reshape(9, 2) * flat,
    )


def _reshaped(m: int, n: int, k: int) -> Case:
    """A product whose result is looked at in another shape, by pairs too, also where these cross its rows."""
    maker = Maker(32)
    y = maker.real(m, n) @ maker.real(n, k)
    turned = maker.real(m, n) @ maker.real(k, n).permute(1, 0)
    outputs = [y.reshape(m * k) + 1, turned.reshape(m * k).relu(), turned.reshape(k, m).silu()]
    if m * k % 2 == 0:
        pairs = maker.real(m * k // 2, 2)
        outputs += [one.reshape(-1, 2).complex_hadamard_product(pairs) for one in (y, turned)]
    return maker.case(*outputs)


def _attention_reshaped(heads: int, d: int) -> Case:
    m = Maker(33)
    keys, values, length = m.real(9, heads, d), m.real(9, heads, d), m.index(7)
    one, three = m.real(heads, d).attention(keys, values, length), m.real(3, heads, d).attention(keys, values, length)
    outputs = [one.reshape(d, heads) * 2, three.reshape(3 * d, heads).silu(), three.permute(2, 0, 1).reshape(-1) + 1]
    if heads * d % 2 == 0:
        outputs.append(one.reshape(-1, 2).complex_hadamard_product(m.real(heads * d // 2, 2)))
    return m.case(*outputs)


def _norm_complex() -> Case:
    """Pairs in a row of a norm, and pairs that cross two rows, which have scales of their own."""
    m = Maker(34)
    even, odd, pairs = m.real(4, 6).rms_norm(m.real(6)), m.real(4, 3).rms_norm(m.real(3)), m.real(6, 2)
    return m.case(
        even.reshape(12, 2).complex_hadamard_product(m.real(12, 2)),
        odd.reshape(6, 2).complex_hadamard_product(pairs),
    )


def _dequantize_column(n: int) -> Case:
    """A matrix of one column, in which every row has a scale of its own."""
    m = Maker(35)
    w = hk.dequantize(m.add(m.rng.integers(-127, 128, (n, 1)).astype(np.int8)), m.real(n, 1))
    return m.case(m.real(1, n) @ w, m.real(n) @ w, m.real(3, n) @ w)


def _greedy(n: int) -> Case:
    """The largest of numbers that are computed where they are looked at."""
    m = Maker(36)
    logits = hk.dequantize(m.add(m.rng.integers(-127, 128, n).astype(np.int8)), m.real(1))
    zero, one = m.add(np.zeros(1, np.float32)), m.add(np.ones(1, np.float32))
    outputs = [hk.sample(logits, zero, one, one), (logits * 0.1 + m.real(n)).argmax()]
    return m.case(*outputs)


def _narrow_values(dtype: Any) -> Case:
    """Values of 16 bits in the middle of a group: rounded there."""
    m = Maker(37)
    x, y, z = (m.real(5, 16, dtype=dtype) for _ in range(3))
    w = m.real(16, 8, dtype=dtype)
    return m.case(
        (x + y) * z,
        x * y + z * x,
        (x * y).cast("float32") + z.cast("float32"),
        (x.cast("float32") * y.cast("float32")).cast(dtype).cast("float32") * 3,
        x.reshape(5, 8, 2).complex_hadamard_product(y.reshape(5, 8, 2)).reshape(5, 16) * z,
        ((x @ w) * (y @ w)).cast("float32"),
        (x.rms_norm(m.real(16, dtype=dtype)) * y).relu(),
        tolerance=1e-2,
    )


def _integers(dtype: Any) -> Case:
    """Integers that are moved."""
    m = Maker(38)

    def numbers(*shape: int) -> hk.Tensor:
        return m.add(m.rng.integers(-100, 100, shape).astype(dtype))

    x, rows = numbers(6, 8), numbers(2, 8)
    outputs = [x.gather(m.index(5, 0, 3)), x.replace(rows, m.index(1), m.index(3)), x.replace(rows, 4, 6), x]
    if dtype == np.int8:
        turned = x.permute(1, 0).reshape(4, 12)
        state = hk.BufferTensor(dtype, (6, 8))
        outputs += [turned, x[2:5], turned[1:].cast("float32") * 0.5, state.replace(rows, 0, 2), x.cast("float16")]
    return m.case(*outputs)


def _constants_only() -> Case:
    """Groups that read nothing."""
    m = Maker(39)
    one = m.real(1, 1)

    def number(value: float) -> hk.Tensor:
        return one._as_tensor(value)  # pyright: ignore[reportPrivateUsage]

    return m.case(number(2.0) @ number(3.0), number(0.1).cast("float16"), number(-1.0).argmax(), number(0.1).silu())


def _broadcast(shape: Sequence[int], right: Sequence[int]) -> Case:
    m = Maker(2)
    x, y = m.real(*shape), m.real(*right)
    return m.case((x + y) * y, x * 0.5 + 1)


def _views(shape: Sequence[int]) -> Case:
    m = Maker(4)
    x = m.real(*shape)
    last = x[shape[0] - 1 :]
    flat = x.reshape(-1)
    back = list(reversed(range(len(shape))))
    return m.case(x[:1].relu(), last * 2, flat.silu(), x.relu().permute(back), x.permute(back).reshape(-1) + 1, last)


def _softmax(shape: Sequence[int], prefix: int) -> Case:
    m = Maker(4)
    x = m.real(*shape)
    return m.case((x * 3).sliced_softmax(prefix), x.sliced_softmax(m.index(prefix)) * 2)


def _softmax_rows(shape: Sequence[int]) -> Case:
    m = Maker(4)
    prefixes = [row * 7 % (shape[-1] + 1) for row in range(shape[-2])]
    return m.case(m.real(*shape).sliced_softmax(m.index(*prefixes)))


def _replace(shape: Sequence[int]) -> Case:
    m = Maker(7)
    rows = max(1, shape[0] // 2)
    x, y = m.real(*shape), m.real(rows, *shape[1:])
    at_end = x.replace(y.relu(), m.index(shape[0] - rows), m.index(shape[0]))
    return m.case(x.replace(y, 0, rows), at_end, x)


def _complex(shape: Sequence[int], right: Sequence[int]) -> Case:
    m = Maker(8)
    return m.case(m.real(*shape).complex_hadamard_product(m.real(*right)))


def _matmul(m: int, n: int, k: int) -> Case:
    maker = Maker(9)
    x = maker.real(m, n)
    plain = x @ maker.real(n, k)
    transposed = (x @ maker.real(k, n).permute(1, 0)).relu()
    return maker.case(plain, transposed, plain.permute(1, 0) * 2)


def _turned(m: int, k: int) -> Case:
    """Views behind a product that mix its axes."""
    maker = Maker(8)
    product_ = (maker.real(m, 5) @ maker.real(k, 5).permute(1, 0)) * 0.3
    return maker.case(product_.permute(1, 0).reshape(m, k), product_.reshape(k, m).permute(1, 0))


def _matvec(n: int, k: int) -> Case:
    m = Maker(10)
    x, bias = m.real(n), m.real(k)
    return m.case(x @ m.real(n, k), bias + x @ m.real(k, n).permute(1, 0), (x @ m.real(n, k)).silu() * bias)


def _batched(m: int, n: int, k: int) -> Case:
    maker = Maker(11)
    x = maker.real(3, m, n)
    return maker.case(x @ maker.real(3, n, k), (x @ maker.real(n, k, 3).permute(2, 0, 1)).permute(1, 0, 2).relu())


def _attention(heads: int, kv: int, d: int, positions: int) -> Case:
    m = Maker(12)
    keys, values = m.real(positions, kv, d), m.real(positions, kv, d)
    outputs = [
        m.real(heads, d).attention(keys, values, m.index(length))
        for length in sorted({0, 1, positions // 2, positions})
    ]
    outputs.append(m.real(3, heads, d).attention(keys, values, m.index(1, positions, positions // 2), scale=0.3))
    for length in sorted({0, min(2, positions), positions}):  # causal: the first of three sees nothing of two rows
        outputs.append(m.real(3, heads, d).attention(keys, values, m.index(length)))
    return m.case(*outputs)


def _long(heads: int, kv: int, d: int, positions: int, dtype: Any, lengths: Sequence[int]) -> Case:
    m = Maker(24)
    keys, values = m.real(positions, kv, d, dtype=dtype), m.real(positions, kv, d, dtype=dtype)
    query = m.real(heads, d) * 2
    outputs = [query.attention(keys, values, m.index(length)) for length in lengths]
    if dtype == ml_dtypes.bfloat16:
        return m.case(*outputs)  # several queries over it may be rounded: hamkaas-convert-activations
    several = m.real(3, heads, d)
    outputs.append(several.attention(keys, values, m.index(positions, lengths[1], positions // 2), scale=0.3))
    outputs.append(several.attention(keys, values, m.index(positions - 1)).reshape(3, heads * d) + 1)
    return m.case(*outputs)


def _written_out(rows: int) -> Case:
    """Attention as products around a softmax of all positions, over a cache of more, which is cut."""
    m = Maker(25)
    keys, values = m.real(12, 2, 8), m.real(12, 2, 8)
    scores = m.real(2, rows, 8) @ keys[:9].permute(1, 2, 0) * 0.3
    return m.case((scores.sliced_softmax(9) @ values[:9].permute(1, 0, 2)).permute(1, 0, 2))


def _rope() -> Case:
    m = Maker(13)
    x, table = m.real(48), m.real(10, 4, 2)
    query = (x @ m.real(32, 48).permute(1, 0)).reshape(4, 4, 2).complex_hadamard_product(table.gather(m.index(3)))
    cache = m.real(20, 4, 8).replace(query.reshape(1, 4, 8), m.index(5), m.index(6))
    return m.case(query.reshape(4, 8), cache)


def _rope_rows(rows: int, heads: int, d: int) -> Case:
    """Heads of several tokens, turned by the token's angles and put into a cache."""
    m = Maker(23)
    x, table = m.real(rows, 40), m.real(90, d // 2, 2)
    turns = table.gather(m.index(*range(7, 7 + rows))).gather(m.index(*np.repeat(np.arange(rows), heads)))
    pairs = (x @ m.real(heads * d, 40).permute(1, 0)).reshape(rows * heads, d // 2, 2)
    key = pairs.complex_hadamard_product(turns).reshape(rows, heads, d)
    return m.case(m.real(80, heads, d).replace(key, m.index(4), m.index(4 + rows)))


def _rope_large() -> Case:
    """So many heads that each thread of a GPU computes several vectors of them, and of what else there is to do."""
    m = Maker(30)
    rows, heads, d = 128, 32, 128
    x, table = m.real(rows * heads, d // 2, 2, dtype=np.float16), m.real(150, d // 2, 2)
    turns = table.gather(m.index(*range(7, 7 + rows))).gather(m.index(*np.repeat(np.arange(rows), heads)))
    key = x.cast("float32").complex_hadamard_product(turns).reshape(rows, heads, d)
    return m.case(m.real(140, heads, d).replace(key, m.index(4), m.index(4 + rows)), x.relu() * x)


def _residual() -> Case:
    m = Maker(14)
    x, w = m.real(64), m.real(64, 64)
    y = x + x.rms_norm(m.real(64)) @ w.permute(1, 0)
    return m.case(y, (y + x.rms_norm(m.real(64)) @ w).rms_norm(m.real(64)))


def _gated() -> Case:
    m = Maker(15)
    x = m.real(40)
    hidden = (x @ m.real(88, 40).permute(1, 0)).silu() * (x @ m.real(88, 40).permute(1, 0))
    return m.case(x + hidden @ m.real(40, 88).permute(1, 0))


def _qkv(n: int, k: int) -> Case:
    """Products of one normalized vector: one kernel with several results, some of them updates."""
    m = Maker(19)
    x = m.real(n)
    h = x.rms_norm(m.real(n))
    keys = m.real(6, k).replace((h @ m.real(n, k)).reshape(1, k), m.index(2), m.index(3))
    values = m.real(6, k).replace((h @ m.real(k, n).permute(1, 0)).reshape(1, k), m.index(5), m.index(6))
    return m.case((h @ m.real(k, n).permute(1, 0)).silu(), keys, values, (h @ m.real(2 * k, n).permute(1, 0)) + 1)


def _twins(n: int, k: int) -> Case:
    """Products that run through the same loops, with right sides of both layouts."""
    m = Maker(20)
    x, y = m.real(n), m.real(3, n)
    h = x.rms_norm(m.real(n))
    outputs = [
        (h @ m.real(k, n).permute(1, 0)).silu() * (h @ m.real(k, n).permute(1, 0)),
        (h @ m.real(n, k)).silu() * (h @ m.real(n, k)),
        (x @ m.real(n, k)) + (x @ m.real(k, n).permute(1, 0)),
        (y @ m.real(k, n).permute(1, 0)).silu() * (y @ m.real(k, n).permute(1, 0)),
        (y @ m.real(n, k)).silu() * (y @ m.real(n, k)),
    ]
    return m.case(*outputs)


def _cast(dtype: Any) -> Case:
    m = Maker(16)
    x, w = m.real(4, 64), m.real(24, 64, dtype=dtype)
    narrow = m.real(4, 64, dtype=dtype)
    outputs = (
        x.cast(dtype),
        x.cast(dtype).cast("float32") * 2,
        x @ w.permute(1, 0),
        narrow.silu(),
        narrow @ w.permute(1, 0),
    )
    return m.case(*outputs, tolerance=1e-2)


def narrow(n: int, k: int, form: str) -> Case:
    """Products of one row with matrices that are weights: alone, two that meet, and three of one norm with rotation."""
    m = Maker(24)
    dtype, group, half = (*form.split(), "", "")[:3]

    def matrix(rows: int) -> hk.Tensor:
        if not group:
            array = m.rng.standard_normal((rows, n)).astype(np.float32)
            narrow = array.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
            return hk.ConstantTensor(narrow).permute(1, 0)
        values = m.rng.integers(-127, 128, (rows, n)).astype(np.int8)
        scales = (m.rng.random((rows, n // int(group))) / 64).astype(np.float16 if half else np.float32)
        return hk.dequantize(hk.ConstantTensor(values), hk.ConstantTensor(scales)).permute(1, 0)

    x, turns, row = m.real(n), m.real(9, k, 2), m.index(3)
    h = x.rms_norm(hk.ConstantTensor(m.rng.standard_normal(n).astype(np.float32)))

    def turned() -> hk.Tensor:
        return (h @ matrix(2 * k)).reshape(1, k, 2).complex_hadamard_product(turns.gather(row)).reshape(1, 2 * k)

    keys, values = m.real(8, 2 * k), m.real(8, 2 * k)
    end = m.index(4)
    outputs = (
        m.real(k) + x @ matrix(k),
        (h @ matrix(k)).silu() * (h @ matrix(k)),
        turned(),
        keys.replace(turned(), row, end),
        values.replace((h @ matrix(2 * k)).reshape(1, 2 * k), row, end),
    )
    return m.case(*outputs)


def _rms_scale(rows: int, n: int) -> Case:
    m = Maker(22)
    x, y = m.real(rows, n), m.real(rows, n) @ m.real(n, n)
    sums = m.add(m.rng.random((rows, 1)).astype(np.float32))
    scaled = [apply_op(RmsScaleOp, (t, m.real(n), sums), 1e-5) for t in (x * 2, y)]
    return m.case(*scaled)


def _dequantize() -> Case:
    m = Maker(17)
    values = m.add(m.rng.integers(-127, 128, (24, 64)).astype(np.int8))
    outputs: list[hk.Tensor] = []
    for scales in (m.real(24, 8), m.real(24, 2, dtype=np.float16)):
        w = hk.dequantize(values, scales)
        outputs += [w, m.real(64) @ w.permute(1, 0), m.real(5, 64) @ w.permute(1, 0), w.gather(m.index(5, 23))]
    return m.case(*outputs)


def _sample(seed: int) -> Case:
    m = Maker(seed)
    logits = m.add(np.round(m.rng.standard_normal(37 + 20 * seed) * 3, 1).astype(np.float32))
    parameters = [(0.0, 0.9), (0.5, 0.3), (1.0, 0.9), (1.0, 1.0)][seed % 4]
    numbers = [m.add(np.array([x], np.float32)) for x in (*parameters, m.rng.random())]
    return m.case(hk.sample(logits, *numbers))


def _shifted_updates() -> Case:
    """Updates of what is read beside, elsewhere and in another order."""
    m = Maker(21)
    y = m.real(300, 3).relu()
    w = m.real(300)
    down = y.replace(y[:200] * 2 + 1, m.index(7), m.index(207))
    product = w.replace(w @ m.real(300, 64) + w[:64], 32, 96)
    return m.case(down, down.replace(down[100:].silu(), 0, 200), product)


def _returns() -> Case:
    """An input, a weight, a constant, the same value twice and an index as outputs."""
    m = Maker(18)
    x, index = m.real(3, 4), m.index(2, 1)
    y = x.relu()
    w = hk.ConstantTensor(np.arange(6, dtype=np.float32).reshape(2, 3))
    return m.case(x, y, y, w, index, x.reshape(2, 6), w[1:])


@st.composite
def random_graphs(draw: st.DrawFn, max_nodes: int = 20) -> Case:
    """Graphs of many operations with shared values, diamonds and several products."""
    m = Maker(draw(st.integers(0, 1 << 30)))
    a, b = draw(st.sampled_from([(1, 1), (2, 3), (8, 8), (5, 16), (17, 4), (33, 40)]))
    pool = [m.real(a, b), m.real(a, b)]
    square, weight = m.real(b, b), m.real(b)
    for _ in range(draw(st.integers(1, max_nodes))):
        x = draw(st.sampled_from(pool))
        match draw(st.integers(0, 11)):
            case 0:
                y = x + draw(st.sampled_from(pool))
            case 1:
                y = x * draw(st.sampled_from(pool)) * 0.5
            case 2:
                y = x.relu()
            case 3:
                y = x.silu()
            case 4:
                y = x @ square * 0.3
            case 5:
                y = x @ square.permute(1, 0) * 0.3
            case 6:
                y = x.rms_norm(weight)
            case 7:
                y = x.sliced_softmax(draw(st.integers(0, b)))
            case 8:
                y = x.permute(1, 0).reshape(-1).reshape(a, b)
            case 9:
                row = draw(st.integers(0, a - 1))
                y = x.replace(draw(st.sampled_from(pool))[row : row + 1], row, row + 1)
            case 10:
                row = draw(st.integers(0, a - 1))
                y = x + draw(st.sampled_from(pool))[row : row + 1].reshape(1, b)
            case _:
                y = x.reshape(b, a).permute(1, 0) * 2
        pool.append(y)
    outputs = draw(st.lists(st.sampled_from(pool[2:]), min_size=1, max_size=3))
    return m.case(pool[-1], *outputs, tolerance=2e-4)

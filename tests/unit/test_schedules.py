"""What schedules decide, where it can be seen without a GPU."""

from collections.abc import Sequence

import numpy as np
import pytest
from graphs import VECTOR_SHAPES, Maker, narrow
from xdsl.dialects.builtin import IntegerType, TensorType, f32
from xdsl.ir import Block, SSAValue

import hamkaas as hk
from hamkaas.compiler import compile_artifact
from hamkaas.dialects import hamkaas, kernel
from hamkaas.frontend import build_module
from hamkaas.pipeline import run_pipeline
from hamkaas.runtime.nvrtc import compile_cubin, resources
from hamkaas.schedules import matmul
from hamkaas.schedules.builder import Builder
from hamkaas.schedules.elements import Elements
from hamkaas.schedules.index import Index, Lane
from hamkaas.schedules.lowering import flat
from hamkaas.schedules.matmul import VectorShape, vector_shape
from hamkaas.schedules.staged import CHUNK, PERIOD, place_of
from hamkaas.universe import context

BANKS = 32
PHASE = 8
"""Threads that take 16 bytes each at a time: together, all banks once."""


def test_places_are_all_different() -> None:
    assert sorted(map(place_of, range(PERIOD))) == list(range(PERIOD))
    assert all(place_of(PERIOD * turn + c) == PERIOD * turn + place_of(c) for turn in range(4) for c in range(PERIOD))


@pytest.mark.parametrize("run", [4, 8, 16, 32])
def test_reads_of_runs_meet_in_no_bank(run: int) -> None:
    # thread t reads the elements from run * t on, chunk by chunk
    for first in range(0, 32, PHASE):
        for number in range(run // CHUNK):
            chunks = [place_of(run // CHUNK * thread + number) for thread in range(first, first + PHASE)]
            assert len({chunk % (BANKS // CHUNK) for chunk in chunks}) == PHASE


def test_writes_meet_in_no_bank() -> None:
    for first in range(0, 256, PHASE):
        assert len({place_of(thread) % (BANKS // CHUNK) for thread in range(first, first + PHASE)}) == PHASE


def test_without_other_places_runs_would_meet() -> None:
    chunks = [16 // CHUNK * thread for thread in range(PHASE)]
    assert len({chunk % (BANKS // CHUNK) for chunk in chunks}) == 2


def dequantized(group: int, n: int = 64) -> tuple[Elements, SSAValue]:
    """Elements of a group, and in it a matrix of bytes with scales, seen through a permutation."""
    types = [TensorType(IntegerType(8), [8, n]), TensorType(f32, [8, n // group])]
    block = Block(arg_types=types)
    op = hamkaas.DequantizeOp(*block.args)
    block.add_ops([op, permuted := hamkaas.PermuteOp(op.result, [1, 0])])
    entry = Block(arg_types=[flat(type) for type in types])
    buffers: dict[SSAValue, SSAValue] = dict(zip(block.args, entry.args, strict=True))
    return Elements(Builder(entry), buffers, aligned=True), permuted.result


@pytest.mark.parametrize(("group", "common"), [(4, False), (8, False), (16, True), (32, True), (64, True)])
def test_a_factor_is_one_for_all_lanes(group: int, common: bool) -> None:
    elements, matrix = dequantized(group)
    assert elements.alike(matrix) == group
    numbers, factor = elements.factored(matrix, (Index.of(Lane(16)) + 16, Index.of(3)))
    assert (factor is not None) == common
    ops = list(elements.builder.entry.ops)
    loads = [op for op in ops if isinstance(op, kernel.LoadOp)]
    if common:  # numbers as they are in memory, and one scale
        assert factor is loads[1].result
        assert [op.name for op in ops if op.results[0] is numbers] == ["kernel.convert"]
        assert not any(op.name == "arith.mulf" for op in ops)
    else:
        assert [op.name for op in ops if op.results[0] is numbers] == ["arith.mulf"]


def test_what_a_schedule_has_computed_has_no_factor() -> None:
    elements, matrix = dequantized(32)
    known = elements.builder.real(1.0)
    elements.known[matrix] = lambda _: known
    assert elements.factored(matrix, (Index.of(0), Index.of(0))) == (known, None)
    assert elements.alike(matrix) == 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        # 15M and 110M stay as they were measured
        ((288, 864), VectorShape(128, 128, 2)),
        ((288, 32000), VectorShape(128, 128, 2)),
        ((768, 2304), VectorShape(256, 256, 2)),
        ((768, 4096, 2, 2), VectorShape(256, 256, 2)),
        ((4096, 4096, 2), VectorShape(256, 256, 2)),
        # bytes: a warp for two rows
        ((4096, 4096, 1), VectorShape(256, 32, 2, staged=True, in_flight=32)),
        ((4096, 22016, 1, 2), VectorShape(256, 32, 1, staged=True, in_flight=32)),
        ((11008, 4096, 1), VectorShape(256, 32, 2, staged=True)),
        ((2048, 2048, 1), VectorShape(256, 32, 2, staged=True, in_flight=32)),
        # too few columns for that
        ((2048, 768, 1), VectorShape(256, 256, 2)),
        # too short, no whole words, more than a block can keep
        ((768, 4096, 1), VectorShape(256, 256, 2)),
        ((4100, 4096, 1), VectorShape(256, 256, 2)),
        ((14336, 4096, 1), VectorShape(256, 256, 2)),
    ],
)
def test_vector_shape(arguments: Sequence[int], expected: VectorShape) -> None:
    assert vector_shape(*arguments) == expected


def test_parts_of_a_kernel_share_memory() -> None:
    # a block runs one part: what another part keeps is not there
    m = Maker(0)
    h = m.real(4096).rms_norm(m.real(4096))

    def matrix() -> hk.Tensor:
        values = hk.ConstantTensor(np.zeros((1024, 4096), np.int8))
        return hk.dequantize(values, hk.ConstantTensor(np.zeros((1024, 128), np.float32))).permute(1, 0)

    module = build_module({"main": (h @ matrix(), (h @ matrix()).relu(), (h @ matrix()) * 2)}).module
    run_pipeline(context(), module, "cuda", until="kernels")
    (function,) = (op for op in module.body.block.ops if isinstance(op, kernel.FuncOp))
    sizes = [op.memref.type.get_shape()[0] for op in function.body.walk() if isinstance(op, kernel.AllocOp)]
    assert sorted(sizes)[-1] == 4096
    assert sum(size == 4096 for size in sizes) == 1


NARROW = ((2064, "float32"), (2064, "float16"), (2064, "i8 16"), (4096, "i8 32 half"))


@pytest.mark.parametrize(
    ("shape", "n", "form"),
    # to stage a vector for f32 gains nothing, so that nobody looks at what ptxas makes of it
    [(shape, n, form) for shape in VECTOR_SHAPES for n, form in NARROW if form != "float32" or not shape.staged],
    ids=str,
)
def test_every_shape_compiles_without_spills(
    shape: VectorShape, n: int, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matmul, "vector_shape", lambda *_: shape)
    outputs = narrow(n, 50, form).outputs
    source = compile_artifact(build_module({"main": outputs}), "cuda", "sm_90").source
    for one in resources(compile_cubin(source, "sm_90", use_cache=False).log):
        assert (one.spill_stores, one.spill_loads, one.stack) == (0, 0, 0), one


@pytest.mark.parametrize(("rows", "vectors"), [(512, 4), (514, 4), (510, 1), (513, 1)])
def test_loads_of_all_vectors_of_a_thread_come_first(rows: int, vectors: int) -> None:
    x = hk.InputTensor("x", "float32", [rows, 1024])
    module = build_module({"main": x.relu() * x}).module
    run_pipeline(context(), module, "cuda", until="kernels")
    (function,) = (op for op in module.body.block.ops if isinstance(op, kernel.FuncOp))
    memory = [op for op in function.walk() if isinstance(op, kernel.LoadOp | kernel.StoreOp)]
    assert [type(op) for op in memory] == [kernel.LoadOp] * vectors + [kernel.StoreOp] * vectors
    assert function.grid.value.data * 128 * vectors * 4 == rows * 1024

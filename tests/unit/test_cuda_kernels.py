"""Kernels for CUDA, run by the numpy interpreter with all their threads: right numbers without a GPU, and no races."""

from collections.abc import Callable

import numpy as np
import pytest
from graphs import Case, Maker, assert_close, cases
from xdsl.dialects.builtin import ModuleOp
from xdsl.parser import Parser

from hamkaas.dialects import kernel
from hamkaas.frontend import build_module
from hamkaas.interpreters.kernel import KernelFault, run_kernel
from hamkaas.interpreters.program import run_program
from hamkaas.pipeline import run_pipeline
from hamkaas.universe import context


def check(case: Case, arch: str = "sm_90") -> ModuleOp:
    """Lowers a graph for CUDA, runs what that gives, and compares it with the graph; gives the kernels."""
    built = build_module({"main": case.outputs})
    module = built.module.clone()
    run_pipeline(context(), module, "cuda", arch=arch)
    results = run_program(module, case.inputs, built.weights, {})
    for result, expected in zip(results, case.expected(), strict=True):
        assert_close(result, expected, case.tolerance)
    return module


def clusters(module: ModuleOp) -> set[int]:
    """The sizes of clusters of all kernels."""
    return {op.cluster.value.data for op in module.body.block.ops if isinstance(op, kernel.FuncOp)}


@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in cases()])
def test_operation(make: Callable[[], Case]) -> None:
    check(make())


def test_attention_is_split_where_there_are_clusters() -> None:
    case = dict(cases())["attention-2x2x64x1100-float32"]()
    assert clusters(check(case)) == {1, 8}  # the 1 is the product that makes the query
    assert clusters(check(case, "sm_80")) == {1}


@pytest.mark.parametrize("seed", range(4))
def test_attention_to_special_values(seed: int) -> None:
    m = Maker(seed)
    keys, query = m.rng.standard_normal((300, 2, 64)).astype(np.float32), np.abs(m.rng.standard_normal((2, 64)))
    match seed:
        case 0:
            keys[5, 0, 3] = np.inf
        case 1:
            keys[:, 0] = np.nan
        case 2:
            keys[:, 0] = -np.inf  # all scores are: no weights add up to one
        case _:
            keys[7, 1, 2] = -np.inf  # one score is: it counts nothing
    cache = m.add(keys), m.real(300, 2, 64)
    attended = m.add(query.astype(np.float32))
    check(m.case(*(attended.attention(*cache, m.index(length)) for length in (1, 6, 300))))


# what no kernel may do


def run(body: str, *buffers: np.ndarray, block: int = 64, attributes: str = "") -> None:
    """Runs a kernel of two blocks; arguments are buffers of f32."""
    arguments = ", ".join(f"%a{number}: memref<{len(data)}xf32>" for number, data in enumerate(buffers))
    head = f"grid = 2 : i64, block = {block} : i64, inputs = 0 : i64, results = array<i64>{attributes}"
    text = f"kernel.func @f({arguments}) attributes {{{head}}} {{\n{CONSTANTS}{body}\nkernel.return\n}}"
    (func,) = Parser(context(), text).parse_module().body.block.ops
    assert isinstance(func, kernel.FuncOp)
    func.verify()
    run_kernel(func, buffers)


CONSTANTS = """
%zero = arith.constant 0 : index
%one = arith.constant 1 : index
%block = kernel.block_id
%thread = kernel.thread_id
%x = arith.constant 2.0 : f32
%s = kernel.alloc : memref<64xf32, #kernel<space shared>>
"""

OTHER = "%far = arith.constant 63 : index\n%other = arith.subi %far, %thread : index\n"
STORE = "kernel.store %x, %s[%thread] : f32, memref<64xf32, #kernel<space shared>>\n"
LOAD = "%y = kernel.load %s[%other] : memref<64xf32, #kernel<space shared>> -> f32\n"
MINE = "%m = kernel.load %s[%thread] : memref<64xf32, #kernel<space shared>> -> f32\n"
FIRST = "%c = arith.cmpi eq, %thread, %zero : index\nscf.if %c {\n"
NUMBER = "%n = arith.index_cast %thread : index to i64\n%f = arith.sitofp %n : i64 to f32\n"
GIVE = "kernel.cluster_store %x, %s[%thread] of %zero : f32, memref<64xf32, #kernel<space shared>>\n"


def test_a_barrier_orders_threads() -> None:
    run(OTHER + STORE + "kernel.barrier\n" + LOAD + "kernel.barrier\n" + STORE)
    run(OTHER + STORE + MINE)  # nobody else's


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (OTHER + STORE + LOAD, "reads shared memory that another one wrote since the last barrier"),
        (OTHER + STORE + "kernel.barrier\n" + LOAD + STORE, "writes shared memory that another one uses"),
        (
            NUMBER + "kernel.store %f, %s[%zero] : f32, memref<64xf32, #kernel<space shared>>",
            "writes shared memory that another one uses",
        ),
        (FIRST + "kernel.barrier\n}", "kernel.barrier: only some of 64 threads have come"),
        (FIRST + "%y = kernel.shuffle_xor %x, 1 : f32\n}", "kernel.shuffle_xor: only some of 32 threads have come"),
        (
            "%i = arith.addi %thread, %one : index\n" + MINE.replace("%thread", "%i"),
            "kernel.load: index outside a buffer of 64 elements",
        ),
        (
            "%v = kernel.load %a0[%one] align 16 : memref<8xf32> -> vector<4xf32>",
            "kernel.load: address that is no multiple of 16",
        ),
    ],
)
def test_faults(body: str, message: str) -> None:
    with pytest.raises(KernelFault, match=message):
        run(body, np.zeros(8, np.float32))


def test_blocks_of_a_cluster() -> None:
    cluster = ", cluster = 2 : i64"
    result = np.zeros(64, np.float32)
    give = "%b = arith.cmpi eq, %block, %one : index\nscf.if %b {\n" + GIVE + "}\n"
    show = "%t = arith.cmpi eq, %block, %zero : index\nscf.if %t {\n" + MINE
    show += "kernel.store %m, %a0[%thread] : f32, memref<64xf32>\n}\n"
    meet = "kernel.cluster_arrive\nkernel.cluster_wait\n"
    run(give + meet + show, result, attributes=cluster)
    assert result.tolist() == [2.0] * 64
    for too_little in ("", meet.replace("arrive", "arrive relaxed")):
        with pytest.raises(KernelFault, match="reads shared memory that another one wrote"):
            run(give + too_little + show, result, attributes=cluster)
    with pytest.raises(KernelFault, match=r"kernel.cluster_arrive: only some of 128 threads have come"):
        run("%b = arith.cmpi eq, %block, %one : index\nscf.if %b {\n" + meet + "}\n", attributes=cluster)

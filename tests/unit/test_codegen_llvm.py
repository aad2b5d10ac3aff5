"""Kernels in, numbers out: every operation that the LLVM printer knows is compiled, run and compared with numpy."""
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# llvmlite has no types.

import ctypes
from collections.abc import Callable, Sequence
from typing import Any, cast

import llvmlite.binding as llvm
import ml_dtypes
import numpy as np
import pytest
from xdsl.context import Context
from xdsl.dialects import arith, builtin, math, scf, vector
from xdsl.dialects.builtin import ModuleOp
from xdsl.parser import Parser

from hamkaas.codegen.llvm import print_llvm
from hamkaas.dialects import kernel
from hamkaas.errors import CompileError

Array = np.ndarray[Any, Any]
Compare = Callable[[Array, Array], Array]


def parse(text: str) -> ModuleOp:
    """The module of a text in kernel IR, verified."""
    context = Context()
    for dialect in (arith.Arith, builtin.Builtin, kernel.KERNEL, math.Math, scf.Scf, vector.Vector):
        context.load_dialect(dialect)
    module = Parser(context, text).parse_module()
    module.verify()
    return module


def func(args: str, body: str, grid: int = 1) -> str:
    """A kernel `@k` with this body."""
    return f"""
    kernel.func @k({args})
        attributes {{grid = {grid} : i64, block = 1 : i64, inputs = 0 : i64, results = array<i64>}} {{
      {body}
      kernel.return
    }}"""


def compile_kernel(text: str) -> Callable[..., None]:
    """The kernel `@k`, to be called with the range of blocks and the buffers."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    module = llvm.parse_assembly(print_llvm(parse(text)))
    module.verify()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=3, jit=True
    )
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=3))
    builder.getModulePassManager().run(module, builder)
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    prototype = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
    function = prototype(cast("int", engine.get_function_address("k")))

    def call(begin: int, end: int, *buffers: Array) -> None:
        assert engine is not None  # keeps the code alive
        function(begin, end, (ctypes.c_void_p * len(buffers))(*(buffer.ctypes.data for buffer in buffers)))

    return call


def run(args: str, body: str, *buffers: Array, grid: int = 1) -> None:
    """Compiles a kernel and runs all of its blocks."""
    compile_kernel(func(args, body, grid))(0, grid, *buffers)


def elementwise(type: str, names: Sequence[str], body: str, *inputs: Array, width: int) -> Any:
    """Runs `body`, which computes %r from the operands of these names, on `width` elements at a time."""
    size = inputs[0].size
    vector_type = type if width == 1 else f"vector<{width}x{type}>"
    args = ", ".join(f"%m{name}: memref<{size}x{type}>" for name in (*names, "r"))
    loads = "\n".join(f"%{name} = kernel.load %m{name}[%i] : memref<{size}x{type}> -> {vector_type}" for name in names)
    result = np.zeros_like(inputs[0])
    text = f"""
      %zero = arith.constant 0 : index
      %size = arith.constant {size} : index
      %step = arith.constant {width} : index
      scf.for %i = %zero to %size step %step {{
        {loads}
        {body.replace("TYPE", vector_type)}
        kernel.store %r, %mr[%i] : {vector_type}, memref<{size}x{type}>
      }}"""
    run(args, text, *inputs, result)
    return result


RNG = np.random.default_rng(0)
A, B, C = (RNG.standard_normal(48).astype(np.float32) for _ in range(3))


@pytest.mark.parametrize("width", [1, 8, 16])
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("%r = arith.addf %a, %b : TYPE", A + B),
        ("%r = arith.subf %a, %b : TYPE", A - B),
        ("%r = arith.mulf %a, %b : TYPE", A * B),
        ("%r = arith.divf %a, %b : TYPE", A / B),
        ("%r = arith.divf %a, %b fastmath<fast> : TYPE", A / B),
        ("%r = arith.negf %a : TYPE", -A),
        ("%r = arith.maximumf %a, %b : TYPE", np.maximum(A, B)),
        ("%r = arith.minimumf %a, %b : TYPE", np.minimum(A, B)),
        ("%r = arith.maxnumf %a, %b fastmath<nnan> : TYPE", np.maximum(A, B)),
        ("%r = arith.minnumf %a, %b : TYPE", np.minimum(A, B)),
        ("%r = math.fma %a, %b, %c : TYPE", A * B + C),
        ("%r = math.absf %a : TYPE", np.abs(A)),
        ("%p = arith.mulf %a, %a : TYPE\n%r = math.sqrt %p : TYPE", np.abs(A)),
        ("%p = arith.mulf %a, %a : TYPE\n%r = math.rsqrt %p : TYPE", 1 / np.abs(A)),
        ("%r = math.exp %a : TYPE", np.exp(A)),
    ],
    ids=lambda value: value.split("=")[-1].split("%")[0].strip() if isinstance(value, str) else "",
)
def test_float_operations(body: str, expected: Array, width: int) -> None:
    result = elementwise("f32", "abc", body, A, B, C, width=width)
    np.testing.assert_allclose(result, expected, rtol=1e-6, atol=1e-6)


def test_vector_fma() -> None:
    result = elementwise("f32", "abc", "%r = vector.fma %a, %b, %c : TYPE", A, B, C, width=8)
    np.testing.assert_allclose(result, A * B + C, rtol=1e-6, atol=1e-6)


M, N = RNG.integers(-50, 50, 48), RNG.integers(1, 9, 48) * RNG.choice([-1, 1], 48)
U, V = M.view(np.uint64), N.view(np.uint64)


@pytest.mark.parametrize("width", [1, 4])
@pytest.mark.parametrize(
    ("op", "expected"),
    [
        ("addi", M + N),
        ("subi", M - N),
        ("muli", M * N),
        ("divsi", np.trunc(M / N).astype(np.int64)),
        ("floordivsi", M // N),
        ("remsi", np.fmod(M, N)),
        ("divui", U // V),
        ("remui", U % V),
        ("minsi", np.minimum(M, N)),
        ("maxsi", np.maximum(M, N)),
        ("minui", np.minimum(U, V)),
        ("maxui", np.maximum(U, V)),
        ("andi", M & N),
        ("ori", M | N),
        ("xori", M ^ N),
    ],
)
def test_integer_operations(op: str, expected: Array, width: int) -> None:
    result = elementwise("i64", "ab", f"%r = arith.{op} %a, %b : TYPE", M, N, width=width)
    np.testing.assert_array_equal(result, expected.astype(np.int64))


@pytest.mark.parametrize(("op", "expected"), [("shli", M << (N & 7)), ("shrui", U >> (V & 7)), ("shrsi", M >> (N & 7))])
def test_shifts(op: str, expected: Array) -> None:
    body = f"%seven = arith.constant 7 : i64\n%s = arith.andi %b, %seven : i64\n%r = arith.{op} %a, %s : i64"
    np.testing.assert_array_equal(elementwise("i64", "ab", body, M, N, width=1), expected.astype(np.int64))


@pytest.mark.parametrize(
    ("predicate", "compare"),
    [
        ("eq", np.equal),
        ("ne", np.not_equal),
        ("slt", np.less),
        ("sle", np.less_equal),
        ("sgt", np.greater),
        ("sge", np.greater_equal),
    ],
)
def test_compare_integers(predicate: str, compare: Compare) -> None:
    body = f"%c = arith.cmpi {predicate}, %a, %b : i64\n%r = arith.select %c, %a, %b : i64"
    np.testing.assert_array_equal(elementwise("i64", "ab", body, M, N, width=1), np.where(compare(M, N), M, N))


def _unordered_less(a: Array, b: Array) -> Array:
    return np.logical_not(a >= b)


def _unordered(a: Array, b: Array) -> Array:
    return np.isnan(a) | np.isnan(b)


@pytest.mark.parametrize(
    ("predicate", "compare"),
    [
        ("oeq", np.equal),
        ("olt", np.less),
        ("ole", np.less_equal),
        ("ogt", np.greater),
        ("oge", np.greater_equal),
        ("une", np.not_equal),
        ("ult", _unordered_less),
        ("uno", _unordered),
    ],
)
def test_compare_floats(predicate: str, compare: Compare) -> None:
    a, b = np.array([1, 2, 3, np.nan, 5], np.float32), np.array([2, 2, 1, 4, np.nan], np.float32)
    body = f"""
      %yes = arith.constant 1.0 : f32
      %no = arith.constant 0.0 : f32
      %c = arith.cmpf {predicate}, %a, %b : f32
      %r = arith.select %c, %yes, %no : f32"""
    np.testing.assert_array_equal(elementwise("f32", "ab", body, a, b, width=1), compare(a, b).astype(np.float32))


def test_casts() -> None:
    """index to i64 to i32 and back, and to float and back."""
    x = np.array([-3, 7, 1 << 20], np.int64)
    body = """
      %n = arith.index_cast %a : i64 to index
      %m = arith.index_cast %n : index to i32
      %f = arith.sitofp %m : i32 to f32
      %bits = arith.bitcast %f : f32 to i32
      %same = arith.bitcast %bits : i32 to f32
      %whole = arith.fptosi %same : f32 to i32
      %w = arith.extsi %whole : i32 to i64
      %t = arith.trunci %w : i64 to i32
      %r = arith.extsi %t : i32 to i64"""
    np.testing.assert_array_equal(elementwise("i64", "a", body, x, width=1), x)


def ulps(result: Array, exact: Array) -> Array:
    """The distance between f32 results and exact ones, in units of the last place of the exact ones."""
    return np.abs(result.astype(np.float64) - exact) / np.spacing(exact.astype(np.float32)).astype(np.float64)


@pytest.mark.parametrize("width", [1, 8, 16])
def test_exp_is_accurate_everywhere(width: int) -> None:
    """Every 1009th of all f32 whose exp is a normal number, and those near the edges."""
    bits = np.arange(0, 1 << 32, 1009, dtype=np.uint64).astype(np.uint32).view(np.float32)
    edges = np.concatenate([np.linspace(low, low + 1, 9999) for low in (-88, -87.4, 88, 87.7)]).astype(np.float32)
    x = np.concatenate([bits, edges])
    x = x[(x > -87.33) & (x < 88.722)]
    x = np.resize(x, x.size // 16 * 16)
    result = elementwise("f32", "a", "%r = math.exp %a : TYPE", x, width=width)
    assert ulps(result, np.exp(x.astype(np.float64))).max() < 1.5


@pytest.mark.parametrize("width", [1, 8])
def test_exp_outside_the_normal_range(width: int) -> None:
    inf, nan = np.inf, np.nan
    x = np.array([inf, 1e30, 88.73, 89.5, 200, -inf, -1e30, -104, -1e9, nan, 0, -0.0, 88.72283, -90, -100, -103.9], "f")
    result = elementwise("f32", "a", "%r = math.exp %a : TYPE", x, width=width)
    np.testing.assert_array_equal(result[:9], np.array([inf] * 5 + [0] * 4, "f"))
    assert np.isnan(result[9])
    np.testing.assert_array_equal(result[10:12], 1)
    assert np.isfinite(result[12])
    assert ulps(result[12:13], np.exp(x[12:13].astype(np.float64)))[0] < 2
    # denormals: off by their last place at most, or flushed
    assert np.all(np.abs(result[13:] - np.exp(x[13:].astype(np.float64))) <= 1.2e-38)


@pytest.mark.parametrize("width", [1, 8])
@pytest.mark.parametrize(
    ("type", "dtype"), [("f16", np.float16), ("bf16", ml_dtypes.bfloat16), ("i8", np.int8), ("f64", np.float64)]
)
def test_convert_to_f32(type: str, dtype: Any, width: int) -> None:
    x = (RNG.standard_normal(16) * 40).astype(dtype)
    y = np.zeros(16, np.float32)
    run(f"%x: memref<16x{type}>, %y: memref<16xf32>", convert_body(type, "f32", width), x, y)
    np.testing.assert_array_equal(y, x.astype(np.float32))


def convert_body(source: str, target: str, width: int) -> str:
    """Converts 16 elements of %x into %y."""
    of, to = (type if width == 1 else f"vector<{width}x{type}>" for type in (source, target))
    return f"""
      %zero = arith.constant 0 : index
      %size = arith.constant 16 : index
      %step = arith.constant {width} : index
      scf.for %i = %zero to %size step %step {{
        %v = kernel.load %x[%i] : memref<16x{source}> -> {of}
        %w = kernel.convert %v : {of} -> {to}
        kernel.store %w, %y[%i] : {to}, memref<16x{target}>
      }}"""


# ties to even both ways, a carry into the exponent, overflow to infinity, a denormal, infinities, a NaN with low bits
ROUNDING = np.array(
    [
        *(0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF, 0x3FFFFFFF, 0x7F7FFFFF, 0x00008001, 0x7F800000, 0xFF800000),
        *(0x7F800001, 0xBF808000, 0x00000001, 0x80000000, 0x3DCCCCCD, 0x47000123, 0xC2F6E979),
    ],
    np.uint32,
).view(np.float32)


@pytest.mark.parametrize("width", [1, 8])
@pytest.mark.parametrize(("type", "dtype"), [("f16", np.float16), ("bf16", ml_dtypes.bfloat16)])
def test_convert_from_f32(type: str, dtype: Any, width: int) -> None:
    y = np.zeros(16, dtype)
    run(f"%x: memref<16xf32>, %y: memref<16x{type}>", convert_body("f32", type, width), ROUNDING, y)
    with np.errstate(over="ignore", invalid="ignore"):
        np.testing.assert_array_equal(y.astype(np.float32), ROUNDING.astype(dtype).astype(np.float32))


def test_convert_between_halves() -> None:
    x, y = RNG.standard_normal(16).astype(np.float16), np.zeros(16, ml_dtypes.bfloat16)
    run("%x: memref<16xf16>, %y: memref<16xbf16>", convert_body("f16", "bf16", 8), x, y)
    np.testing.assert_array_equal(y, x.astype(ml_dtypes.bfloat16))


@pytest.mark.parametrize(("kind", "expected"), [("add", A[:8].sum()), ("max", A[:8].max())])
def test_reduce_floats(kind: str, expected: float) -> None:
    y = np.zeros(1, np.float32)
    body = f"""
      %zero = arith.constant 0 : index
      %v = kernel.load %x[%zero] : memref<8xf32> -> vector<8xf32>
      %r = kernel.reduce {kind} %v : vector<8xf32> -> f32
      kernel.store %r, %y[%zero] : f32, memref<1xf32>"""
    run("%x: memref<8xf32>, %y: memref<1xf32>", body, A[:8], y)
    np.testing.assert_allclose(y[0], expected, rtol=1e-5)


@pytest.mark.parametrize(("kind", "expected"), [("add", M[:8].sum()), ("max", M[:8].max())])
def test_reduce_integers(kind: str, expected: int) -> None:
    y = np.zeros(1, np.int64)
    body = f"""
      %zero = arith.constant 0 : index
      %v = kernel.load %x[%zero] : memref<8xi64> -> vector<8xi64>
      %r = kernel.reduce {kind} %v : vector<8xi64> -> i64
      kernel.store %r, %y[%zero] : i64, memref<1xi64>"""
    run("%x: memref<8xi64>, %y: memref<1xi64>", body, M[:8], y)
    assert y[0] == expected


def test_vectors_from_and_to_scalars() -> None:
    """Pack, broadcast (of a value and of a constant), insert, extract, a constant with different lanes."""
    y = np.zeros(16, np.float32)
    body = """
      %zero = arith.constant 0 : index
      %two = arith.constant 2 : index
      %half = arith.constant 0.5 : f32
      %steps = arith.constant dense<[1.0, 2.0, 3.0, 4.0]> : vector<4xf32>
      %ones = arith.constant dense<1.0> : vector<4xf32>
      %a = kernel.load %x[%zero] : memref<4xf32> -> f32
      %v = kernel.load %x[%zero] : memref<4xf32> -> vector<4xf32>
      %b = vector.extract %v[1] : f32 from vector<4xf32>
      %c = vector.extract %v[%two] : f32 from vector<4xf32>
      %packed = kernel.pack %b, %a, %c, %half : vector<4xf32>
      kernel.store %packed, %y[%zero] : vector<4xf32>, memref<16xf32>
      %same = vector.broadcast %a : f32 to vector<4xf32>
      %sum = arith.addf %same, %steps : vector<4xf32>
      %i4 = arith.constant 4 : index
      kernel.store %sum, %y[%i4] : vector<4xf32>, memref<16xf32>
      %halves = vector.broadcast %half : f32 to vector<4xf32>
      %more = arith.addf %halves, %ones : vector<4xf32>
      %i8 = arith.constant 8 : index
      kernel.store %more, %y[%i8] : vector<4xf32>, memref<16xf32>
      %inserted = vector.insert %a, %v [3] : f32 into vector<4xf32>
      %i12 = arith.constant 12 : index
      kernel.store %inserted, %y[%i12] : vector<4xf32>, memref<16xf32>"""
    run("%x: memref<4xf32>, %y: memref<16xf32>", body, A[:4], y)
    a, b, c, _ = A[:4]
    np.testing.assert_allclose(y[:4], [b, a, c, 0.5])
    np.testing.assert_allclose(y[4:8], a + np.arange(1, 5, dtype=np.float32))
    np.testing.assert_allclose(y[8:12], 1.5)
    np.testing.assert_allclose(y[12:], [*A[:3], a])


def test_nested_structure() -> None:
    """A loop with carried values around a two-sided if with results around a loop; both branches are taken."""
    x, y = np.arange(10, dtype=np.float32), np.zeros(2, np.float32)
    body = """
      %zero = arith.constant 0 : index
      %one = arith.constant 1 : index
      %two = arith.constant 2 : index
      %ten = arith.constant 10 : index
      %start = arith.constant 0.0 : f32
      %even, %odd = scf.for %i = %zero to %ten step %one iter_args(%e = %start, %o = %start) -> (f32, f32) {
        %v = kernel.load %x[%i] : memref<10xf32> -> f32
        %bit = arith.remui %i, %two : index
        %is_even = arith.cmpi eq, %bit, %zero : index
        %next_e, %next_o = scf.if %is_even -> (f32, f32) {
          %s = scf.for %j = %zero to %two step %one iter_args(%t = %e) -> (f32) {
            %u = arith.addf %t, %v : f32
            scf.yield %u : f32
          }
          scf.yield %s, %o : f32, f32
        } else {
          %s = arith.addf %o, %v : f32
          scf.yield %e, %s : f32, f32
        }
        scf.yield %next_e, %next_o : f32, f32
      }
      kernel.store %even, %y[%zero] : f32, memref<2xf32>
      kernel.store %odd, %y[%one] : f32, memref<2xf32>"""
    run("%x: memref<10xf32>, %y: memref<2xf32>", body, x, y)
    np.testing.assert_array_equal(y, [40, 25])


def test_while() -> None:
    """The first power of two that is not less than the input."""
    y = np.zeros(1, np.int64)
    body = """
      %zero = arith.constant 0 : index
      %one = arith.constant 1 : i64
      %n = kernel.load %x[%zero] : memref<1xi64> -> i64
      %p = scf.while (%q = %one) : (i64) -> i64 {
        %small = arith.cmpi slt, %q, %n : i64
        scf.condition(%small) %q : i64
      } do {
      ^bb0(%q: i64):
        %double = arith.addi %q, %q : i64
        scf.yield %double : i64
      }
      kernel.store %p, %y[%zero] : i64, memref<1xi64>"""
    run("%x: memref<1xi64>, %y: memref<1xi64>", body, np.array([100]), y)
    assert y[0] == 128


def test_one_sided_if_and_status() -> None:
    """A store that happens only under a condition, twice in a row: no two blocks have the same label."""
    body = """
      %zero = arith.constant 0 : index
      %nothing = arith.constant 0 : i64
      %limit = arith.constant 5 : i64
      %code = arith.constant 3 : i64
      %v = kernel.load %x[%zero] : memref<1xi64> -> i64
      %bad = arith.cmpi sgt, %v, %limit : i64
      scf.if %bad {
        scf.if %bad {
          kernel.store %code, %status[%zero] : i64, memref<1xi64>
        }
      }
      scf.if %bad {
        kernel.store %nothing, %x[%zero] : i64, memref<1xi64>
      }"""
    kernel_ = compile_kernel(func("%x: memref<1xi64>, %status: memref<1xi64>", body))
    for value, expected in ((4, [4, 0]), (6, [0, 3])):
        x, status = np.array([value]), np.zeros(1, np.int64)
        kernel_(0, 1, x, status)
        assert [x[0], status[0]] == expected


def test_blocks_and_own_memory() -> None:
    """Each block reverses its part through its own buffer; only the blocks that are asked for run."""
    x, y = np.arange(32, dtype=np.float32), np.zeros(32, np.float32)
    body = """
      %block = kernel.block_id
      %thread = kernel.thread_id
      %shared = kernel.alloc : memref<8xf32, #kernel<space shared>>
      %eight = arith.constant 8 : index
      %seven = arith.constant 7 : index
      %one = arith.constant 1 : index
      %first = arith.muli %block, %eight : index
      scf.for %i = %thread to %eight step %one {
        %from = arith.addi %first, %i : index
        %v = kernel.load %x[%from] cache stream : memref<32xf32> -> f32
        %to = arith.subi %seven, %i : index
        kernel.store %v, %shared[%to] : f32, memref<8xf32, #kernel<space shared>>
      }
      kernel.barrier
      %zero = arith.constant 0 : index
      %all = kernel.load %shared[%zero] align 32 : memref<8xf32, #kernel<space shared>> -> vector<8xf32>
      kernel.store %all, %y[%first] : vector<8xf32>, memref<32xf32>"""
    kernel_ = compile_kernel(func("%x: memref<32xf32>, %y: memref<32xf32>", body, grid=4))
    kernel_(1, 3, x, y)
    np.testing.assert_array_equal(y.reshape(4, 8), [[0] * 8, x[8:16][::-1], x[16:24][::-1], [0] * 8])


def test_unaligned_vectors() -> None:
    """A vector access without `align` works at any multiple of the element size."""
    memory = np.arange(40, dtype=np.float32)
    body = """
      %zero = arith.constant 0 : index
      %v = kernel.load %x[%zero] : memref<16xf32> -> vector<16xf32>
      kernel.store %v, %y[%zero] : vector<16xf32>, memref<16xf32>"""
    kernel_ = compile_kernel(func("%x: memref<16xf32>, %y: memref<16xf32>", body))
    for offset in range(8):
        y = np.zeros(20, np.float32)
        kernel_(0, 1, memory[offset:], y[1:])
        np.testing.assert_array_equal(y[1:17], memory[offset : offset + 16])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "%c = arith.constant 1.0 : f32\n%y = kernel.shuffle_xor %c, 16 : f32",
            "no LLVM lowering for kernel.shuffle_xor",
        ),
        ("%c = arith.constant 1.0 : f32\n%y = math.tanh %c : f32", "no LLVM lowering for math.tanh, in kernel 'k'"),
        ("%c = arith.constant 1.0 : f64\n%y = math.exp %c : f64", "no LLVM lowering for math.exp on f64"),
        ("%c = kernel.alloc : memref<16385xf32, #kernel<space shared>>", "expected at most 65536 bytes .* got 65540"),
        ("%c = arith.constant dense<0.0> : vector<2x2xf32>", "no LLVM type for vector<2x2xf32>"),
        (
            "%z = arith.constant 0 : index\n%v = kernel.load %x[%z] : memref<4xbf16> -> bf16\n"
            "%y = arith.addf %v, %v : bf16",
            "no LLVM lowering for arith.addf on bf16",
        ),
    ],
)
def test_what_cannot_be_lowered(body: str, message: str) -> None:
    with pytest.raises(CompileError, match=message):
        print_llvm(parse(func("%x: memref<4xbf16>", body)))

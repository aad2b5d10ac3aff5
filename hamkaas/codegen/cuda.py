"""Kernel IR to CUDA C++, operation by operation.

C++ has no vector arithmetic, so an SSA vector is a tuple of scalar expressions here: a vector load is one 16-byte
access (or several) whose components are named, and arithmetic on vectors is written out. Everything that is PTX is in
small device functions that are printed when they are used, or one instruction. No header is included: NVRTC spends more
time on one than on all kernels of a model.
"""

import math
import struct
from collections.abc import Callable, Sequence
from math import prod
from typing import cast

from xdsl.dialects import arith, scf, vector
from xdsl.dialects import math as math_dialect
from xdsl.dialects.builtin import (
    BFloat16Type,
    DenseIntOrFPElementsAttr,
    Float16Type,
    Float32Type,
    FloatAttr,
    IndexType,
    IntegerAttr,
    IntegerType,
    bf16,
    f16,
    i64,
)
from xdsl.ir import Attribute, Block, Operation, SSAValue

from hamkaas.dialects import kernel
from hamkaas.errors import CompileError

MAX_SHARED_BYTES = 48 * 1024
"""Static shared memory that every block may have."""

INDEX_TYPE = "int"
"""Tensors have fewer than 2^31 elements: 32 bits are enough, and take half the registers of 64."""

_BYTES = {"f32": 4, "f16": 2, "bf16": 2, "i8": 1, "i64": 8, "i32": 4, "i1": 1}

_TYPES = {
    "f32": "float",
    # The 16-bit floats are only ever stored and converted: their bits will do, and no header is needed
    "f16": "unsigned short",
    "bf16": "unsigned short",
    "i8": "signed char",
    "i32": "int",
    "i64": "long long",
    "i1": "bool",
}

_WORDS = {4: ("unsigned", "b32", "r"), 8: ("uint2", "v2.b32", "r"), 16: ("uint4", "v4.b32", "r")}
"""For an access of so many bytes: the type that holds it, its PTX suffix and register class."""

MAX_ACCESS = 16
"""Bytes that one instruction loads or stores."""

_STREAM = """\
// Reads what is used once: not kept in L1. As .nc it would be free to drift behind a wait that it stands before
__device__ __forceinline__ {type} load_stream_{bytes}(const void* p) {{
  {type} v;
  asm volatile("ld.global.L1::no_allocate.{suffix} {registers}, [%{last}];" : {outputs} : "l"(p));
  return v;
}}
"""

_CLUSTER_STORE = """\
// Writes into the shared memory of a block of the cluster, at the place of `p` in one's own
__device__ __forceinline__ void store_cluster_{bytes}(void* p, unsigned rank, {parameters}) {{
  unsigned there;
  asm("mapa.shared::cluster.u32 %0, %1, %2;"
      : "=r"(there)
      : "r"(static_cast<unsigned>(__cvta_generic_to_shared(p))), "r"(rank));
  asm volatile("st.shared::cluster.{suffix} [%0], {registers};" ::"r"(there), {inputs} : "memory");
}}
"""

_HELPERS = {
    "maximum": """\
// The larger of two numbers; NaN if either is
__device__ __forceinline__ float maximum(float a, float b) { return a > b || a != a ? a : b; }
""",
    "byte_to_float": """\
// A byte of a word, as a signed number: put into the mantissa of 2^23, twice as fast as a conversion
__device__ __forceinline__ float byte_to_float(unsigned word, unsigned selector) {
  return __uint_as_float(__byte_perm(word ^ 0x80808080u, 0x4B000000u, selector)) - 8388736.0f;
}
""",
    "f16_to_float": """\
__device__ __forceinline__ float f16_to_float(unsigned short x) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
  return y;
}
""",
    "float_to_f16": """\
__device__ __forceinline__ unsigned short float_to_f16(float x) {
  unsigned short y;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x));
  return y;
}
""",
    "bf16_to_float": """\
__device__ __forceinline__ float bf16_to_float(unsigned short x) { return __uint_as_float(unsigned(x) << 16); }
""",
    "float_to_bf16": """\
__device__ __forceinline__ unsigned short float_to_bf16(float x) {
  unsigned short y;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y) : "f"(x));
  return y;
}
""",
}
"""Device functions that are printed if they are used."""

_INTEGER: dict[type[Operation], str] = {
    arith.AddiOp: "+",
    arith.SubiOp: "-",
    arith.MuliOp: "*",
    arith.DivUIOp: "/",
    arith.DivSIOp: "/",
    arith.RemUIOp: "%",
    arith.RemSIOp: "%",
    arith.AndIOp: "&",
    arith.OrIOp: "|",
    arith.XOrIOp: "^",
    arith.ShLIOp: "<<",
}
"""Operators; unsigned division is only applied to numbers that are not negative."""

_FLOAT: dict[type[Operation], str] = {
    arith.AddfOp: "+",
    arith.SubfOp: "-",
    arith.MulfOp: "*",
    arith.DivfOp: "/",
}

_FUNCTIONS: dict[type[Operation], str] = {
    arith.MaxnumfOp: "fmaxf",
    arith.MinnumfOp: "fminf",
    arith.MaximumfOp: "maximum",
    arith.MaxSIOp: "max",
    arith.MinSIOp: "min",
    math_dialect.ExpOp: "expf",
    math_dialect.Exp2Op: "exp2f",
    math_dialect.SqrtOp: "sqrtf",
    math_dialect.RsqrtOp: "rsqrtf",
    math_dialect.AbsFOp: "fabsf",
    math_dialect.FmaOp: "fmaf",
}

_WIDEN: dict[Attribute, str] = {f16: "f16_to_float", bf16: "bf16_to_float"}
_NARROW: dict[Attribute, str] = {f16: "float_to_f16", bf16: "float_to_bf16"}

_INTEGER_COMPARISONS = ("==", "!=", "<", "<=", ">", ">=", "<", "<=", ">", ">=")
"""By number of the predicate: eq ne slt sle sgt sge ult ule ugt uge; the unsigned ones on numbers >= 0 only."""

_FLOAT_COMPARISONS = {1: "==", 2: ">", 3: ">=", 4: "<", 5: "<=", 13: "!="}
"""Predicates that are C++ operators: oeq ogt oge olt ole une."""


def buffer_bytes(op: kernel.AllocOp) -> int:
    """Bytes of a buffer in shared memory."""
    return prod(op.memref.type.get_shape()) * _BYTES[str(op.memref.type.element_type)]


def shared_bytes(func: kernel.FuncOp) -> int:
    """Bytes of shared memory of a block."""
    return sum(buffer_bytes(op) for op in func.body.walk() if isinstance(op, kernel.AllocOp))


class KernelPrinter:
    """One kernel. `names` gives for each SSA value its C++ expressions, one per vector lane.

    What depends on who launches it (numbers, barriers, waits and shared memory) is in methods of its own.
    """

    block_id = "static_cast<int>(blockIdx.x)"
    thread_id = "static_cast<int>(threadIdx.x)"

    def __init__(self, func: kernel.FuncOp, helpers: dict[str, str]):
        self.func = func
        self.helpers = helpers
        self.names: dict[SSAValue, tuple[str, ...]] = {}
        self.taken: set[str] = set()
        self.lines: list[str] = []
        self.bytes_in: dict[SSAValue, list[tuple[str, int]]] = {}
        """For vectors of i8: the word and the place in it of each lane."""
        self.indent = 1
        constant = func.constants
        self.changing = {arg for arg in func.body.block.args if constant is not None and arg.index not in constant}
        """Arguments that launches may still be writing when this one starts."""

    def text(self) -> str:
        """The kernel's definition."""
        if (size := shared_bytes(self.func)) > MAX_SHARED_BYTES:
            name = self.func.sym_name.data
            raise CompileError(f"kernel {name}: expected at most {MAX_SHARED_BYTES} bytes of shared memory, got {size}")
        # what is const and restrict may be read at any time: before the launches that write it have ended, and weights
        # only after the wait that their loads stand before
        args: list[str] = []
        for arg, type in self.pointers():
            restrict = "" if type.startswith("const") and self.func.constants is not None else "__restrict__ "
            args.append(f"{type} {restrict}{self.name(arg)}")
        self.block(self.func.body.block)
        block, grid, cluster = (one.value.data for one in (self.func.block, self.func.grid, self.func.cluster))
        together = f", {cluster} blocks together" if cluster > 1 else ""
        dimensions = f"__cluster_dims__({cluster}, 1, 1) " if cluster > 1 else ""
        bounds = f"{block}, {resident}" if (resident := self.func.min_blocks.value.data) else f"{block}"
        head = [
            f"// {self.func.label.data or 'kernel'}: {grid} blocks of {block} threads{together}",
            f'extern "C" __global__ void {dimensions}__launch_bounds__({bounds}) {self.func.sym_name.data}(',
            ",\n".join(f"    {arg}" for arg in args) + ") {",
        ]
        return "\n".join([*head, *self.lines, "}\n"])

    def pointers(self) -> list[tuple[SSAValue, str]]:
        """The arguments with their C++ types: pointers to what is const, if no thread of the kernel writes it."""
        stored = {op.memref for op in self.func.body.walk() if isinstance(op, kernel.StoreOp)}
        found: list[tuple[SSAValue, str]] = []
        for arg in self.func.body.block.args:
            assert kernel.is_memref(arg.type)
            found.append((arg, f"{'' if arg in stored else 'const '}{self.type(arg.type.element_type)}*"))
        return found

    # names and types

    def type(self, type: Attribute) -> str:
        """The C++ type of a scalar."""
        if isinstance(type, IndexType):
            return INDEX_TYPE
        return _TYPES[str(type)]

    def helper(self, name: str) -> str:
        """The name of a device function, which is printed before the kernels."""
        self.helpers[name] = _HELPERS[name]
        return name

    def name(self, value: SSAValue, suffix: str = "") -> str:
        """A new variable for a value, called after its hint."""
        hint = value.name_hint or ("p" if kernel.is_memref(value.type) else "v")
        base = "".join(c if c.isalnum() and c.isascii() else "_" for c in hint) + suffix
        base = base if not base[0].isdigit() and base not in _RESERVED else f"v{base}"
        name, number = base, 0
        while name in self.taken:
            number += 1
            name = f"{base}_{number}"
        self.taken.add(name)
        if not suffix:
            self.names[value] = (name,)
        return name

    def get(self, value: SSAValue) -> str:
        """The expression of a scalar."""
        (name,) = self.names[value]
        return name

    def lanes(self, value: SSAValue, count: int) -> tuple[str, ...]:
        """The expressions of a vector's lanes."""
        names = self.names[value]
        return names if len(names) == count else names * count

    def line(self, text: str) -> None:
        """Writes one line."""
        self.lines.append("  " * self.indent + text)

    def define(self, value: SSAValue, texts: Sequence[str]) -> None:
        """Writes variables for a value: one, or one per lane."""
        type = self.type(kernel.element_type(value.type))
        if len(texts) == 1 and not kernel.is_vector(value.type):
            self.line(f"const {type} {self.name(value)} = {texts[0]};")
            return
        names = tuple(self.name(value, f"_{lane}") for lane in range(len(texts)))
        self.names[value] = names
        self.line(f"const {type} " + ", ".join(f"{n} = {t}" for n, t in zip(names, texts, strict=True)) + ";")

    # structure

    def block(self, block: Block) -> None:
        """All operations of a block but the terminator, which its parent handles."""
        for op in block.ops:
            if not isinstance(op, scf.YieldOp | kernel.ReturnOp):
                self.op(op)

    def op(self, op: Operation) -> None:
        """Writes one operation."""
        match op:
            case arith.ConstantOp():
                self.constant(op)
            case scf.ForOp():
                self.loop(op)
            case scf.IfOp():
                self.branch(op)
            case kernel.AllocOp():
                self.alloc(op)
            case kernel.LoadOp():
                self.load(op)
            case kernel.StoreOp():
                self.store(op)
            case kernel.BarrierOp():
                self.barrier()
            case kernel.ClusterArriveOp():
                order = "release" if op.relaxed is None else "relaxed"
                self.line(f'asm volatile("barrier.cluster.arrive.{order};" ::: "memory");')
            case kernel.ClusterWaitOp():
                self.line('asm volatile("barrier.cluster.wait.acquire;" ::: "memory");')
            case kernel.ClusterStoreOp():
                self.cluster_store(op)
            case kernel.LaunchDependentsOp():
                self.launch_dependents()
            case kernel.WaitDependencyOp():
                self.wait_dependency()
            case vector.BroadcastOp():
                self.names[op.vector] = self.names[op.source] * _width(op.vector)
            case vector.ExtractOp():
                (lane,) = op.static_position.get_values()
                self.names[op.result] = (self.names[op.vector][int(lane)],)
            case kernel.PackOp():
                self.names[op.result] = tuple(self.get(element) for element in op.elements)
            case _:
                self.define(op.results[0], self.expression(op))

    def expression(self, op: Operation) -> list[str]:
        """The value of an operation without side effects, one expression per lane."""
        if not op.results:
            raise CompileError(f"no CUDA form for {op.name}")
        width = _width(op.results[0])
        operands = [self.lanes(operand, width) for operand in op.operands]
        kind = type(op)
        if (power := _power_of_two(op)) is not None:
            # of int, which the compiler does not know to be positive, a division takes four instructions
            text = f">> {power}" if kind is arith.DivUIOp else f"& {(1 << power) - 1}"
            return [f"{operands[0][0]} {text}"]
        if (operator := _INTEGER.get(kind) or _FLOAT.get(kind)) is not None:
            return [f"{a} {operator} {b}" for a, b in zip(*operands, strict=True)]
        if (function := _FUNCTIONS.get(kind)) is not None:
            if function in _HELPERS:
                self.helper(function)
            return [f"{function}({', '.join(args)})" for args in zip(*operands, strict=True)]
        if (simple := _EXPRESSIONS.get(kind)) is None:
            raise CompileError(f"no CUDA form for {op.name}")
        return simple(self, op, operands)

    def constant(self, op: arith.ConstantOp) -> None:
        """Constants are written where they are used."""
        value = op.value
        if isinstance(value, DenseIntOrFPElementsAttr):
            self.names[op.result] = tuple(_float_text(float(v)) for v in cast("tuple[float, ...]", value.get_values()))
        elif isinstance(value, FloatAttr):
            self.names[op.result] = (_float_text(value.value.data),)
        elif isinstance(value, IntegerAttr):
            suffix = "ll" if op.result.type == i64 else ""
            self.names[op.result] = (f"{value.value.data}{suffix}",)
        else:
            raise CompileError(f"no CUDA form for the constant {value}")

    def carry(self, values: Sequence[SSAValue], start: Sequence[SSAValue] | None, inside: Sequence[SSAValue]) -> None:
        """Declares variables for what a loop or branch gives; `inside` are other names of the same variables."""
        for number, value in enumerate(values):
            width = _width(value)
            hinted = inside[number] if inside else value
            type = self.type(kernel.element_type(value.type))
            names = tuple(self.name(hinted, f"_{lane}" if width > 1 else "") for lane in range(width))
            self.names[value] = names
            if inside:
                self.names[inside[number]] = names
            if start is None:
                self.line(f"{type} {', '.join(names)};")
            else:
                first = self.lanes(start[number], width)
                pairs = ", ".join(f"{n} = {f}" for n, f in zip(names, first, strict=True))
                self.line(f"{type} {pairs};")

    def assign(self, targets: Sequence[SSAValue], values: Sequence[SSAValue]) -> None:
        """Gives loop variables their next values, all at once: what is still to be read is saved first."""
        pairs = [
            (target, value)
            for t, v in zip(targets, values, strict=True)
            for target, value in zip(self.names[t], self.lanes(v, _width(t)), strict=True)
            if target != value
        ]
        written = {target for target, _ in pairs}
        saved: dict[str, str] = {}
        for number, (target, value) in enumerate(pairs):
            if value in written and value not in {t for t, _ in pairs[number:]} | {target}:
                saved[value] = f"{value}_old"
        for value, name in saved.items():
            self.line(f"const auto {name} = {value};")
        for target, value in pairs:
            self.line(f"{target} = {saved.get(value, value)};")

    def loop(self, op: scf.ForOp) -> None:
        """A for loop; carried values are variables that the body assigns at its end."""
        counter, *carried = op.body.block.args
        self.carry(op.res, op.iter_args, carried)
        if "unroll" in op.attributes:
            self.line("#pragma unroll")
        i = self.name(counter)
        low, high, step = self.get(op.lb), self.get(op.ub), self.get(op.step)
        advance = f"++{i}" if step == "1" else f"{i} += {step}"
        self.line(f"for ({self.type(counter.type)} {i} = {low}; {i} < {high}; {advance}) {{")
        self.indent += 1
        self.block(op.body.block)
        self.assign(op.res, op.body.block.last_op.operands if op.body.block.last_op else [])
        self.indent -= 1
        self.line("}")

    def branch(self, op: scf.IfOp) -> None:
        """An if; its results are variables that both sides assign."""
        self.carry(op.output, None, [])
        self.line(f"if ({self.get(op.cond)}) {{")
        for number, region in enumerate((op.true_region, op.false_region)):
            if not region.blocks or (number and isinstance(region.block.first_op, scf.YieldOp) and not op.output):
                continue
            if number:
                self.line("} else {")
            self.indent += 1
            self.block(region.block)
            self.assign(op.output, region.block.last_op.operands if region.block.last_op else [])
            self.indent -= 1
        self.line("}")

    # other threads

    def barrier(self) -> None:
        """Waits for the threads of the block."""
        self.line("__syncthreads();")

    def launch_dependents(self) -> None:
        """Lets the next launch start."""
        self.line('asm volatile("griddepcontrol.launch_dependents;");')

    def wait_dependency(self) -> None:
        """Waits for the launches before this one."""
        self.line('asm volatile("griddepcontrol.wait;" ::: "memory");')

    # memory

    def alloc(self, op: kernel.AllocOp) -> None:
        """Shared memory, aligned for 16-byte accesses."""
        op.memref.name_hint = op.memref.name_hint or "shared"
        type = self.type(op.memref.type.element_type)
        size = prod(op.memref.type.get_shape())
        self.line(f"__shared__ __align__(16) {type} {self.name(op.memref)}[{size}];")

    def load(self, op: kernel.LoadOp) -> None:
        """A scalar, wide accesses whose lanes are named, or several scalars where the alignment is not known."""
        element, width = kernel.element_type(op.memref.type), _width(op.result)
        size = width * _BYTES[str(element)]
        base, index = self.get(op.memref), self.get(op.index)
        aligned = _is_wide(op.align, size) and size <= 4 * width  # a word has no part of an i64
        streams = op.cache is not None and (aligned or (width == 1 and size == 4)) and op.memref not in self.changing
        if width == 1 and not streams:
            self.define(op.result, [f"{base}[{index}]"])
        elif not aligned and not streams:
            self.define(op.result, [f"{base}[{index} + {lane}]" for lane in range(width)])
        elif isinstance(element, Float32Type) and width == 1:
            self.define(op.result, [f"__uint_as_float({self.stream(size)}(&{base}[{index}]))"])
        else:
            self.wide_load(op, element, size, streams)

    def wide_load(self, op: kernel.LoadOp, element: Attribute, size: int, streams: bool) -> None:
        """Accesses of 4, 8 or 16 bytes into variables, whose components are the lanes."""
        width = _width(op.result)
        bits = 8 * size // width
        words: list[str] = []
        for address in self.addresses(op.memref, op.index, size, bits // 8):
            piece = min(size, MAX_ACCESS)
            word = _WORDS[piece][0]
            raw = self.name(op.result, "_raw")
            loaded = f"{self.stream(piece)}({address})" if streams else f"*reinterpret_cast<const {word}*>({address})"
            self.line(f"const {word} {raw} = {loaded};")
            words += [raw] if piece == 4 else [f"{raw}.{part}" for part in "xyzw"[: piece // 4]]
        if isinstance(element, Float32Type):
            lanes = [f"__uint_as_float({word})" for word in words]
        else:
            per_word = 32 // bits
            lanes = [
                f"static_cast<{self.type(element)}>({words[lane // per_word]} >> {lane % per_word * bits})"
                for lane in range(width)
            ]
            if bits == 8:
                self.bytes_in[op.result] = [(words[lane // 4], lane % 4) for lane in range(width)]
        self.define(op.result, lanes)

    def addresses(self, memref: SSAValue, index: SSAValue, size: int, element: int) -> list[str]:
        """Where the accesses start that take `size` bytes from an index on; an element has `element` bytes."""
        base, first = self.get(memref), self.get(index)
        steps = range(0, size // element, MAX_ACCESS // element)
        return [f"&{base}[{first} + {step}]" if step else f"&{base}[{first}]" for step in steps]

    def stream(self, size: int) -> str:
        """The helper that reads so many bytes past L1."""
        type, suffix, register = _WORDS[size]
        parts = ["v"] if size == 4 else [f"v.{'xyzw'[i]}" for i in range(size // 4)]
        registers = ", ".join(f"%{i}" for i in range(len(parts)))
        self.helpers[f"stream{size}"] = _STREAM.format(
            type=type,
            bytes=size,
            suffix=suffix,
            registers=registers if size == 4 else f"{{{registers}}}",
            last=len(parts),
            outputs=", ".join(f'"={register}"({part})' for part in parts),
        )
        return f"load_stream_{size}"

    def store(self, op: kernel.StoreOp) -> None:
        """A scalar, wide accesses, or several scalars where the alignment is not known."""
        element, width = kernel.element_type(op.memref.type), _width(op.value)
        base, index = self.get(op.memref), self.get(op.index)
        values = self.lanes(op.value, width)
        size = width * _BYTES[str(element)]
        aligned = width > 1 and _is_wide(op.align, size)
        if aligned and isinstance(element, Float32Type):
            for number, address in enumerate(self.addresses(op.memref, op.index, size, 4)):
                some = values[4 * number : 4 * number + 4]
                self._store_words(f"float{len(some)}", address, some)
            return
        if aligned and isinstance(element, Float16Type | BFloat16Type) and width in (2, 4, 8):
            pairs = [
                f"{low} | static_cast<unsigned>({high}) << 16"
                for low, high in zip(values[::2], values[1::2], strict=True)
            ]
            self._store_words("unsigned" if width == 2 else f"uint{width // 2}", f"&{base}[{index}]", pairs)
            return
        for lane, value in enumerate(values):
            offset = f"{index} + {lane}" if lane else index
            self.line(f"{base}[{offset}] = {value};")

    def _store_words(self, word: str, address: str, values: Sequence[str]) -> None:
        """One access of a vector type."""
        made = values[0] if len(values) == 1 else f"make_{word}({', '.join(values)})"
        self.line(f"*reinterpret_cast<{word}*>({address}) = {made};")

    def cluster_store(self, op: kernel.ClusterStoreOp) -> None:
        """Calls of a helper for 4, 8 or 16 bytes each."""
        width = _width(op.value)
        if not isinstance(kernel.element_type(op.memref.type), Float32Type):
            raise CompileError(f"no CUDA form for {op.name} of {op.value.type}")
        values = self.lanes(op.value, width)
        wide = _is_wide(op.align, 4 * width)
        step = min(width, MAX_ACCESS // 4) if wide else 1
        base, index, rank = self.get(op.memref), self.get(op.index), self.get(op.rank)
        for first in range(0, width, step):
            place = f"&{base}[{index} + {first}]" if first else f"&{base}[{index}]"
            some = values[first : first + step]
            self.line(f"{self.cluster_helper(len(some))}({place}, {rank}, {', '.join(some)});")

    def cluster_helper(self, count: int) -> str:
        """The helper that writes so many f32 into another block's memory."""
        names = "abcd"[:count]
        registers = ", ".join(f"%{number + 1}" for number in range(count))
        self.helpers[f"cluster{count}"] = _CLUSTER_STORE.format(
            bytes=4 * count,
            parameters=", ".join(f"float {name}" for name in names),
            suffix=f"v{count}.f32" if count > 1 else "f32",
            registers=f"{{{registers}}}" if count > 1 else registers,
            inputs=", ".join(f'"f"({name})' for name in names),
        )
        return f"store_cluster_{4 * count}"


def _is_wide(align: IntegerAttr | None, size: int) -> bool:
    """Whether accesses of as many bytes as possible take `size` bytes at this alignment."""
    piece = min(size, MAX_ACCESS)
    return align is not None and align.value.data >= piece and piece in _WORDS and size % piece == 0


_RESERVED = frozenset(
    "auto bool break case char class const continue default delete do double else enum float for half if inline int "
    "long max min new operator out_of_range return short signed static struct switch template this union unsigned "
    "void volatile while maximum".split()
)


def _power_of_two(op: Operation) -> int | None:
    """p, if an operation is the quotient or remainder of a number that is not negative and 2 to the p."""
    if not isinstance(op, arith.DivUIOp | arith.RemUIOp) or not isinstance(op.rhs.owner, arith.ConstantOp):
        return None
    value = op.rhs.owner.value
    number = value.value.data if isinstance(value, IntegerAttr) else 0
    return number.bit_length() - 1 if number > 0 and number & (number - 1) == 0 else None


def _width(value: SSAValue) -> int:
    return value.type.get_shape()[0] if kernel.is_vector(value.type) else 1


def _float_text(value: float) -> str:
    """An f32 constant, exact: the shortest decimal that reads back as the same number."""
    if math.isnan(value):
        return "__int_as_float(0x7fc00000)"
    if math.isinf(value):
        return "__int_as_float(0x7f800000)" if value > 0 else "__int_as_float(0xff800000)"
    rounded = struct.unpack("f", struct.pack("f", value))[0]
    text = next(
        t for digits in range(1, 10) if struct.pack("f", float(t := f"{rounded:.{digits}g}")) == struct.pack("f", value)
    )
    return f"{text}f" if any(c in text for c in ".e") else f"{text}.0f"


Expression = Callable[[KernelPrinter, Operation, list[tuple[str, ...]]], list[str]]


def _convert(printer: KernelPrinter, op: Operation, operands: list[tuple[str, ...]]) -> list[str]:
    assert isinstance(op, kernel.ConvertOp)
    source, target = kernel.element_type(op.input.type), kernel.element_type(op.result.type)
    widen, narrow = _WIDEN.get(source), _NARROW.get(target)
    values = list(operands[0])
    if (places := printer.bytes_in.get(op.input)) is not None:
        values = [f"{printer.helper('byte_to_float')}({word}, {0x7540 | place:#x})" for word, place in places]
    elif isinstance(source, IntegerType):
        values = [f"static_cast<float>({x})" for x in values]
    if widen is not None:
        values = [f"{printer.helper(widen)}({x})" for x in values]
    if narrow is not None:
        values = [f"{printer.helper(narrow)}({x})" for x in values]
    return values


def _reduce(printer: KernelPrinter, op: Operation, operands: list[tuple[str, ...]]) -> list[str]:
    assert isinstance(op, kernel.ReduceOp)
    parts: list[str] = list(printer.names[op.value])
    if op.combine.data is kernel.Combine.ADD:
        # two chains: neither waits for the other
        half = -(-len(parts) // 2)
        chains = [" + ".join(chain) for chain in (parts[:half], parts[half:]) if chain]
        return [" + ".join(f"({chain})" if " " in chain else chain for chain in chains)]
    while len(parts) > 1:  # as a tree: neighbours first
        pairs = [parts[i : i + 2] for i in range(0, len(parts), 2)]
        parts = [f"fmaxf({', '.join(pair)})" if len(pair) == 2 else pair[0] for pair in pairs]
    return parts


def _dot(printer: KernelPrinter, op: Operation, operands: list[tuple[str, ...]]) -> list[str]:
    assert isinstance(op, kernel.DotOp)
    pairs = list(zip(printer.names[op.lhs], printer.names[op.rhs], strict=True))
    half = -(-len(pairs) // 2)  # two chains: neither waits for the other
    chains: list[str] = []
    for (x, y), *rest in (chain for chain in (pairs[:half], pairs[half:]) if chain):
        text = f"{x} * {y}"
        for a, b in rest:
            text = f"fmaf({a}, {b}, {text})"
        chains.append(text)
    return [" + ".join(chains)]


def _compare_floats(printer: KernelPrinter, op: Operation, operands: list[tuple[str, ...]]) -> list[str]:
    assert isinstance(op, arith.CmpfOp)
    (a,), (b,) = operands
    predicate = op.predicate.value.data
    if predicate not in _FLOAT_COMPARISONS:
        raise CompileError(f"no CUDA form for predicate {predicate} of {op.name}")
    return [f"{a} {_FLOAT_COMPARISONS[predicate]} {b}"]


def _compare_integers(printer: KernelPrinter, op: Operation, operands: list[tuple[str, ...]]) -> list[str]:
    assert isinstance(op, arith.CmpiOp)
    (a,), (b,) = operands
    return [f"{a} {_INTEGER_COMPARISONS[op.predicate.value.data]} {b}"]


def _cast(printer: KernelPrinter, op: Operation, operands: list[tuple[str, ...]]) -> list[str]:
    return [f"static_cast<{printer.type(op.results[0].type)}>({operands[0][0]})"]


def _bitcast(printer: KernelPrinter, op: Operation, operands: list[tuple[str, ...]]) -> list[str]:
    function = "__int_as_float" if isinstance(op.results[0].type, Float32Type) else "__float_as_int"
    return [f"{function}({operands[0][0]})"]


_EXPRESSIONS: dict[type[Operation], Expression] = {
    kernel.BlockIdOp: lambda p, op, _: [p.block_id],
    kernel.ThreadIdOp: lambda p, op, _: [p.thread_id],
    kernel.ShuffleXorOp: lambda p, op, x: [f"__shfl_xor_sync(0xffffffffu, {a}, {_mask(op)})" for a in x[0]],
    kernel.ConvertOp: _convert,
    kernel.ReduceOp: _reduce,
    kernel.DotOp: _dot,
    arith.CmpfOp: _compare_floats,
    arith.CmpiOp: _compare_integers,
    arith.SelectOp: lambda p, op, x: [f"{p.get(op.operands[0])} ? {a} : {b}" for a, b in zip(x[1], x[2], strict=True)],
    arith.NegfOp: lambda p, op, x: [f"-{a}" for a in x[0]],
    arith.IndexCastOp: _cast,
    arith.TruncIOp: _cast,
    arith.ExtUIOp: _cast,
    arith.ExtSIOp: _cast,
    arith.SIToFPOp: _cast,
    arith.FPToSIOp: _cast,
    arith.BitcastOp: _bitcast,
}
"""Operations that need more than an operator or a function."""


def _mask(op: Operation) -> int:
    assert isinstance(op, kernel.ShuffleXorOp)
    return op.mask.value.data

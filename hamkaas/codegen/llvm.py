"""Prints kernels as LLVM IR: one `kernel.func` becomes one function that does a range of blocks.

The walk mirrors the structure of the IR: one operation, one method, a few lines of text; constants become operands.
A kernel `@k0` becomes two functions:

    define internal void @k0.body(i64 %block, ptr noalias ... %a, ...)     what the kernel says
    define void @k0(i64 %begin, i64 %end, ptr %args)                       what the runtime calls

The outer one reads the pointers of `%args` and does the blocks in [begin, end). The inner one exists for what its
parameters promise: pointers that are loaded from an array may overlap for all that LLVM knows, whereas a buffer that
a kernel writes never overlaps another one of its arguments.
"""

import struct
from collections.abc import Sequence
from functools import lru_cache, singledispatchmethod

from xdsl.dialects import arith, math, scf, vector
from xdsl.dialects.builtin import (
    BFloat16Type,
    DenseIntOrFPElementsAttr,
    FixedBitwidthType,
    Float16Type,
    Float32Type,
    Float64Type,
    FloatAttr,
    IndexType,
    IntegerAttr,
    IntegerType,
    MemRefType,
    ModuleOp,
    VectorType,
    f32,
)
from xdsl.ir import Attribute, Block, Operation, SSAValue

from hamkaas.dialects import kernel
from hamkaas.dialects.kernel import element_type, is_memref, is_vector
from hamkaas.errors import CompileError

SHARED_ALIGNMENT = 64
"""Bytes: where a buffer of `kernel.alloc` starts, a cache line."""

MAX_SHARED_BYTES = 64 * 1024
"""What one kernel may take of its worker's stack."""

_FLOAT_BINARY: dict[type[Operation], str] = {
    # No contraction: where a multiplication and an addition are to be one fma, the kernel says so (math.fma)
    arith.AddfOp: "fadd",
    arith.SubfOp: "fsub",
    arith.MulfOp: "fmul",
    arith.DivfOp: "fdiv",
}

_INTEGER_BINARY: dict[type[Operation], str] = {
    arith.AddiOp: "add",
    arith.SubiOp: "sub",
    arith.MuliOp: "mul",
    arith.DivUIOp: "udiv",
    arith.DivSIOp: "sdiv",
    arith.RemUIOp: "urem",
    arith.RemSIOp: "srem",
    arith.AndIOp: "and",
    arith.OrIOp: "or",
    arith.XOrIOp: "xor",
    arith.ShLIOp: "shl",
    arith.ShRUIOp: "lshr",
    arith.ShRSIOp: "ashr",
}

_INTRINSICS: dict[type[Operation], str] = {
    arith.MaximumfOp: "maximum",
    arith.MinimumfOp: "minimum",
    arith.MaxnumfOp: "maxnum",
    arith.MinnumfOp: "minnum",
    arith.MaxSIOp: "smax",
    arith.MinSIOp: "smin",
    arith.MaxUIOp: "umax",
    arith.MinUIOp: "umin",
    math.SqrtOp: "sqrt",
    math.AbsFOp: "fabs",
    # fmuladd and not fma: a host without the instruction then multiplies and adds, instead of calling libm per lane.
    math.FmaOp: "fmuladd",
    vector.FMAOp: "fmuladd",
}

_CASTS: dict[type[Operation], str] = {
    arith.ExtSIOp: "sext",
    arith.ExtUIOp: "zext",
    arith.TruncIOp: "trunc",
    arith.SIToFPOp: "sitofp",
    arith.FPToSIOp: "fptosi",
}

_INTEGER_PREDICATES = ("eq", "ne", "slt", "sle", "sgt", "sge", "ult", "ule", "ugt", "uge")
_FLOAT_PREDICATES = (
    *("false", "oeq", "ogt", "oge", "olt", "ole", "one", "ord"),
    *("ueq", "ugt", "uge", "ult", "ule", "une", "uno", "true"),
)


@lru_cache(maxsize=1024)
def _type(type: Attribute) -> str:
    """The LLVM type. bf16 is kept as its bits: what is done to it are loads, stores and conversions."""
    match type:
        case IndexType():
            return "i64"
        case IntegerType():
            return f"i{type.width.data}"
        case BFloat16Type():
            return "i16"
        case Float16Type():
            return "half"
        case Float32Type():
            return "float"
        case Float64Type():
            return "double"
        case MemRefType():
            return "ptr"
        case VectorType() if len(type.get_shape()) == 1:
            return f"<{type.get_shape()[0]} x {_type(type.element_type)}>"
        case _:
            raise CompileError(f"no LLVM type for {type}")


def _buffer(type: Attribute) -> tuple[int, Attribute]:
    """Number and type of the elements of a buffer."""
    assert is_memref(type)
    return type.get_shape()[0], type.element_type


def _lanes(type: Attribute) -> int | None:
    return type.get_shape()[0] if is_vector(type) else None


def _widened(element: str, lanes: int | None) -> str:
    return element if lanes is None else f"<{lanes} x {element}>"


def _splat(constant: str, element: str, lanes: int | None) -> str:
    return constant if lanes is None else f"splat ({element} {constant})"


def _suffix(type: str) -> str:
    """How the name of an intrinsic spells a type: `<8 x float>` is v8f32."""
    if type.startswith("<"):
        lanes, element = type[1:-1].split(" x ")
        return f"v{lanes}{_suffix(element)}"
    return {"half": "f16", "float": "f32", "double": "f64"}.get(type, type)


def _size(type: Attribute) -> int:
    """Bytes of one element in memory."""
    if isinstance(type, IndexType):
        return 8
    assert isinstance(type, FixedBitwidthType)
    return type.size


def _fastmath(op: Operation) -> str:
    """The permissions of the fastmath attribute of `op`, as LLVM writes them after the name of an instruction."""
    fastmath = op.properties.get("fastmath")
    return "".join(f" {flag.value}" for flag in fastmath.data) if isinstance(fastmath, arith.FastMathFlagsAttr) else ""


def _literal(value: float, type: Attribute) -> str:
    """A number as an LLVM constant. LLVM writes a float as the bits of the double that is equal to it."""
    match type:
        case IntegerType() | IndexType():
            return str(int(value))
        case Float32Type() | Float64Type():
            return f"0x{struct.pack('>d', value).hex().upper()}"
        case Float16Type():
            return f"0xH{struct.pack('>e', value).hex().upper()}"
        case _:
            raise CompileError(f"no LLVM constant of {type}")


# exp(x) = 2^n exp(r) with x = n ln(2) + r. Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits, which,
# unlike fptosi, is defined for NaN too. 2^n is multiplied in two halves, so that each is a normal number even where the
# result is infinite or denormal. The coefficients are those of Cephes' expf; the largest error is 1 ulp.
_EXP = """\
define internal {T} @{name}({T} %x) alwaysinline nounwind {{
  %is.low = fcmp olt {T} %x, {low}
  %x.low = select {I1} %is.low, {T} {low}, {T} %x
  %is.high = fcmp ogt {T} %x.low, {high}
  %x.in = select {I1} %is.high, {T} {high}, {T} %x.low
  %shifted = call {T} @llvm.fmuladd.{S}({T} %x.in, {T} {log2e}, {T} {magic})
  %n = fsub {T} %shifted, {magic}
  %r.0 = call {T} @llvm.fmuladd.{S}({T} %n, {T} {minus_ln2_high}, {T} %x.in)
  %r = call {T} @llvm.fmuladd.{S}({T} %n, {T} {minus_ln2_low}, {T} %r.0)
  %p.0 = call {T} @llvm.fmuladd.{S}({T} {c0}, {T} %r, {T} {c1})
  %p.1 = call {T} @llvm.fmuladd.{S}({T} %p.0, {T} %r, {T} {c2})
  %p.2 = call {T} @llvm.fmuladd.{S}({T} %p.1, {T} %r, {T} {c3})
  %p.3 = call {T} @llvm.fmuladd.{S}({T} %p.2, {T} %r, {T} {c4})
  %p.4 = call {T} @llvm.fmuladd.{S}({T} %p.3, {T} %r, {T} {c5})
  %r.2 = fmul {T} %r, %r
  %p.5 = call {T} @llvm.fmuladd.{S}({T} %p.4, {T} %r.2, {T} %r)
  %p = fadd {T} %p.5, {one}
  %bits = bitcast {T} %shifted to {I}
  %n.int = sub {I} %bits, {magic_bits}
  %half = ashr {I} %n.int, {int_one}
  %rest = sub {I} %n.int, %half
  %half.biased = add {I} %half, {bias}
  %rest.biased = add {I} %rest, {bias}
  %half.bits = shl {I} %half.biased, {mantissa}
  %rest.bits = shl {I} %rest.biased, {mantissa}
  %half.scale = bitcast {I} %half.bits to {T}
  %rest.scale = bitcast {I} %rest.bits to {T}
  %y.0 = fmul {T} %p, %half.scale
  %y = fmul {T} %y.0, %rest.scale
  ret {T} %y
}}
"""

_EXP_FLOATS = {
    "low": -104.0,  # exp is 0 below
    "high": 89.0,  # exp is infinite above
    "log2e": 1.44269504088896341,
    "magic": 12582912.0,
    "minus_ln2_high": -0.693359375,  # few bits, so that the product with n is exact
    "minus_ln2_low": 2.12194440e-4,
    "c0": 1.9875691500e-4,
    "c1": 1.3981999507e-3,
    "c2": 8.3334519073e-3,
    "c3": 4.1665795894e-2,
    "c4": 1.6666665459e-1,
    "c5": 5.0000001201e-1,
    "one": 1.0,
}

_EXP_INTEGERS = {"magic_bits": 0x4B400000, "int_one": 1, "bias": 127, "mantissa": 23}


def _print_exp(lanes: int | None) -> tuple[str, str]:
    """Name and text of exp for f32 and this number of lanes."""
    type = _widened("float", lanes)
    name = f"hamkaas.exp.{_suffix(type)}"

    def single(value: float) -> str:
        """The literal of the float that is nearest to `value`: one of float type must be exact."""
        return _literal(struct.unpack("f", struct.pack("f", value))[0], Float32Type())

    text = _EXP.format(
        name=name,
        T=type,
        I=_widened("i32", lanes),
        I1=_widened("i1", lanes),
        S=_suffix(type),
        **{key: _splat(single(value), "float", lanes) for key, value in _EXP_FLOATS.items()},
        **{key: _splat(str(value), "i32", lanes) for key, value in _EXP_INTEGERS.items()},
    )
    return name, text


_OUTER = """\
define void @{name}(i64 %begin, i64 %end, ptr %args) nounwind {{
entry:
{loads}  br label %head
head:
  %block = phi i64 [ %begin, %entry ], [ %next, %body ]
  %more = icmp slt i64 %block, %end
  br i1 %more, label %body, label %done
body:
  call void @{name}.body(i64 %block{args})
  %next = add nsw i64 %block, 1
  br label %head
done:
  ret void
}}
"""

_ARGUMENT = """\
  %at.{i} = getelementptr inbounds ptr, ptr %args, i64 {i}
  %arg.{i} = load ptr, ptr %at.{i}, align 8
"""


class _KernelPrinter:
    """Prints one kernel. `values` has the text of every SSA value seen so far: a name, or a constant."""

    def __init__(self, func: kernel.FuncOp, helpers: dict[str, str]):
        self.name = func.sym_name.data
        self.func = func
        self.helpers = helpers
        self.values: dict[SSAValue, str] = {}
        self.allocas: list[str] = []
        self.shared_bytes = 0
        self.lines: list[str] = []
        self.label = "entry"
        self.count = 0

    # text

    def fresh(self, hint: str | None) -> str:
        """A new name; the number makes it unique, and keeps it apart from labels, which do not end in one."""
        self.count += 1
        return f"%{hint or 'v'}.{self.count}"

    def emit(self, text: str, hint: str | None = None) -> str:
        """Adds an instruction and returns the name of its result."""
        name = self.fresh(hint)
        self.lines.append(f"  {name} = {text}")
        return name

    def define(self, op: Operation, text: str) -> None:
        """Adds the instruction that computes the one result of `op`."""
        result = op.results[0]
        self.values[result] = self.emit(text, result.name_hint)

    def typed(self, value: SSAValue) -> str:
        """Type and name, as most operands are written."""
        return f"{_type(value.type)} {self.values[value]}"

    def labels(self, kind: str, *parts: str) -> list[str]:
        """New labels for the basic blocks of one structured operation."""
        self.count += 1
        return [f"{kind}.{self.count}.{part}" for part in parts]

    def start_block(self, label: str) -> None:
        """Starts a basic block."""
        self.lines.append(f"{label}:")
        self.label = label

    def call(self, intrinsic: str, op: Operation) -> str:
        """A call of an intrinsic whose operands and result have the same type."""
        type, args = _type(op.results[0].type), ", ".join(self.typed(operand) for operand in op.operands)
        return f"call{_fastmath(op)} {type} @llvm.{intrinsic}.{_suffix(type)}({args})"

    # structure

    def print(self) -> str:
        """The text of both functions of the kernel."""
        args = self.func.body.block.args
        for arg in args:
            self.values[arg] = self.fresh(arg.name_hint or "arg")
        self.print_ops(self.func.body.block)
        label = self.func.label.data
        return "\n".join(
            [
                *([f"; {label}"] if label else []),
                f"define internal void @{self.name}.body(i64 %block{self.parameters()}) nounwind {{",
                "entry:",
                *self.allocas,
                *self.lines,
                "}",
                "",
                _OUTER.format(
                    name=self.name,
                    loads="".join(_ARGUMENT.format(i=i) for i in range(len(args))),
                    args="".join(f", ptr %arg.{i}" for i in range(len(args))),
                ),
            ]
        )

    def parameters(self) -> str:
        """The pointers with what is known of them.

        `noalias` holds for arguments that are only read as well: it speaks of memory that is written meanwhile.
        """
        written = {op.memref for op in self.func.walk() if isinstance(op, kernel.StoreOp)}
        texts: list[str] = []
        for arg in self.func.body.block.args:
            length, element = _buffer(arg.type)
            size = _size(element)
            facts = f"align {size} dereferenceable({size * length})"
            texts.append(
                f", ptr noalias nonnull noundef {'' if arg in written else 'readonly '}{facts} {self.values[arg]}"
            )
        return "".join(texts)

    def print_ops(self, block: Block) -> Operation:
        """Prints all operations of a block but a terminator that hands on values, which is returned."""
        for op in block.ops:
            if isinstance(op, scf.YieldOp | scf.ConditionOp):
                break
            self.print_op(op)
        assert block.last_op is not None
        return block.last_op

    def phis(self, results: Sequence[SSAValue], first: Sequence[str], label: str) -> list[int]:
        """A phi for each value; returns the lines, to which `close_phis` adds what comes from the other side."""
        lines: list[int] = []
        for result, start in zip(results, first, strict=True):
            lines.append(len(self.lines))
            self.values[result] = self.emit(f"phi {_type(result.type)} [ {start}, %{label} ]", result.name_hint)
        return lines

    def close_phis(self, lines: Sequence[int], values: Sequence[str], label: str) -> None:
        """Completes phis with the values that arrive from the block `label`."""
        for line, value in zip(lines, values, strict=True):
            self.lines[line] += f", [ {value}, %{label} ]"

    @singledispatchmethod
    def print_op(self, op: Operation) -> None:
        """Adds what one operation becomes."""
        kind = type(op)
        if (text := _FLOAT_BINARY.get(kind)) is not None:
            self.print_float_binary(op, text)
        elif (text := _INTEGER_BINARY.get(kind)) is not None:
            self.define(op, f"{text} {self.typed(op.operands[0])}, {self.values[op.operands[1]]}")
        elif (text := _INTRINSICS.get(kind)) is not None:
            self.define(op, self.call(text, op))
        elif (text := _CASTS.get(kind)) is not None:
            self.define(op, f"{text} {self.typed(op.operands[0])} to {_type(op.results[0].type)}")
        else:
            raise CompileError(f"no LLVM lowering for {op.name}, in kernel '{self.name}'")

    @print_op.register
    def _(self, op: scf.ForOp) -> None:
        head, body, end = self.labels("for", "head", "body", "end")
        type = _type(op.lb.type)
        index, carried = op.body.block.args[0], op.body.block.args[1:]
        entered = self.label
        self.lines.append(f"  br label %{head}")
        self.start_block(head)
        phis = self.phis([index, *carried], [self.values[op.lb], *(self.values[arg] for arg in op.iter_args)], entered)
        go_on = self.emit(f"icmp slt {type} {self.values[index]}, {self.values[op.ub]}")
        self.lines.append(f"  br i1 {go_on}, label %{body}, label %{end}")
        self.start_block(body)
        last = self.print_ops(op.body.block)
        following = self.emit(f"add nsw {type} {self.values[index]}, {self.values[op.step]}")
        self.lines.append(f"  br label %{head}")
        self.close_phis(phis, [following, *(self.values[value] for value in last.operands)], self.label)
        self.start_block(end)
        for result, arg in zip(op.results, carried, strict=True):
            self.values[result] = self.values[arg]

    @print_op.register
    def _(self, op: scf.WhileOp) -> None:
        head, body, end = self.labels("while", "head", "body", "end")
        carried = op.before_region.block.args
        entered = self.label
        self.lines.append(f"  br label %{head}")
        self.start_block(head)
        phis = self.phis(carried, [self.values[arg] for arg in op.arguments], entered)
        condition = self.print_ops(op.before_region.block)
        assert isinstance(condition, scf.ConditionOp)
        passed = [self.values[value] for value in condition.args]
        self.lines.append(f"  br i1 {self.values[condition.condition]}, label %{body}, label %{end}")
        self.values.update(zip(op.after_region.block.args, passed, strict=True))
        self.values.update(zip(op.results, passed, strict=True))
        self.start_block(body)
        last = self.print_ops(op.after_region.block)
        self.lines.append(f"  br label %{head}")
        self.close_phis(phis, [self.values[value] for value in last.operands], self.label)
        self.start_block(end)

    @print_op.register
    def _(self, op: scf.IfOp) -> None:
        then, otherwise, end = self.labels("if", "then", "else", "end")
        two_sided = bool(op.false_region.blocks)
        condition = self.values[op.cond]
        self.lines.append(f"  br i1 {condition}, label %{then}, label %{otherwise if two_sided else end}")
        arriving: list[tuple[list[str], str]] = []
        for label, region in ((then, op.true_region), (otherwise, op.false_region)):
            if not region.blocks:
                continue
            self.start_block(label)
            last = self.print_ops(region.block)
            arriving.append(([self.values[value] for value in last.operands], self.label))
            self.lines.append(f"  br label %{end}")
        self.start_block(end)
        if op.results:
            phis = self.phis(op.results, *arriving[0])
            self.close_phis(phis, *arriving[1])

    # the kernel dialect

    @print_op.register
    def _(self, op: kernel.ReturnOp) -> None:
        self.lines.append("  ret void")

    @print_op.register
    def _(self, op: kernel.BlockIdOp) -> None:
        self.values[op.result] = "%block"

    @print_op.register
    def _(self, op: kernel.ThreadIdOp) -> None:
        self.values[op.result] = "0"  # a block has one thread

    @print_op.register
    def _(self, op: kernel.BarrierOp) -> None:
        pass  # there is no other thread in the block to wait for

    @print_op.register
    def _(self, op: kernel.AllocOp) -> None:
        size, element = _buffer(op.memref.type)
        self.shared_bytes += size * _size(element)
        if self.shared_bytes > MAX_SHARED_BYTES:
            raise CompileError(
                f"expected at most {MAX_SHARED_BYTES} bytes of shared memory, got {self.shared_bytes}, "
                f"in kernel '{self.name}'"
            )
        name = self.values[op.memref] = self.fresh(op.memref.name_hint or "shared")
        self.allocas.append(f"  {name} = alloca [{size} x {_type(element)}], align {SHARED_ALIGNMENT}")

    def address(self, memref: SSAValue, index: SSAValue) -> str:
        """The address of an element."""
        element = _type(element_type(memref.type))
        return self.emit(f"getelementptr inbounds {element}, ptr {self.values[memref]}, i64 {self.values[index]}", "at")

    @print_op.register
    def _(self, op: kernel.LoadOp) -> None:
        # A stream hint would have to be a non-temporal load, which x86 ignores for ordinary memory.
        align = op.align.value.data if op.align else _size(element_type(op.memref.type))
        self.define(op, f"load {_type(op.result.type)}, ptr {self.address(op.memref, op.index)}, align {align}")

    @print_op.register
    def _(self, op: kernel.StoreOp) -> None:
        align = op.align.value.data if op.align else _size(element_type(op.memref.type))
        self.lines.append(f"  store {self.typed(op.value)}, ptr {self.address(op.memref, op.index)}, align {align}")

    @print_op.register
    def _(self, op: kernel.ReduceOp) -> None:
        element, value = _type(op.result.type), self.typed(op.value)
        suffix = _suffix(_type(op.value.type))
        is_float = not isinstance(element_type(op.value.type), IntegerType | IndexType)
        if op.combine.data is kernel.Combine.MAX:
            name = "fmax" if is_float else "smax"
            self.define(op, f"call {element} @llvm.vector.reduce.{name}.{suffix}({value})")
        elif is_float:
            zero = f"{element} {_literal(-0.0, element_type(op.value.type))}"
            self.define(op, f"call reassoc {element} @llvm.vector.reduce.fadd.{suffix}({zero}, {value})")
        else:
            self.define(op, f"call {element} @llvm.vector.reduce.add.{suffix}({value})")

    @print_op.register
    def _(self, op: kernel.DotOp) -> None:
        product = self.emit(f"fmul contract {self.typed(op.lhs)}, {self.values[op.rhs]}")
        type = _type(op.lhs.type)
        zero = _literal(-0.0, f32)
        self.define(
            op, f"call reassoc contract float @llvm.vector.reduce.fadd.{_suffix(type)}(float {zero}, {type} {product})"
        )

    @print_op.register
    def _(self, op: kernel.PackOp) -> None:
        type, packed = _type(op.result.type), "poison"
        for lane, element in enumerate(op.elements):
            packed = self.emit(f"insertelement {type} {packed}, {self.typed(element)}, i64 {lane}")
        self.values[op.result] = packed

    @print_op.register
    def _(self, op: kernel.ConvertOp) -> None:
        source: Attribute = element_type(op.input.type)
        target, lanes, value = element_type(op.result.type), _lanes(op.input.type), self.values[op.input]
        if source == target:
            self.values[op.result] = value
            return
        # bf16 is the upper half of an f32: conversions from and to it go through f32
        if isinstance(source, BFloat16Type):
            value, source = self.extend_bf16(value, lanes), f32
        if isinstance(target, BFloat16Type):
            self.values[op.result] = self.round_to_bf16(self.convert(value, source, f32, lanes), lanes)
        else:
            self.values[op.result] = self.convert(value, source, target, lanes)

    def convert(self, value: str, source: Attribute, target: Attribute, lanes: int | None) -> str:
        """Between numbers that LLVM knows."""
        if source == target:
            return value
        before, after = _widened(_type(source), lanes), _widened(_type(target), lanes)
        if isinstance(source, IntegerType):
            return self.emit(f"sitofp {before} {value} to {after}")
        return self.emit(f"{'fpext' if _size(source) < _size(target) else 'fptrunc'} {before} {value} to {after}")

    def extend_bf16(self, value: str, lanes: int | None) -> str:
        """The f32 that is equal to a bf16."""
        wide = _widened("i32", lanes)
        bits = self.emit(f"zext {_widened('i16', lanes)} {value} to {wide}")
        shifted = self.emit(f"shl {wide} {bits}, {_splat('16', 'i32', lanes)}")
        return self.emit(f"bitcast {wide} {shifted} to {_widened('float', lanes)}")

    def round_to_bf16(self, value: str, lanes: int | None) -> str:
        """The bf16 nearest to an f32, to even in a tie: adds just less than half, and the bit that makes a tie odd.

        In integers, because LLVM calls a function that is not there where the host lacks the instruction, and the
        instruction flushes denormals.
        """
        single, wide, narrow = (_widened(type, lanes) for type in ("float", "i32", "i16"))

        def number(constant: int) -> str:
            return _splat(str(constant), "i32", lanes)

        bits = self.emit(f"bitcast {single} {value} to {wide}")
        upper = self.emit(f"lshr {wide} {bits}, {number(16)}")
        odd = self.emit(f"and {wide} {upper}, {number(1)}")
        bias = self.emit(f"add {wide} {odd}, {number(0x7FFF)}")
        biased = self.emit(f"add {wide} {bits}, {bias}")
        rounded = self.emit(f"lshr {wide} {biased}, {number(16)}")
        quiet = self.emit(f"or {wide} {upper}, {number(0x40)}")
        is_nan = self.emit(f"fcmp uno {single} {value}, {value}")
        chosen = self.emit(f"select {_widened('i1', lanes)} {is_nan}, {wide} {quiet}, {wide} {rounded}")
        return self.emit(f"trunc {wide} {chosen} to {narrow}")

    # arith, math, vector

    @print_op.register
    def _(self, op: arith.ConstantOp) -> None:
        value, type = op.value, op.result.type
        _type(type)  # there may be none
        match value:
            case IntegerAttr() | FloatAttr():
                text = _literal(value.value.data, type)
            case DenseIntOrFPElementsAttr() if (lanes := _lanes(type)) is not None:
                element = element_type(type)
                literals = [_literal(number, element) for number in value.get_values()]  # pyright: ignore
                if len(set(literals)) == 1:
                    text = _splat(literals[0], _type(element), lanes)
                else:
                    text = f"<{', '.join(f'{_type(element)} {literal}' for literal in literals)}>"
            case _:
                raise CompileError(f"no LLVM constant of {type}, in kernel '{self.name}'")
        self.values[op.result] = text

    def print_float_binary(self, op: Operation, instruction: str) -> None:
        """An arithmetic operation on floats with the permissions of its fastmath attribute."""
        type = op.results[0].type
        if isinstance(element_type(type), BFloat16Type):
            raise CompileError(f"no LLVM lowering for {op.name} on {type}, in kernel '{self.name}'")
        self.define(op, f"{instruction}{_fastmath(op)} {self.typed(op.operands[0])}, {self.values[op.operands[1]]}")

    @print_op.register
    def _(self, op: arith.NegfOp) -> None:
        self.define(op, f"fneg {self.typed(op.operand)}")

    @print_op.register
    def _(self, op: arith.FloorDivSIOp) -> None:
        # the quotient that is cut off is one too large where there is a remainder and the signs differ
        type, lhs, rhs = _type(op.result.type), self.values[op.lhs], self.values[op.rhs]
        lanes, element = _lanes(op.result.type), _type(element_type(op.result.type))
        zero, minus_one = _splat("0", element, lanes), _splat("-1", element, lanes)
        quotient = self.emit(f"sdiv {type} {lhs}, {rhs}")
        remainder = self.emit(f"srem {type} {lhs}, {rhs}")
        signs = self.emit(f"xor {type} {remainder}, {rhs}")
        is_inexact = self.emit(f"icmp ne {type} {remainder}, {zero}")
        differ = self.emit(f"icmp slt {type} {signs}, {zero}")
        flags = _widened("i1", lanes)
        is_over = self.emit(f"and {flags} {is_inexact}, {differ}")
        less = self.emit(f"add {type} {quotient}, {minus_one}")
        self.define(op, f"select {flags} {is_over}, {type} {less}, {type} {quotient}")

    @print_op.register
    def _(self, op: arith.CmpiOp) -> None:
        predicate = _INTEGER_PREDICATES[op.predicate.value.data]
        self.define(op, f"icmp {predicate} {self.typed(op.lhs)}, {self.values[op.rhs]}")

    @print_op.register
    def _(self, op: arith.CmpfOp) -> None:
        predicate = _FLOAT_PREDICATES[op.predicate.value.data]
        self.define(op, f"fcmp {predicate} {self.typed(op.lhs)}, {self.values[op.rhs]}")

    @print_op.register
    def _(self, op: arith.SelectOp) -> None:
        self.define(op, f"select {', '.join(self.typed(operand) for operand in op.operands)}")

    @print_op.register
    def _(self, op: arith.IndexCastOp) -> None:
        source, target = _type(op.input.type), _type(op.result.type)
        if source == target:
            self.values[op.result] = self.values[op.input]
            return
        width, wanted = (int(type.removeprefix("i")) for type in (source, target))
        self.define(op, f"{'sext' if width < wanted else 'trunc'} {self.typed(op.input)} to {target}")

    @print_op.register
    def _(self, op: arith.BitcastOp) -> None:
        source, target = _type(op.input.type), _type(op.result.type)
        if source == target:
            self.values[op.result] = self.values[op.input]
        else:
            self.define(op, f"bitcast {self.typed(op.input)} to {target}")

    @print_op.register
    def _(self, op: math.ExpOp) -> None:
        if not isinstance(element_type(op.result.type), Float32Type):
            raise CompileError(f"no LLVM lowering for math.exp on {op.result.type}, in kernel '{self.name}'")
        name, text = _print_exp(_lanes(op.result.type))
        self.helpers[name] = text
        self.define(op, f"call {_type(op.result.type)} @{name}({self.typed(op.operands[0])})")

    @print_op.register
    def _(self, op: math.RsqrtOp) -> None:
        type, lanes, element = _type(op.result.type), _lanes(op.result.type), element_type(op.result.type)
        root = self.emit(self.call("sqrt", op))
        self.define(op, f"fdiv {type} {_splat(_literal(1.0, element), _type(element), lanes)}, {root}")

    @print_op.register
    def _(self, op: vector.BroadcastOp) -> None:
        if is_vector(op.source.type):
            raise CompileError(f"no LLVM lowering for vector.broadcast of {op.source.type}, in kernel '{self.name}'")
        type, lanes, source = _type(op.vector.type), _lanes(op.vector.type), self.values[op.source]
        if not source.startswith("%"):
            self.values[op.vector] = _splat(source, _type(op.source.type), lanes)
            return
        one = self.emit(f"insertelement {type} poison, {self.typed(op.source)}, i64 0")
        self.define(op, f"shufflevector {type} {one}, {type} poison, <{lanes} x i32> zeroinitializer")

    def position(self, op: vector.ExtractOp | vector.InsertOp) -> str:
        """The lane that an operation on a vector of rank 1 names, as an i64."""
        (position,) = op.get_mixed_position()
        return str(position) if isinstance(position, int) else self.values[position]

    @print_op.register
    def _(self, op: vector.ExtractOp) -> None:
        self.define(op, f"extractelement {self.typed(op.vector)}, i64 {self.position(op)}")

    @print_op.register
    def _(self, op: vector.InsertOp) -> None:
        self.define(op, f"insertelement {self.typed(op.dest)}, {self.typed(op.source)}, i64 {self.position(op)}")


def print_llvm(module: ModuleOp) -> str:
    """The LLVM IR of all kernels of a module; operations other than `kernel.func` at its top are not looked at."""
    helpers: dict[str, str] = {}
    kernels = [_KernelPrinter(op, helpers).print() for op in module.body.block.ops if isinstance(op, kernel.FuncOp)]
    return "\n".join([*helpers.values(), *kernels])

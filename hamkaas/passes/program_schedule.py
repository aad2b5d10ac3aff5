"""Turns functions on tensors into programs on buffers."""

from dataclasses import dataclass
from functools import cache

from xdsl.context import Context
from xdsl.dialects import func
from xdsl.dialects.builtin import MemRefType, ModuleOp, StringAttr, TensorType, i8
from xdsl.ir import Attribute, BlockArgument, Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter

from hamkaas.dialects import cudnn, hamkaas, kernel, program
from hamkaas.dialects.hamkaas import tensor_type


@dataclass(frozen=True)
class ProgramSchedulePass(ModulePass):
    """Give every tensor of a function a buffer, and every execution of a kernel a launch, in the order of the function.

    Executions of cuDNN graphs stay what they are, on buffers; the workspace of a plan is a temporary.

    A kernel that updates one of its inputs (a `hamkaas.replace_slice`) does so in place if nobody reads the old value
    afterwards, which is proved like this:

    1. the buffer may be written: it is a temporary, or a state whose next value is computed from this one by such
       updates alone;
    2. the update is the last reader of the old value in the function, and reads it through no second operand.

    Otherwise the old value is copied first. Results that the function returns are written where the caller gets
    them; what is returned or stored under two names is copied at the end.

    ```
    func.func @main(%x) { %y = hamkaas.execute @g0(%x)  func.return %y }
    ->
    program.func @main { %x = program.input "x"  %y = program.output 0  program.launch @g0(%x, %y) }
    ```
    """

    name = "program-schedule"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        kernels = {child.sym_name.data: child for child in op.body.block.ops if isinstance(child, kernel.FuncOp)}
        graphs = {child.sym_name.data: child for child in op.body.block.ops if isinstance(child, cudnn.GraphOp)}
        for function in [child for child in op.body.block.ops if isinstance(child, func.FuncOp)]:
            scheduled = Scheduler(function, kernels, graphs).run()
            Rewriter.replace_op(function, scheduled, new_results=[])


def memref_of(value: SSAValue) -> MemRefType[Attribute]:
    """The buffer type of a tensor."""
    return _memref(tensor_type(value))


@cache
def _memref(type: TensorType[Attribute]) -> MemRefType[Attribute]:
    return MemRefType(type.element_type, type.get_shape())


class Scheduler:
    """One function on its way to a program."""

    def __init__(self, function: func.FuncOp, kernels: dict[str, kernel.FuncOp], graphs: dict[str, cudnn.GraphOp]):
        self.function = function
        self.kernels = kernels
        self.graphs = graphs
        self.result = program.FuncOp(function.sym_name.data)
        self.first_step: Operation | None = None
        self.ops = list(function.body.block.ops)
        self.buffers: dict[SSAValue, SSAValue] = {}
        self.symbols: dict[str, SSAValue] = {}
        self.status: SSAValue | None = None
        self.checks: set[tuple[object, ...]] = set()
        returned = self.ops[-1]
        assert isinstance(returned, func.ReturnOp)
        self.returned = returned
        self.outputs: dict[SSAValue, int] = {}
        for position, value in enumerate(returned.operands):
            self.outputs.setdefault(value, position)
        self.set_to: dict[str, SSAValue] = {}
        """By symbol, the value that is set; the first one, if there are several."""
        for op in self.ops:
            if isinstance(op, hamkaas.SetOp):
                self.set_to.setdefault(op.symbol.root_reference.data, op.value)
        self.last_use = self._last_uses()

    def run(self) -> program.FuncOp:
        """The program."""
        self._declare_inputs()
        for op in self.ops:
            match op:
                case hamkaas.GetOp():
                    self.buffers[op.result] = self._symbol(op)
                case hamkaas.ExecuteOp():
                    self._launch(op)
                case cudnn.ExecuteOp():
                    self._execute(op)
                case _:
                    pass
        self._return_values()
        self._update_states()
        return self.result

    def _add(self, op: Operation) -> None:
        self.result.body.block.add_op(op)
        self.first_step = self.first_step or op

    def _declare(self, op: program.BufferOp, hint: str | None) -> SSAValue:
        """Buffers stand before all steps."""
        if self.first_step is None:
            self.result.body.block.add_op(op)
        else:
            Rewriter.insert_op(op, InsertPoint.before(self.first_step))
        op.memref.name_hint = hint
        return op.memref

    def _declare_inputs(self) -> None:
        attributes = self.function.arg_attrs
        for number, arg in enumerate(self.function.body.block.args):
            given = attributes.data[number].data.get("hamkaas.name") if attributes is not None else None
            name = given.data if isinstance(given, StringAttr) else arg.name_hint or f"arg{number}"
            self.buffers[arg] = self._declare(program.InputOp(name, memref_of(arg)), arg.name_hint)

    def _symbol(self, get: hamkaas.GetOp) -> SSAValue:
        name = get.symbol.root_reference.data
        if name not in self.symbols:
            self.symbols[name] = self._declare(program.SymbolOp(name, memref_of(get.result)), get.result.name_hint)
        return self.symbols[name]

    # launches

    def _launch(self, op: hamkaas.ExecuteOp) -> None:
        callee = op.callee.root_reference.data
        function = self.kernels[callee]
        inputs = list(op.inputs)
        args = [self.buffers[value] for value in inputs]
        self._check_inputs(function, inputs)
        for value, arg in zip(op.outputs, function.result_args, strict=True):
            if arg < len(inputs):
                args[arg] = self.buffers[value] = self._updated(op, value, arg, args[arg])
                continue
            buffer = self._result_buffer(value)
            self.buffers[value] = buffer
            args.append(buffer)
        if function.has_status:
            if self.status is None:
                self.status = self._declare(program.StatusOp(), "status")
            args.append(self.status)
        self._add(program.LaunchOp(callee, args))

    def _execute(self, op: cudnn.ExecuteOp) -> None:
        args = [self.buffers[value] for value in op.inputs]
        for value in op.outputs:
            self.buffers[value] = self._result_buffer(value)
            args.append(self.buffers[value])
        if (workspace := self.graphs[op.callee.root_reference.data].workspace) is not None:
            args.append(self._declare(program.TempOp(MemRefType(i8, [workspace.value.data])), "workspace"))
        self._add(program.ExecuteOp(op.callee.root_reference.data, args, op.offsets))

    def _result_buffer(self, value: SSAValue) -> SSAValue:
        if (position := self.outputs.get(value)) is not None:
            return self._declare(program.OutputOp(position, memref_of(value)), value.name_hint)
        return self._declare(program.TempOp(memref_of(value)), value.name_hint)

    def _updated(self, op: hamkaas.ExecuteOp, new: SSAValue, arg: int, buffer: SSAValue) -> SSAValue:
        """The buffer in which an update takes place: that of the old value, or a copy of it."""
        old = op.inputs[arg]
        readers = sum(self._identity(value) == self._identity(old) for value in op.inputs)
        is_last = self.last_use[self._identity(old)] is op and readers == 1
        if is_last and self._may_write(old, new):
            return buffer
        copy = self._declare(program.TempOp(memref_of(old)), old.name_hint)
        self._add(program.CopyOp(buffer, copy))
        return copy

    def _may_write(self, old: SSAValue, new: SSAValue) -> bool:
        owner = self.buffers[old].owner
        if isinstance(owner, program.TempOp):
            return True
        if not isinstance(owner, program.SymbolOp):
            return False
        symbol = owner.symbol.root_reference.data
        value = self.set_to.get(symbol)
        while value is not None and value is not new:
            value = self._base(value)
        return value is new

    def _base(self, value: SSAValue) -> SSAValue | None:
        """The old value of an update that gave `value`."""
        op = value.owner
        if not isinstance(op, hamkaas.ExecuteOp):
            return None
        arg = self.kernels[op.callee.root_reference.data].result_args[op.results.index(value)]
        return op.inputs[arg] if arg < len(op.inputs) else None

    def _identity(self, value: SSAValue) -> object:
        """Equal for values that are the same memory: all reads of one symbol."""
        owner = value.owner
        return owner.symbol.root_reference.data if isinstance(owner, hamkaas.GetOp) else value

    def _last_uses(self) -> dict[object, Operation]:
        last: dict[object, Operation] = {}
        for op in self.ops:
            for operand in op.operands:
                last[self._identity(operand)] = op
        return last

    def _check_inputs(self, function: kernel.FuncOp, inputs: list[SSAValue]) -> None:
        """What the kernel demands of its indices is checked by the host where they are inputs of the program."""
        for bound in function.bounds:
            value = inputs[bound.arg.data]
            key = (value, bound)
            if isinstance(value, BlockArgument) and key not in self.checks:
                self.checks.add(key)
                what = kernel.FAULTS[bound.fault.data - 1].split(" outside ")[0]
                self._add(program.CheckOp(self.buffers[value], bound.low.data, bound.high.data, what))
        for span in function.spans:
            begin, end = inputs[span.begin.data], inputs[span.end.data]
            key = (begin, end, span.length)
            if isinstance(begin, BlockArgument) and isinstance(end, BlockArgument) and key not in self.checks:
                self.checks.add(key)
                self._add(program.CheckSpanOp(self.buffers[begin], self.buffers[end], span.length.data))

    # the end

    def _return_values(self) -> None:
        for position, value in enumerate(self.returned.operands):
            buffer = self.buffers[value]
            if isinstance(buffer.owner, program.OutputOp) and buffer.owner.position.value.data == position:
                continue
            output = self._declare(program.OutputOp(position, memref_of(value)), value.name_hint)
            self._add(program.CopyOp(buffer, output))

    def _update_states(self) -> None:
        moves: list[tuple[SSAValue, SSAValue]] = []
        for op in self.ops:
            if not isinstance(op, hamkaas.SetOp):
                continue
            name = op.symbol.root_reference.data
            if name not in self.symbols:
                self.symbols[name] = self._declare(program.SymbolOp(name, memref_of(op.value)), None)
            source, target = self.buffers[op.value], self.symbols[name]
            if source is target:
                continue
            if isinstance(source.owner, program.SymbolOp):  # may be overwritten by another move before it is read
                kept = self._declare(program.TempOp(memref_of(op.value)), None)
                self._add(program.CopyOp(source, kept))
                source = kept
            moves.append((source, target))
        for source, target in moves:
            self._add(program.CopyOp(source, target))

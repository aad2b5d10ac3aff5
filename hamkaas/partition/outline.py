"""Regions into `cudnn.graph` and `cudnn.execute`."""

from collections.abc import Callable, Sequence

from xdsl.dialects import func
from xdsl.dialects.builtin import FunctionType, IntegerAttr, TensorType, f32, i32, i64, tf32
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue
from xdsl.rewriter import InsertPoint, Rewriter

from hamkaas.artifact import CUDNN_ALIGNMENT
from hamkaas.dialects import cudnn, hamkaas
from hamkaas.dialects.cudnn_nodes import Reduction
from hamkaas.dialects.cudnn_types import GraphTensorType, graph_type
from hamkaas.dialects.hamkaas import tensor_type
from hamkaas.partition.clusters import Cluster
from hamkaas.partition.grow import Regions
from hamkaas.partition.policy import KINDS, is_f32
from hamkaas.partition.views import View, dense_strides, strides_before, views_of, widens

Layout = Callable[[GraphTensorType], str | None]
"""Why an operand cannot have these strides; None if it can."""


def as_matrix(type: GraphTensorType) -> str | None:
    """What a product reads, both sides of one type."""
    return None if type.is_matrix else "a product reads rows or columns of neighbours"


def as_rows(type: GraphTensorType) -> str | None:
    """What a pointwise operation reads, each operand of any type."""
    return None if type.is_row_major else "a pointwise operation reads rows of neighbours"


def as_dense(type: GraphTensorType) -> str | None:
    """What a norm reads, and the first operand of the sum in front of it: of the type that it norms."""
    return None if type.is_row_major and type.is_dense else "a norm reads memory without gaps"


class Outliner:
    """Builds the graph of one region."""

    def __init__(self, cluster: Cluster, regions: Regions, name: str):
        self.cluster = cluster
        self.regions = regions
        self.name = name
        self.block = Block()
        self.args: dict[tuple[SSAValue, int, GraphTensorType, int], SSAValue] = {}
        """Arguments by what they show: a base, an offset and a layout; and by their number among those that show it."""
        self.inside: dict[SSAValue, SSAValue] = {}

    def outline(self, function: func.FuncOp) -> tuple[cudnn.GraphOp, cudnn.ExecuteOp]:
        """Adds the graph in front of the function and puts its execution in the place of the region's operations."""
        for op in self.cluster.members:
            if isinstance(op, hamkaas.CastOp) and (same := self._uncast(op)) is not None:
                self.inside[op.result] = same
                continue
            node = self._node(op)
            self.block.add_op(node)
            node.result.name_hint = op.results[0].name_hint
            self.inside[op.results[0]] = node.result
        outputs = {value: self.inside[value] for op in self.cluster.members if self._is_read(value := op.results[0])}
        yielded = list(outputs.values())
        summed = self.regions.sums.get(self.cluster)
        if summed is not None:
            reduction = cudnn.ReductionOp(Reduction.SUM_OF_SQUARES, self.inside[summed])
            self.block.add_op(reduction)
            yielded.append(reduction.result)
        self.block.add_op(cudnn.YieldOp(*yielded))
        graph = self._graph([value.type for value in yielded])
        Rewriter.insert_op(graph, InsertPoint.before(function))
        return graph, self._replace(list(outputs), summed)

    def _graph(self, outputs: Sequence[Attribute]) -> cudnn.GraphOp:
        element = tensor_type(self.cluster.seed.results[0]).element_type
        products = [op for op in self.cluster.members if isinstance(op, hamkaas.MatmulOp | hamkaas.AttentionOp)]
        rounds = any(is_f32(tensor_type(op.operands[0])) for op in products)
        type = FunctionType.from_lists([arg.type for arg in self.block.args], outputs)
        return cudnn.GraphOp(self.name, type, io=element, compute=tf32 if rounds else f32, body=Region(self.block))

    def _replace(self, outputs: Sequence[SSAValue], summed: SSAValue | None) -> cudnn.ExecuteOp:
        types: list[Attribute] = [value.type for value in outputs]
        if summed is not None:
            types.append(hamkaas.RmsScaleOp.sums_of(tensor_type(summed)))
        execute = cudnn.ExecuteOp(self.name, [key[0] for key in self.args], types, [key[1] for key in self.args])
        Rewriter.insert_op(execute, InsertPoint.before(self.cluster.seed))
        for old, new in zip(outputs, execute.outputs, strict=False):
            new.name_hint = old.name_hint
            old.replace_all_uses_with(new)
            if old is summed:
                scale_norms(new, execute.outputs[-1])
        for op in reversed(self.cluster.members):
            Rewriter.erase_op(op)
        return execute

    # nodes

    def _node(self, op: Operation) -> cudnn.NodeOp:
        match op:
            case hamkaas.MatmulOp():
                lhs, rhs = self._distinct([self._operand(op, 0, as_matrix), self._operand(op, 1, as_matrix)])
                return cudnn.MatmulOp(lhs, rhs, self._result_type(op))
            case hamkaas.RmsNormOp():
                input, weight = self._distinct([self._operand(op, 0, as_dense), self._operand(op, 1, as_rows)])
                return cudnn.RmsNormOp(input, weight, op.eps.value.data, self._result_type(op))
            case hamkaas.AttentionOp():
                return self._attention(op)
            case _:
                first = as_dense if self.cluster.kind == "norm" else as_rows
                operands = [
                    self._operand(op, number, as_rows if number else first) for number in range(len(op.operands))
                ]
                return cudnn.PointwiseOp(KINDS[type(op)], self._distinct(operands), self._result_type(op))

    def _attention(self, op: hamkaas.AttentionOp) -> cudnn.SdpaOp:
        query, keys = tensor_type(op.query), tensor_type(op.keys)
        heads, d = query.get_shape()[-2:]
        positions, kv_heads, _ = keys.get_shape()
        rows = GraphTensorType.of([heads, op.queries, d], [d, heads * d, 1], query.element_type)
        cache = GraphTensorType.of([kv_heads, positions, d], [d, kv_heads * d, 1], keys.element_type)
        number = GraphTensorType.of([1], None, i32)
        types = (rows, cache, cache, number)
        operands = [self._argument(value, 0, type) for value, type in zip(op.operands, types, strict=True)]
        count = None
        if op.queries > 1:
            one = hamkaas.ConstantOp(IntegerAttr(op.queries, i64), TensorType(i64, [1]))
            Rewriter.insert_op(one, InsertPoint.before(op))
            count = self._argument(one.result, 0, number)
        query, keys, values, length, *others = self._distinct([*operands, *([] if count is None else [count])])
        count = others[0] if others else None
        return cudnn.SdpaOp(query, keys, values, length, count, op.scale.value.data, rows)

    def _result_type(self, op: Operation) -> GraphTensorType:
        value = op.results[0]
        return GraphTensorType.of(tensor_type(value).get_shape(), None, self._held_as(value))

    def _held_as(self, value: SSAValue) -> Attribute:
        """The element type of a value: its own, or what a cast makes of an f32 that only this cast reads."""
        element = tensor_type(value).element_type
        readers = {use.operation for use in value.uses}
        only = readers.pop() if len(readers) == 1 else None
        if element != f32 or not isinstance(only, hamkaas.CastOp) or only not in self.cluster:
            return element
        return self._held_as(only.result)

    def _uncast(self, op: hamkaas.CastOp) -> SSAValue | None:
        """What serves as the result of a cast without an operation; None if nothing does.

        Pointwise operations read any float type, so that a cast that widens changes nothing for them. Its result must
        be there where it is an output, or a side of a product, whose sides are of one type.
        """
        must_be = self._is_read(op.result) or any(isinstance(use.operation, hamkaas.MatmulOp) for use in op.result.uses)
        inside = self.inside.get(op.input)
        if inside is not None and graph_type(inside).element_type == tensor_type(op.result).element_type:
            return inside
        if must_be or not widens(op):
            return None
        return self._operand(op, 0, as_dense) if inside is None else inside

    def _is_read(self, value: SSAValue) -> bool:
        """Whether a value is read outside of the region."""
        return any(use.operation not in self.cluster for use in value.uses)

    # operands

    def _operand(self, op: Operation, number: int, layout: Layout) -> SSAValue:
        value = op.operands[number]
        if (inside := self.inside.get(value)) is not None:
            return inside
        view, type = self._furthest(value, layout)
        return self._argument(view.base, view.offset, type)

    def _furthest(self, value: SSAValue, layout: Layout) -> tuple[View, GraphTensorType]:
        """The value in the memory of what it is a view of, as far back as strides can say it."""
        found: tuple[View, GraphTensorType] | None = None
        refused: tuple[Operation, str] | None = None
        for view, op in views_of(value, through_casts=layout is as_rows):
            why = "no strides say it"
            if view is not None:
                element = tensor_type(view.base).element_type
                type = GraphTensorType.of(view.shape, view.strides, element)
                why = misaligned(view, element) or layout(type)
                if why is None:
                    found, refused = (view, type), None
            if why is not None and op is not None and refused is None:
                refused = (op, why)
        if refused is not None:
            self.regions.remark(refused[0], f"stays a copy: {refused[1]}")
        assert found is not None, "a value in its own memory is dense"
        return found

    def _distinct(self, operands: Sequence[SSAValue]) -> list[SSAValue]:
        """The operands of one operation, where an argument that comes again has another one in its place."""
        key_of = {argument: key for key, argument in self.args.items()}
        result: list[SSAValue] = []
        for operand in operands:
            copy = result.count(operand)
            if copy and operand in key_of:
                base, offset, type, _ = key_of[operand]
                operand = self._argument(base, offset, type, copy)
            result.append(operand)
        return result

    def _argument(self, base: SSAValue, offset: int, type: GraphTensorType, copy: int = 0) -> SSAValue:
        key = (base, offset, type, copy)
        if key not in self.args:
            self.args[key] = self.block.insert_arg(type, len(self.args))
            self.args[key].name_hint = base.name_hint
        return self.args[key]


def misaligned(view: View, element: Attribute) -> str | None:
    """Why a view cannot start where it does; None if it can."""
    start = view.offset * cudnn.item_size(element)
    if start % CUDNN_ALIGNMENT:
        return f"expected a start at a multiple of {CUDNN_ALIGNMENT} bytes, got {start}"
    return None


def scale_norms(value: SSAValue, sums: SSAValue) -> None:
    """rms_norm(x, w) -> rms_scale(x, w, sums of x * x) for all norms of a value."""
    for use in list(value.uses):
        op = use.operation
        if isinstance(op, hamkaas.RmsNormOp) and use.index == 0:
            scale = hamkaas.RmsScaleOp(op.input, op.weight, sums, op.eps.value.data)
            scale.result.name_hint = op.result.name_hint
            Rewriter.replace_op(op, scale)


def fold_output_views(graph: cudnn.GraphOp, execute: cudnn.ExecuteOp) -> None:
    """permute(execute @g) -> execute @g with an output that is written in that order; reshape likewise."""
    for number in range(len(execute.outputs)):
        while (view := _only_view(execute.outputs[number])) is not None:
            value = graph.yielded.values[number]
            type = _written_as(graph_type(value), view)
            if type is None or not (type.is_row_major or _is_bare_product(graph)):
                break
            Rewriter.replace_value_with_new_type(value, type)
            outputs = [one.type for one in graph.yielded.values]
            graph.properties["function_type"] = FunctionType.from_lists(graph.function_type.inputs.data, outputs)
            output = Rewriter.replace_value_with_new_type(execute.outputs[number], view.result.type)
            output.name_hint = view.result.name_hint
            Rewriter.replace_op(view, [], [output])


def _only_view(value: SSAValue) -> hamkaas.ReshapeOp | hamkaas.PermuteOp | None:
    """The reshape or permute that is the only reader of a value."""
    readers = {use.operation for use in value.uses}
    only = readers.pop() if len(readers) == 1 else None
    return only if isinstance(only, hamkaas.ReshapeOp | hamkaas.PermuteOp) else None


def _written_as(type: GraphTensorType, view: hamkaas.ReshapeOp | hamkaas.PermuteOp) -> GraphTensorType | None:
    """The layout of an output such that its memory is the result of the view; None if there is none."""
    if isinstance(view, hamkaas.ReshapeOp):
        return type  # the same memory
    shape = tensor_type(view.input).get_shape()
    if type != GraphTensorType.of(shape, None, type.element_type):
        return None
    strides = strides_before(view, dense_strides(tensor_type(view.result).get_shape()))
    return GraphTensorType.of(shape, strides, type.element_type)


def _is_bare_product(graph: cudnn.GraphOp) -> bool:
    """Whether the graph gives a product as it is: with an epilogue, rows and columns cannot be mixed."""
    value = graph.yielded.values[0]
    return len(graph.yielded.values) == 1 and isinstance(value.owner, cudnn.MatmulOp)

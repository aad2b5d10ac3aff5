"""Recognizes attention that is written with products and a softmax."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from xdsl.context import Context
from xdsl.dialects import func
from xdsl.dialects.builtin import FloatAttr, ModuleOp, f32
from xdsl.ir import Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter

from hamkaas.dialects import hamkaas
from hamkaas.dialects.hamkaas import constant_value, tensor_type
from hamkaas.remarks import remark
from hamkaas.schedules.attention import MAX_POSITIONS
from hamkaas.schedules.attention_cuda import MAX_HEAD_DIM
from hamkaas.schedules.elements import Position, broadcast, shape_of
from hamkaas.schedules.index import Index, Var, delinearize, linearize


@dataclass(frozen=True)
class HamkaasRaiseAttentionPass(ModulePass):
    """Replace products around a softmax by one `hamkaas.attention`, which reads keys and values once.

    With queries q [b, m, d], keys k [b, n, d] and values v [b, n, d], and c a constant or a tensor of one element, the
    second line of each pair being the first one transposed:

        matmul(sliced_softmax(matmul(q, k^T) * c, p), v)        ->  attention(q, k, v, length p, scale c)
        matmul(v^T, sliced_softmax(matmul(k, q^T) * c, p)^T)    ->  attention(q, k, v, length p, scale c)^T

    Reshapes and permutes may stand between all of these, if each row of the second product is made of the same row of
    the first. With one p, the m rows are query heads that share keys (heads = b * m, kv_heads = b); with a p for each,
    they are queries with a length each (heads = kv_heads = b). Operands of one or two axes are a batch of one.

    It is an equation only if nothing behind the prefix reaches the second product: `hamkaas.sliced_softmax` leaves the
    scores there as they are. That is known where p is a constant and all of n (of a cache cut to its length, say); with
    `masked` it is taken for granted. What is nearly attention is a remark.

    ```
    %s = hamkaas.matmul %q, %kt
    %t = hamkaas.mul %s, %c                ->    %y = hamkaas.attention %q, %k, %v length %p scale 0.25
    %w = hamkaas.sliced_softmax %t prefix %p
    %y = hamkaas.matmul %w, %v
    ```
    """

    name = "hamkaas-raise-attention"

    masked: bool = False
    """Take it that what is behind a prefix counts nothing in the product: the keys or the values there are zero, or the
    softmax is multiplied by a number for each position, which is one before the prefix and zero behind."""

    max_rows: int = 64
    """The most rows of a batch: many are better off as products of matrices."""

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for function in [child for child in op.body.block.ops if isinstance(child, func.FuncOp)]:
            for product in [child for child in function.body.block.ops if isinstance(child, hamkaas.MatmulOp)]:
                if (found := _find_softmax(product)) is not None:
                    self._raise(product, found, f"{self.name}: @{function.sym_name.data}")

    def _raise(self, product: hamkaas.MatmulOp, found: "_Softmax", where: str) -> None:
        matched = self._match(found)
        if isinstance(matched, str):
            hint = found.op.result.name_hint
            remark(where, f"{found.op.name} %{hint}" if hint else found.op.name, matched)
        else:
            _replace(product, matched)

    def _match(self, found: "_Softmax") -> "_Parts | str":
        """The parts of an attention; else why it is none, or none that would gain."""
        if (why := self._refuse_weights(found)) is not None:
            return why
        scores = _trace(found.op.input, found.weights.index)
        if not isinstance(product := scores.value.owner, hamkaas.MatmulOp):
            return "it is of no product of queries and keys"
        if scores.is_shared:
            return "something else reads the scores"
        batch, row, column = _in_three(scores.index)
        if found.position not in (row, column):
            return "the axis of the softmax is none of the product of queries and keys"
        is_flipped = column != found.position
        if (batch, column if is_flipped else row) != (found.batch, found.row):
            return "the two products have other batches or rows"
        if any(
            prod(shape_of(factor)) > 1 and not isinstance(factor.owner, hamkaas.ConstantOp)
            for factor, _ in scores.factors
        ):
            return "the scores are multiplied by more than a number"
        parts = _Parts(found, product, is_flipped, [factor for factor, _ in scores.factors])
        return self._refuse_sizes(parts) or parts

    def _refuse_weights(self, found: "_Softmax") -> str | None:
        """Why the weights cannot be those of an attention, if so."""
        positions = shape_of(found.op.input)[-1]
        *rows, last = found.weights.index
        if last != found.position:
            return "the product does not add up over the axis of the softmax"
        if found.weights.is_shared:
            return "something else reads the weights"
        if shape_of(found.op.prefix) != (1,) and rows[-1] != found.row:
            return "it is no query that each prefix belongs to"
        for _, index in found.weights.factors:
            if not self.masked or any(i not in (Index.ZERO, found.position) for i in index):
                return "the weights are multiplied by something else"
        if not self.masked and constant_value(found.op.prefix) != positions:
            return (
                "what is behind the prefix counts in the product, unless keys or values there are zero (see `masked`)"
            )
        return None

    def _refuse_sizes(self, parts: "_Parts") -> str | None:
        """Why an attention of these parts does not exist, or gains nothing, if so."""
        keys, values = parts.keys, parts.values
        if keys.sizes != values.sizes or keys.element != values.element:
            return f"keys {keys} and values {values} are not alike"
        if parts.queries.element != f32 or tensor_type(parts.found.product.result).element_type != f32:
            return "it is not computed in f32"
        _, rows, d = parts.queries.sizes
        positions = keys.sizes[1]
        if rows > self.max_rows:
            return f"products of matrices are better for {rows} rows than attention"
        if positions > MAX_POSITIONS or d > MAX_HEAD_DIM:
            return f"{positions} positions or heads of {d} elements are more than the schedules take"
        return None


# finding


@dataclass(frozen=True)
class _Trace:
    """Where an element comes from: element `index` of `value`, times factors at indices of their own."""

    value: SSAValue
    index: Position
    factors: tuple[tuple[SSAValue, Position], ...]
    is_shared: bool
    """Whether something else reads it on the way."""


def _trace(value: SSAValue, index: Position) -> _Trace:
    """Follows an element through views and factors up to what computes it."""
    factors: list[tuple[SSAValue, Position]] = []
    is_shared = not value.has_one_use()
    while True:
        match value.owner:
            case hamkaas.ReshapeOp() as op:
                source, index = op.input, delinearize(linearize(index, shape_of(value)), shape_of(op.input))
            case hamkaas.PermuteOp() as op:
                where = dict(zip(op.permutation, index, strict=True))
                source, index = op.input, tuple(where[axis] for axis in range(len(index)))
            case hamkaas.MulOp() as op:
                source = op.lhs
                factors.append((op.rhs, broadcast(index, shape_of(op.rhs))))
            case _:
                return _Trace(value, index, tuple(factors), is_shared)
        value = source
        is_shared |= not value.has_one_use()


def _in_three(sizes: Sequence[Index]) -> tuple[Index, ...]:
    """Batch, row and column of an index; what it lacks is 0."""
    return (*[Index.ZERO] * (hamkaas.MAX_RANK - len(sizes)), *sizes)


@dataclass(frozen=True)
class _Softmax:
    """A softmax whose result is one side of a product: [b, m, n] on the left, or [b, n, m] on the right."""

    product: hamkaas.MatmulOp
    is_flipped: bool
    """Whether it is the right side."""
    op: hamkaas.SlicedSoftmaxOp
    weights: _Trace
    batch: Index
    row: Index
    position: Index


def _find_softmax(product: hamkaas.MatmulOp) -> _Softmax | None:
    """The softmax that a product multiplies, if it does."""
    for is_flipped, side in enumerate(product.operands):
        shape = shape_of(side)
        index = tuple(Index.of(Var(product.result, size)) for size in shape)  # of any element, so of any value
        weights = _trace(side, index)
        if isinstance(op := weights.value.owner, hamkaas.SlicedSoftmaxOp):
            batch, row, column = _in_three(index)
            row, position = (column, row) if is_flipped else (row, column)
            return _Softmax(product, bool(is_flipped), op, weights, batch, row, position)
    return None


# replacing


@dataclass(frozen=True)
class _Operand:
    """An operand of a product, as [b, x, y] where it has fewer axes; `axes` puts them into the order in its name."""

    value: SSAValue
    axes: tuple[int, int, int]

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes of the axes, in order."""
        shape = shape_of(self.value)
        whole = (*[1] * (hamkaas.MAX_RANK - len(shape)), *shape)
        return tuple(whole[axis] for axis in self.axes)

    @property
    def element(self) -> object:
        """The type of the elements."""
        return tensor_type(self.value).element_type

    def __str__(self) -> str:
        return f"{list(self.sizes)} of {self.element}"


@dataclass(frozen=True)
class _Parts:
    """What an attention is made of: queries [b, m, d], keys and values [b, n, d]."""

    found: _Softmax
    scores: hamkaas.MatmulOp
    is_flipped: bool
    """Whether the scores are keys times queries."""
    factors: list[SSAValue]

    @property
    def queries(self) -> _Operand:
        """[b, m, d]."""
        return _Operand(self.scores.rhs, (0, 2, 1)) if self.is_flipped else _Operand(self.scores.lhs, (0, 1, 2))

    @property
    def keys(self) -> _Operand:
        """[b, n, d]."""
        return _Operand(self.scores.lhs, (0, 1, 2)) if self.is_flipped else _Operand(self.scores.rhs, (0, 2, 1))

    @property
    def values(self) -> _Operand:
        """[b, n, d]."""
        product = self.found.product
        return _Operand(product.lhs, (0, 2, 1)) if self.found.is_flipped else _Operand(product.rhs, (0, 1, 2))


@dataclass(frozen=True)
class _Inserter:
    """Puts operations before another one; views of views become one, or none."""

    before: Operation

    def add(self, op: hamkaas.TensorOp) -> SSAValue:
        """Inserts an operation."""
        Rewriter.insert_op(op, InsertPoint.before(self.before))
        return op.result

    def reshape(self, value: SSAValue, shape: Sequence[int]) -> SSAValue:
        """The elements of a value under another shape."""
        if tuple(shape) == shape_of(value):
            return value
        if isinstance(inner := value.owner, hamkaas.ReshapeOp):
            source = inner.input
            if value.first_use is None:  # one of ours, on the way to this one
                Rewriter.erase_op(inner)
            return self.reshape(source, shape)
        return self.add(hamkaas.ReshapeOp(value, shape))

    def permute(self, value: SSAValue, axes: Sequence[int]) -> SSAValue:
        """A value with its axes in another order."""
        shape = shape_of(value)
        moved = [axis for axis in axes if shape[axis] > 1]
        if moved == sorted(moved):  # the elements stay in order
            return self.reshape(value, [shape[axis] for axis in axes])
        if isinstance(inner := value.owner, hamkaas.PermuteOp):
            return self.permute(inner.input, [inner.permutation[axis] for axis in axes])
        return self.add(hamkaas.PermuteOp(value, axes))

    def arrange(self, operand: _Operand, order: Sequence[int], shape: Sequence[int] = ()) -> SSAValue:
        """An operand with its axes in another order, under a shape if one is given."""
        lacking = hamkaas.MAX_RANK - len(shape_of(operand.value))
        axes = [operand.axes[axis] for axis in order]
        permuted = self.permute(operand.value, [axis - lacking for axis in axes if axis >= lacking])
        return self.reshape(permuted, shape or [operand.sizes[axis] for axis in order])


def _replace(product: hamkaas.MatmulOp, parts: _Parts) -> None:
    """Puts an attention in the place of a product, and erases what only the product needed."""
    at = _Inserter(product)
    batch, rows, d = parts.queries.sizes
    has_lengths = shape_of(parts.found.op.prefix) != (1,)
    query = (
        at.arrange(parts.queries, (1, 0, 2)) if has_lengths else at.arrange(parts.queries, (0, 1, 2), [batch * rows, d])
    )
    scale = 1.0
    for factor in parts.factors:
        if isinstance(factor.owner, hamkaas.ConstantOp) and isinstance(number := factor.owner.value, FloatAttr):
            scale *= number.value.data
        else:
            query = at.add(hamkaas.MulOp(query, at.reshape(factor, [1] * len(shape_of(query)))))
    keys, values = at.arrange(parts.keys, (1, 0, 2)), at.arrange(parts.values, (1, 0, 2))
    result = at.add(hamkaas.AttentionOp(query, keys, values, parts.found.op.prefix, scale))
    result.name_hint = product.result.name_hint
    if has_lengths:
        result = at.permute(result, (1, 2, 0) if parts.found.is_flipped else (1, 0, 2))
    elif parts.found.is_flipped and rows > 1:
        result = at.permute(at.reshape(result, [batch, rows, d]), (0, 2, 1))
    result = at.reshape(result, shape_of(product.result))
    operands = list(product.operands)
    product.result.replace_all_uses_with(result)
    Rewriter.erase_op(product)
    _erase_unused(operands)


def _erase_unused(values: Sequence[SSAValue]) -> None:
    """Erases what computes values that nobody reads any more."""
    for value in values:
        op = value.owner
        if isinstance(op, hamkaas.TensorOp | hamkaas.ConstantOp) and value.first_use is None:
            operands = list(op.operands)
            Rewriter.erase_op(op)
            _erase_unused(operands)

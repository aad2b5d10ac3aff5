"""Fusion of consumers: the operations between a result that a schedule computes and what it stores.

A product or an attention gives a few elements of its result at a time. The epilogue takes each of them *forward*, one
operation after the other: a reshape or permute moves its position, a pointwise operation joins it with the elements of
other operands at the same position. Nothing is looked up by an index, so nothing can be missing:
`hamkaas-outline-groups` admits only operations of which each element needs one element of the result.

`hamkaas.complex_mul` needs two, a pair. Where one follows, the schedule gives its elements pair by pair: neighbours
along the last axis, the even one first, as two elements in a row or as two lanes of a vector.
"""

from collections.abc import Mapping, Sequence

from xdsl.ir import Operation, SSAValue

from hamkaas.dialects import hamkaas
from hamkaas.schedules.builder import lanes_of
from hamkaas.schedules.elements import (
    Elements,
    Position,
    broadcast,
    complex_lanes,
    complex_product,
    forward_one,
    shape_of,
)


class Epilogue:
    """The operations among `ops` that are computed from `anchors`, the results of a reduction or of several alike."""

    def __init__(self, elements: Elements, ops: Sequence[Operation], anchors: Sequence[SSAValue], output: SSAValue):
        self.elements = elements
        self.anchors = tuple(anchors)
        self.output = output
        reached = set(anchors)
        self.path: list[Operation] = []
        for op in ops:
            if not reached.isdisjoint(op.operands):
                self.path.append(op)
                reached.update(op.results)

    @property
    def pairs(self) -> int:
        """Elements that must be given together: 2 where a complex product follows, else 1."""
        return 2 if any(isinstance(op, hamkaas.ComplexMulOp) for op in self.path) else 1

    @property
    def values(self) -> list[SSAValue]:
        """The anchors and all that is computed from them."""
        return [*self.anchors, *(op.results[0] for op in self.path)]

    def apply(self, positions: Sequence[Position], elements: Sequence[SSAValue]) -> list[tuple[Position, SSAValue]]:
        """Elements of the output, with their positions, from elements of the anchors.

        `elements` has those of the first anchor at `positions`, then those of the next.
        """
        count = len(positions)
        at = {anchor: list(positions) for anchor in self.anchors}
        known = {
            anchor: [self.elements.rounded(anchor, x) for x in elements[number * count : (number + 1) * count]]
            for number, anchor in enumerate(self.anchors)
        }
        for op in self.path:
            result, given = op.results[0], [operand for operand in op.operands if operand in known]
            at[result] = at[given[0]]
            match op:
                case hamkaas.ReshapeOp() | hamkaas.PermuteOp():
                    at[result] = [forward_one(op, position) for position in at[given[0]]]
                    known[result] = known[given[0]]
                case hamkaas.ComplexMulOp():
                    known[result] = self._complex(op, at[result], known)
                case _:
                    known[result] = [
                        self.elements.compute_from(result, position, {value: known[value][slot] for value in given})
                        for slot, position in enumerate(at[result])
                    ]
        return list(zip(at[self.output], known[self.output], strict=True))

    def _complex(
        self, op: hamkaas.ComplexMulOp, positions: Sequence[Position], known: Mapping[SSAValue, list[SSAValue]]
    ) -> list[SSAValue]:
        b, e = self.elements.builder, self.elements

        def side(value: SSAValue) -> list[SSAValue]:
            if value in known:
                return known[value]
            return [e.at(value, broadcast(position, shape_of(value))) for position in positions]

        x, y = side(op.lhs), side(op.rhs)
        if any(lanes_of(one) > 1 for one in x):
            exact = [complex_lanes(b, *both) for both in zip(x, y, strict=True)]
        else:
            firsts = range(0, len(positions), 2)
            exact = [part for n in firsts for part in complex_product(b, x[n : n + 2], y[n : n + 2])]
        return [e.rounded(op.result, part) for part in exact]

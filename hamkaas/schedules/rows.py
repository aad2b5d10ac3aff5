"""Schedule of operations that look at whole rows: rms_norm, sliced_softmax, argmax.

CPU: a block is one or more rows, each the loop of one worker. CUDA: a block of threads shares a row.
"""

from collections.abc import Callable
from functools import partial
from math import prod

from xdsl.ir import SSAValue

from hamkaas.dialects import hamkaas
from hamkaas.dialects.kernel import Combine
from hamkaas.schedules.elements import Position, lane_in, per_lane, shape_of
from hamkaas.schedules.index import Index, delinearize
from hamkaas.schedules.lowering import Lowering
from hamkaas.schedules.team import WARP, Factors, Span, Team

CPU_BLOCK = 4096
"""Elements of a block on the CPU, where rows are shorter than that."""


def lower_rms_norm(lowering: Lowering, op: hamkaas.RmsNormOp) -> tuple[int, int]:
    """x * w / sqrt(mean(x^2) + eps): one pass for the sum, one for the result."""
    b, e = lowering.builder, lowering.elements
    n = shape_of(op.input)[-1]

    def row(team: Team, at: Position) -> None:
        def square(k: Index) -> list[Factors]:
            x = e.at(op.input, (*at, k))
            return [Factors(x, x)]

        (total,) = team.reduce(Span(n), [Combine.ADD], square)
        mean = b.mul(total, b.real(1 / n))
        scale = b.div(b.real(1.0), b.sqrt(b.add(mean, b.real(op.eps.value.data))))
        e.define(op.result, lambda i: b.mul(b.mul(e.at(op.input, i), scale), e.at(op.weight, i[-1:])))
        team.each(Span(n), lambda k: lowering.store_output(op.result, (*at, k)))

    return _lower_rows(lowering, shape_of(op.input), row)


def lower_sliced_softmax(lowering: Lowering, op: hamkaas.SlicedSoftmaxOp) -> tuple[int, int]:
    """exp(x - max) / sum over the prefix, the rest as it is."""
    b, e = lowering.builder, lowering.elements
    shape = shape_of(op.input)
    n = shape[-1]

    def row(team: Team, at: Position) -> None:
        which = at[-1] if shape_of(op.prefix) != (1,) else Index.of(0)
        prefix = e.index_at(op.prefix, which, n + 1)
        span = Span(n, Index.of(0), prefix)
        (largest,) = team.reduce(span, [Combine.MAX], lambda k: [e.at(op.input, (*at, k))])
        (total,) = team.reduce(span, [Combine.ADD], lambda k: [b.exp(b.sub(e.at(op.input, (*at, k)), largest))])
        scale = b.div(b.real(1.0), total)

        def inside(i: Position) -> SSAValue:
            return b.mul(b.exp(b.sub(e.at(op.input, i), largest)), scale)

        def anywhere(i: Position) -> SSAValue:
            if (lane := lane_in(i[-1])) is not None:
                return b.pack([anywhere(one) for one in per_lane(i, lane)])
            return b.select(b.compare("slt", b.index(i[-1]), b.index(prefix)), inside(i), e.at(op.input, i))

        def store(k: Index) -> None:
            lowering.store_output(op.result, (*at, k))

        # of a pair, one element may lie inside of the prefix and the other one not
        has_pairs = lowering.epilogue(op.result).pairs > 1
        e.define(op.result, anywhere if has_pairs else inside)
        team.each(span, store)
        e.define(op.result, anywhere if has_pairs else lambda i: e.at(op.input, i))
        team.each(Span(n, prefix), store)

    return _lower_rows(lowering, shape, row)


def lower_argmax(lowering: Lowering, op: hamkaas.ArgmaxOp) -> tuple[int, int]:
    """The first of the largest elements of a row."""
    b, e = lowering.builder, lowering.elements
    shape = shape_of(op.input)

    def row(team: Team, at: Position) -> None:
        _, place = team.first_largest(shape[-1], lambda k: e.at(op.input, (*at, k)))
        e.define(op.result, lambda _: place)
        store = partial(lowering.store_output, op.result, at or (Index.of(0),))
        if team.threads == 1:
            store()
        else:
            b.when(b.compare("eq", b.index(team.thread), b.number(0)), store)

    return _lower_rows(lowering, shape, row)


def _lower_rows(lowering: Lowering, shape: tuple[int, ...], row: Callable[[Team, Position], None]) -> tuple[int, int]:
    b = lowering.builder
    *outer, n = shape
    rows = prod(outer)

    def at(number: Index) -> Position:
        return delinearize(number, outer) if outer else ()

    if lowering.target == "cuda":
        threads = min(1024, max(WARP, WARP * (-(-n // (lowering.lanes * WARP)))))
        threads = 1 << (threads - 1).bit_length()
        team = Team(b, threads, lowering.lanes, b.thread_id(threads), unroll=4)
        row(team, at(b.block_id(rows, "row")))
        return rows, threads

    team = Team(b, 1, lowering.lanes, Index.of(0), unroll=4, chains=True)
    per_block = min(rows, max(1, CPU_BLOCK // n))
    grid = -(-rows // per_block)
    if per_block == 1:
        row(team, at(b.block_id(grid, "row")))
        return grid, 1
    first = b.block_id(grid) * per_block
    high = b.minimum(b.index(first + per_block), b.number(rows))
    b.loop(b.index(first), high, 1, [], lambda i, _: row(team, at(b.var(i, rows, "row"))) or [], "row")
    return grid, 1

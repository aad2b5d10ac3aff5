"""Schedule of attention over a cache: one block for each query and head.

Three passes over the positions: scores and their maximum; exponentials and their sum; the weighted sum of the
values. The scores of one query stay in the block's own memory.
"""

from functools import partial

from xdsl.ir import SSAValue

from hamkaas.dialects import hamkaas
from hamkaas.dialects.kernel import Combine
from hamkaas.errors import CompileError
from hamkaas.schedules.elements import Position, shape_of
from hamkaas.schedules.index import Index, Lane
from hamkaas.schedules.lowering import Lowering
from hamkaas.schedules.team import Span, Team

CUDA_THREADS = 128
"""Threads of a block."""

MAX_POSITIONS = 8192
"""Positions whose scores fit the block's own memory beside the partial sums: 32 KiB."""

MAX_ACCUMULATORS = 16
"""Vectors of the result that one pass over the positions keeps in registers."""


def lower_attention(lowering: Lowering, op: hamkaas.AttentionOp) -> tuple[int, int]:
    """Lowers a group around one attention. Raises `CompileError` where the cache is too long for this schedule."""
    b, e = lowering.builder, lowering.elements
    *queries, heads, d = shape_of(op.query)
    positions, kv_heads, _ = shape_of(op.keys)
    if positions > MAX_POSITIONS:
        raise CompileError(f"hamkaas.attention: expected a cache of at most {MAX_POSITIONS} positions, got {positions}")
    threads = CUDA_THREADS if lowering.target == "cuda" else 1
    grid = heads * (queries[0] if queries else 1)
    block = b.block_id(grid)
    query, head = block // heads, block % heads
    group = head // (heads // kv_heads)
    thread = b.thread_id(threads) if threads > 1 else Index.of(0)
    width = next(lanes for lanes in (lowering.lanes, 4, 2, 1) if lanes <= lowering.lanes and d % lanes == 0)
    team = Team(b, threads, lowering.lanes, thread)
    alone = Team(b, 1, width, Index.of(0), unroll=2, chains=True)
    length = e.index_at(op.length, query if queries else Index.of(0), positions + 1)
    scores = b.shared(positions)
    at = (query, head) if queries else (head,)

    def score(j: Index) -> SSAValue:
        def product(c: Index) -> list[SSAValue]:
            return [b.mul(e.at(op.query, (*at, c)), e.at(op.keys, (j, group, c)))]

        (total,) = alone.reduce(Span(d), [Combine.ADD], product)
        return b.mul(total, b.real(op.scale.value.data))

    def score_of(number: SSAValue, largest: list[SSAValue]) -> list[SSAValue]:
        value = score(b.var(number, positions, "j"))
        b.store(value, scores, number)
        return [b.combine(Combine.MAX, largest[0], value)]

    lowest = b.real(float("-inf"))
    (largest,) = b.loop(b.index(thread), b.index(length), threads, [lowest], score_of, "j")
    (largest,) = team.across([largest], [partial(b.combine, Combine.MAX)])
    if threads > 1:
        b.barrier()

    def weight(j: Index) -> list[SSAValue]:
        value = b.exp(b.sub(e.load_raw(scores, j), largest))
        e.store(value, scores, j)
        return [value]

    (total,) = team.reduce(Span(positions, Index.of(0), length), [Combine.ADD], weight)
    empty = b.compare("eq", b.index(length), b.number(0))
    scale = b.select(empty, b.real(0.0), b.div(b.real(1.0), total))
    if threads > 1:
        b.barrier()

    def weighted(first: Index, by: int, chunks: list[Index]) -> list[SSAValue]:
        """The sums over positions first, first + by, ... of weight * value, for some chunks of the head."""

        def add(number: SSAValue, sums: list[SSAValue]) -> list[SSAValue]:
            j = b.var(number, positions, "j")
            w = b.load(scores, number)
            return [b.add(s, b.mul(w, e.at(op.values, (j, group, c)))) for s, c in zip(sums, chunks, strict=True)]

        zero = b.real(0.0, width)
        return b.loop(b.index(first), b.index(length), by, [zero] * len(chunks), add, "j")

    def finish(chunk: Index, sum: SSAValue) -> None:
        place: Position = (*at, chunk)
        lowering.tile(op.result, {place: b.mul(sum, scale)})
        lowering.store_output(op.result, place)

    lane = Index.of(Lane(width)) if width > 1 else Index.of(0)
    if threads == 1:
        chunks = [Index.of(c) + lane for c in range(0, d, width)]
        for start in range(0, len(chunks), MAX_ACCUMULATORS):
            some = chunks[start : start + MAX_ACCUMULATORS]
            for chunk, value in zip(some, weighted(Index.of(0), 1, some), strict=True):
                finish(chunk, value)
        return grid, 1

    number_of_chunks = d // width
    if number_of_chunks > threads:
        raise CompileError(f"hamkaas.attention: expected heads of at most {threads * width} elements, got {d}")
    splits = threads // number_of_chunks
    parts = b.shared(splits * d)
    mine = b.var(b.index(thread % number_of_chunks), number_of_chunks, "chunk") * width + lane
    split = thread // number_of_chunks

    def part() -> None:
        (value,) = weighted(split, splits, [mine])
        e.store(value, parts, split * d + mine)

    if threads % number_of_chunks:
        b.when(b.compare("slt", b.index(split), b.number(splits)), part)
    else:
        part()
    b.barrier()

    def join() -> None:
        chunk = b.var(b.index(thread), number_of_chunks, "chunk") * width + lane
        total = b.real(0.0, width)
        for number in range(splits):
            total = b.add(total, e.load_raw(parts, chunk + number * d))
        finish(chunk, total)

    b.when(b.compare("slt", b.index(thread), b.number(number_of_chunks)), join)
    return grid, threads

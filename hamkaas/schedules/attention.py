"""Schedule of attention over a cache: one block for each query and head.

Three passes over the positions: scores and their maximum; exponentials and their sum; the weighted sum of the
values. The scores of one query stay in the block's own memory.
"""

from functools import partial
from itertools import product

from xdsl.ir import SSAValue

from hamkaas.dialects import hamkaas
from hamkaas.dialects.kernel import Combine
from hamkaas.errors import CompileError
from hamkaas.schedules.elements import Position, shape_of
from hamkaas.schedules.index import Index, Lane
from hamkaas.schedules.lowering import Lowering
from hamkaas.schedules.team import WARP, Span, Team

CUDA_THREADS, CUDA_MANY_THREADS, CUDA_MANY_FROM = 128, 512, 513
"""Threads of a block, and of one over a cache of so many positions or more."""

CUDA_AT_ONCE = 4
"""Positions whose keys or values a thread has in flight."""

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
    threads = 1
    if lowering.target == "cuda":
        threads = CUDA_MANY_THREADS if positions >= CUDA_MANY_FROM else CUDA_THREADS
    grid = heads * (queries[0] if queries else 1)
    block = b.block_id(grid)
    query, head = block // heads, block % heads
    group = head // (heads // kv_heads)
    thread = b.thread_id(threads) if threads > 1 else Index.of(0)
    width = next(lanes for lanes in (lowering.lanes, 4, 2, 1) if lanes <= lowering.lanes and d % lanes == 0)
    team = Team(b, threads, lowering.lanes, thread)
    # the threads that share one position: neighbours read neighbours of its key
    sharing = min(WARP, _power_of_two(d // width), threads)
    member = b.var(b.index(thread % sharing), sharing, "member") if sharing > 1 else Index.of(0)
    few = Team(b, sharing, width, member, unroll=d // width // sharing if threads > 1 else 2, chains=threads == 1)
    length = e.index_at(op.length, query if queries else Index.of(0), positions + 1)
    scores = b.shared(positions)
    at = (query, head) if queries else (head,)

    def score(j: Index) -> SSAValue:
        def pair(c: Index) -> list[SSAValue]:
            return [b.mul(e.at(op.query, (*at, c)), e.at(op.keys, (j, group, c)))]

        (total,) = few.reduce(Span(d), [Combine.ADD], pair)
        return b.mul(total, b.real(op.scale.value.data))

    lowest = b.real(float("-inf"))
    teams = threads // sharing
    at_once = CUDA_AT_ONCE if threads > 1 else 1

    def rows(first: SSAValue, step: int) -> list[Index]:
        """Positions first, first + step, ...; the last one in place of those behind it, where it does no harm."""
        if at_once == 1:
            return [b.var(first, positions, "j")]
        last = b.sub(b.index(length), b.number(1))
        start = b.var(first, positions, "first")
        return [b.var(b.minimum(b.index(start + n * step), last), positions, "j") for n in range(at_once)]

    def score_of(first: SSAValue, largest: list[SSAValue]) -> list[SSAValue]:
        # all threads take part in all rounds, since those of a warp exchange registers
        mine = b.index(b.var(first, positions, "first") + thread // sharing) if teams > 1 else first
        some = rows(mine, teams)
        for j, c in product(some, few.straight(Span(d)) if threads > 1 else []):
            e.at(op.keys, (j, group, c))  # on their way before the first is used
        for j in some:
            value = score(j)
            b.store(value, scores, b.index(j))
            largest = [b.combine(Combine.MAX, largest[0], value)]
        return largest

    (largest,) = b.loop(b.number(0), b.index(length), teams * at_once, [lowest], score_of, "first")
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
            some = rows(number, by)
            for j, c in product(some, chunks if at_once > 1 else []):
                e.at(op.values, (j, group, c))
            for place, j in enumerate(some):
                w = b.load(scores, b.index(j))
                if place:
                    here = b.compare("slt", b.add(number, b.number(place * by)), b.index(length))
                    w = b.select(here, w, b.real(0.0))
                sums = [b.add(s, b.mul(w, e.at(op.values, (j, group, c)))) for s, c in zip(sums, chunks, strict=True)]
            return sums

        zero = b.real(0.0, width)
        return b.loop(b.index(first), b.index(length), by * at_once, [zero] * len(chunks), add, "j")

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


def _power_of_two(number: int) -> int:
    """The largest power of two that divides a number."""
    return number & -number

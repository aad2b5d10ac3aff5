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
    positions = shape_of(op.keys)[0]
    if positions > MAX_POSITIONS:
        raise CompileError(f"hamkaas.attention: expected a cache of at most {MAX_POSITIONS} positions, got {positions}")
    if lowering.target == "cpu":
        return _Attention(lowering, op, 1).lower()
    return _Attention(lowering, op, CUDA_MANY_THREADS if positions >= CUDA_MANY_FROM else CUDA_THREADS).lower()


class _Attention:
    """One block's work on one query and head."""

    def __init__(self, lowering: Lowering, op: hamkaas.AttentionOp, threads: int):
        b = lowering.builder
        *queries, heads, self.d = shape_of(op.query)
        self.positions, kv_heads, _ = shape_of(op.keys)
        self.lowering, self.op, self.threads = lowering, op, threads
        self.grid = heads * (queries[0] if queries else 1)
        block = b.block_id(self.grid)
        query, head = block // heads, block % heads
        self.group = head // (heads // kv_heads)
        self.at: Position = (query, head) if queries else (head,)
        self.thread = b.thread_id(threads) if threads > 1 else Index.of(0)
        self.width = next(
            lanes for lanes in (lowering.lanes, 4, 2, 1) if lanes <= lowering.lanes and self.d % lanes == 0
        )
        self.team = Team(b, threads, lowering.lanes, self.thread)
        self.at_once = CUDA_AT_ONCE if threads > 1 else 1
        # the threads that share one position: neighbours read neighbours of its key
        self.sharing = min(WARP, _power_of_two(self.d // self.width), threads)
        sharing = self.sharing
        member = b.var(b.index(self.thread % sharing), sharing, "member") if sharing > 1 else Index.of(0)
        unroll = self.d // self.width // sharing if threads > 1 else 2
        self.few = Team(b, sharing, self.width, member, unroll, chains=threads == 1)
        self.length = self._length(query if queries else Index.of(0))
        self.scores = b.shared(self.positions)

    def _length(self, query: Index) -> Index:
        """How many positions a query sees."""
        b, op = self.lowering.builder, self.op
        if not op.is_causal:
            return self.lowering.elements.index_at(op.length, query, self.positions + 1)
        of_last = self.lowering.elements.index_at(op.length, Index.of(0), self.positions + 1)
        before = b.sub(b.number(op.queries - 1), b.index(query))
        return b.var(b.maximum_index(b.sub(b.index(of_last), before), b.number(0)), self.positions + 1, "length")

    def lower(self) -> tuple[int, int]:
        """The three passes; gives grid and block."""
        b = self.lowering.builder
        largest = self._largest_score()
        total = self._total_weight(largest)
        empty = b.compare("eq", b.index(self.length), b.number(0))
        scale = b.select(empty, b.real(0.0), b.div(b.real(1.0), total))
        if self.threads > 1:
            b.barrier()
            self._mix_by_block(scale)
        else:
            self._mix_alone(scale)
        return self.grid, self.threads

    def _rows(self, first: SSAValue, step: int) -> list[Index]:
        """Positions first, first + step, ...; the last one in place of those behind it, where it does no harm."""
        b = self.lowering.builder
        if self.at_once == 1:
            return [b.var(first, self.positions, "j")]
        last = b.sub(b.index(self.length), b.number(1))
        start = b.var(first, self.positions, "first")
        return [b.var(b.minimum(b.index(start + n * step), last), self.positions, "j") for n in range(self.at_once)]

    # scores

    def _largest_score(self) -> SSAValue:
        """Computes and keeps the score of each position; gives the largest."""
        b, e, op = self.lowering.builder, self.lowering.elements, self.op
        teams = self.threads // self.sharing

        def round(first: SSAValue, largest: list[SSAValue]) -> list[SSAValue]:
            # all threads take part in all rounds, since those of a warp exchange registers
            mine = first
            if teams > 1:
                mine = b.index(b.var(first, self.positions, "first") + self.thread // self.sharing)
            some = self._rows(mine, teams)
            for j, c in product(some, self.few.straight(Span(self.d)) if self.threads > 1 else []):
                e.at(op.keys, (j, self.group, c))  # on their way before the first is used
            for j in some:
                value = self._score(j)
                b.store(value, self.scores, b.index(j))
                largest = [b.combine(Combine.MAX, largest[0], value)]
            return largest

        lowest = b.real(float("-inf"))
        (largest,) = b.loop(b.number(0), b.index(self.length), teams * self.at_once, [lowest], round, "first")
        (largest,) = self.team.across([largest], [partial(b.combine, Combine.MAX)])
        if self.threads > 1:
            b.barrier()
        return largest

    def _score(self, j: Index) -> SSAValue:
        b, e, op = self.lowering.builder, self.lowering.elements, self.op

        def pair(c: Index) -> list[SSAValue]:
            return [b.mul(e.at(op.query, (*self.at, c)), e.at(op.keys, (j, self.group, c)))]

        (total,) = self.few.reduce(Span(self.d), [Combine.ADD], pair)
        return b.mul(total, b.real(op.scale.value.data))

    def _total_weight(self, largest: SSAValue) -> SSAValue:
        """Turns the scores into weights, exp(score - largest); gives their sum."""
        b, e = self.lowering.builder, self.lowering.elements

        def weight(j: Index) -> list[SSAValue]:
            value = b.exp(b.sub(e.load_raw(self.scores, j), largest))
            e.store(value, self.scores, j)
            return [value]

        (total,) = self.team.reduce(Span(self.positions, Index.of(0), self.length), [Combine.ADD], weight)
        return total

    # the weighted sum of the values

    def _weighted(self, first: Index, by: int, chunks: list[Index]) -> list[SSAValue]:
        """The sums over positions first, first + by, ... of weight * value, for some chunks of the head."""
        b, e, op = self.lowering.builder, self.lowering.elements, self.op

        def add(number: SSAValue, sums: list[SSAValue]) -> list[SSAValue]:
            some = self._rows(number, by)
            for j, c in product(some, chunks if self.at_once > 1 else []):
                e.at(op.values, (j, self.group, c))
            for place, j in enumerate(some):
                w = b.load(self.scores, b.index(j))
                if place:
                    here = b.compare("slt", b.add(number, b.number(place * by)), b.index(self.length))
                    w = b.select(here, w, b.real(0.0))
                sums = [
                    b.add(total, b.mul(w, e.at(op.values, (j, self.group, c))))
                    for total, c in zip(sums, chunks, strict=True)
                ]
            return sums

        zero = b.real(0.0, self.width)
        return b.loop(b.index(first), b.index(self.length), by * self.at_once, [zero] * len(chunks), add, "j")

    def _finish(self, chunk: Index, sum: SSAValue, scale: SSAValue) -> None:
        place: Position = (*self.at, chunk)
        self.lowering.tile(self.op.result, {place: self.lowering.builder.mul(sum, scale)})
        self.lowering.store_output(self.op.result, place)

    @property
    def _lane(self) -> Index:
        return Index.of(Lane(self.width)) if self.width > 1 else Index.of(0)

    def _mix_alone(self, scale: SSAValue) -> None:
        """One worker: as many chunks of the head at once as fit its registers."""
        chunks = [Index.of(c) + self._lane for c in range(0, self.d, self.width)]
        for start in range(0, len(chunks), MAX_ACCUMULATORS):
            some = chunks[start : start + MAX_ACCUMULATORS]
            for chunk, value in zip(some, self._weighted(Index.of(0), 1, some), strict=True):
                self._finish(chunk, value, scale)

    def _mix_by_block(self, scale: SSAValue) -> None:
        """Each thread takes one chunk of the head and a share of the positions; the first threads add the shares up."""
        b, e = self.lowering.builder, self.lowering.elements
        count, lane = self.d // self.width, self._lane
        if count > self.threads:
            most = self.threads * self.width
            raise CompileError(f"hamkaas.attention: expected heads of at most {most} elements, got {self.d}")
        splits = self.threads // count
        parts = b.shared(splits * self.d)
        mine = b.var(b.index(self.thread % count), count, "chunk") * self.width + lane
        split = self.thread // count

        def part() -> None:
            (value,) = self._weighted(split, splits, [mine])
            e.store(value, parts, split * self.d + mine)

        if self.threads % count:
            b.when(b.compare("slt", b.index(split), b.number(splits)), part)
        else:
            part()
        b.barrier()

        def join() -> None:
            chunk = b.var(b.index(self.thread), count, "chunk") * self.width + lane
            total = b.real(0.0, self.width)
            for number in range(splits):
                total = b.add(total, e.load_raw(parts, chunk + number * self.d))
            self._finish(chunk, total, scale)

        b.when(b.compare("slt", b.index(self.thread), b.number(count)), join)


def _power_of_two(number: int) -> int:
    """The largest power of two that divides a number."""
    return number & -number

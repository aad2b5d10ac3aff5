"""Schedule of attention over a cache on the CPU: one worker for each query and head.

Three passes over the positions: scores and their maximum; exponentials and their sum; the weighted sum of the
values. The scores of one query stay in the worker's own memory. On CUDA, `attention_cuda.py` makes one pass.
"""

from xdsl.ir import SSAValue

from hamkaas.dialects import hamkaas
from hamkaas.dialects.kernel import Combine
from hamkaas.errors import CompileError
from hamkaas.schedules.elements import Position, shape_of
from hamkaas.schedules.index import Index, Lane
from hamkaas.schedules.lowering import Lowering
from hamkaas.schedules.team import Factors, Span, Team

MAX_POSITIONS = 8192
"""Positions whose scores fit the worker's own memory: 32 KiB."""

MAX_ACCUMULATORS = 16
"""Vectors of the result that one pass over the positions keeps in registers."""


def lower_attention(lowering: Lowering, op: hamkaas.AttentionOp) -> tuple[int, int]:
    """Lowers a group around one attention. Raises `CompileError` where the cache is too long for this schedule."""
    positions = shape_of(op.keys)[0]
    if positions > MAX_POSITIONS:
        raise CompileError(f"hamkaas.attention: expected a cache of at most {MAX_POSITIONS} positions, got {positions}")
    return _Attention(lowering, op).lower()


def length_of(lowering: Lowering, op: hamkaas.AttentionOp, query: Index) -> Index:
    """How many positions a query sees."""
    b = lowering.builder
    positions = shape_of(op.keys)[0]
    if not op.is_causal:
        return lowering.elements.index_at(op.length, query, positions + 1)
    of_last = lowering.elements.index_at(op.length, Index.of(0), positions + 1)
    before = b.sub(b.number(op.queries - 1), b.index(query))
    return b.var(b.maximum_index(b.sub(b.index(of_last), before), b.number(0)), positions + 1, "length")


class _Attention:
    """One worker's share: one query and head."""

    def __init__(self, lowering: Lowering, op: hamkaas.AttentionOp):
        b = lowering.builder
        *queries, heads, self.d = shape_of(op.query)
        self.positions, kv_heads, _ = shape_of(op.keys)
        self.lowering, self.op = lowering, op
        self.grid = heads * (queries[0] if queries else 1)
        block = b.block_id(self.grid)
        query, head = block // heads, block % heads
        self.group = head // (heads // kv_heads)
        self.at: Position = (query, head) if queries else (head,)
        self.width = next(
            lanes for lanes in (lowering.lanes, 4, 2, 1) if lanes <= lowering.lanes and self.d % lanes == 0
        )
        self.team = Team(b, 1, lowering.lanes, Index.of(0))
        self.few = Team(b, 1, self.width, Index.of(0), unroll=2, chains=True)
        self.length = length_of(lowering, op, query if queries else Index.of(0))
        self.scores = b.shared(self.positions)

    def lower(self) -> tuple[int, int]:
        """The three passes; gives grid and block."""
        b = self.lowering.builder
        largest = self._largest_score()
        total = self._total_weight(largest)
        empty = b.compare("eq", b.index(self.length), b.number(0))
        self._mix(b.select(empty, b.real(0.0), b.div(b.real(1.0), total)))
        return self.grid, 1

    def _largest_score(self) -> SSAValue:
        """Computes and keeps the score of each position; gives the largest."""
        b = self.lowering.builder

        def one(number: SSAValue, largest: list[SSAValue]) -> list[SSAValue]:
            j = b.var(number, self.positions, "j")
            value = self._score(j)
            b.store(value, self.scores, b.index(j))
            return [b.combine(Combine.MAX, largest[0], value)]

        lowest = b.real(float("-inf"))
        (largest,) = b.loop(b.number(0), b.index(self.length), 1, [lowest], one, "j")
        return largest

    def _score(self, j: Index) -> SSAValue:
        b, e, op = self.lowering.builder, self.lowering.elements, self.op

        def pair(c: Index) -> list[Factors]:
            return [Factors(e.at(op.query, (*self.at, c)), e.at(op.keys, (j, self.group, c)))]

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

    def _mix(self, scale: SSAValue) -> None:
        """The sums of weight * value, scaled: as many chunks of the head at once as fit the registers."""
        epilogue = self.lowering.epilogue(self.op.result)
        lane = Index.of(Lane(self.width)) if self.width > 1 else Index.of(0)
        chunks = [Index.of(c) + lane for c in range(0, self.d, self.width)]
        for start in range(0, len(chunks), MAX_ACCUMULATORS):
            some = chunks[start : start + MAX_ACCUMULATORS]
            for chunk, value in zip(some, self._weighted(some), strict=True):
                self.lowering.store(epilogue, [(*self.at, chunk)], [self.lowering.builder.mul(value, scale)])

    def _weighted(self, chunks: list[Index]) -> list[SSAValue]:
        """The sums of weight * value over all positions, for some chunks of the head."""
        b, e, op = self.lowering.builder, self.lowering.elements, self.op

        def add(number: SSAValue, sums: list[SSAValue]) -> list[SSAValue]:
            j = b.var(number, self.positions, "j")
            w = b.load(self.scores, b.index(j))
            return [b.fma(w, e.at(op.values, (j, self.group, c)), total) for total, c in zip(sums, chunks, strict=True)]

        zero = b.real(0.0, self.width)
        return b.loop(b.number(0), b.index(self.length), 1, [zero] * len(chunks), add, "j")

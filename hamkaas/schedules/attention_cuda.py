"""Schedule of attention over a cache on CUDA: a cluster of blocks for each query and one or a few heads.

One pass over the positions, which are dealt out to the blocks of the cluster and to teams of threads in them; the
threads of a team share each key and value, by vectors of up to 16 bytes. A team keeps the largest score so far, and the
sums of the weights and of the weighted values relative to it (online softmax, arXiv:1805.02867). Teams of a warp then
join what they have through registers, warps of a block through shared memory, and blocks of a cluster through the
shared memory of the first one, which stores the result. Scores are never kept, so that a cache may have any length.

Query heads that read the same keys share a block where enough blocks are left: each key is read once for all of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from itertools import product
from math import e as euler
from math import log2

from xdsl.ir import SSAValue

from hamkaas.dialects import hamkaas
from hamkaas.dialects.hamkaas import tensor_type
from hamkaas.dialects.kernel import Combine
from hamkaas.errors import CompileError
from hamkaas.schedules.attention import length_of
from hamkaas.schedules.builder import Builder
from hamkaas.schedules.elements import Position, element_bytes, shape_of
from hamkaas.schedules.index import Index, Lane
from hamkaas.schedules.lowering import Lowering
from hamkaas.schedules.team import WARP, Span, Team

FILL = 128
"""Blocks that occupy a GPU: about one for each multiprocessor. Heads are split until there are as many."""

SHARE = 32 << 10
"""Bytes of keys and values that are worth a block: what one of `MAX_THREADS` threads has in flight at once."""

MIN_THREADS, MAX_THREADS = 128, 256
"""Threads of a block: so many that a full cache takes one round, but few where there are many blocks. With more, a
multiprocessor would hold one block only, and clusters wait for each other."""

ACCESS = 16
"""Bytes of the widest load."""

AT_ONCE = 4
"""Vectors of keys, and as many of values, that a thread has in flight."""

MAX_RESULT = 16
"""Elements of the result that a thread keeps if several heads share a block."""

MIN_BLOCKS = 2
"""Blocks that a multiprocessor is to hold: leaves a thread the registers for all loads of a round in flight, and is
enough for the clusters of a GPU to run at the same time."""

MAX_HEAD_DIM = 512
"""Elements of a head, for want of registers."""

SHARED = 40 << 10
"""Bytes of shared memory for what warps and blocks have found."""

LOWEST = -3.4028234663852886e38
"""The largest score of no positions: finite, so that it is never subtracted from itself as an infinity."""


@dataclass(frozen=True)
class Split:
    """How the work is shared out."""

    heads: int
    """Query heads of a block."""
    blocks: int
    """Blocks of a cluster, which share the positions."""
    threads: int
    """Threads of a block."""


@dataclass(frozen=True)
class Partial:
    """What some positions add up to, for one head."""

    largest: SSAValue
    """The largest score, in powers of two: scale * query . key / ln(2)."""
    sums: list[SSAValue]
    """The sum of the weights 2^(score - largest); then those of the weighted values, by vectors."""

    @property
    def state(self) -> list[SSAValue]:
        """All in a row, as a loop carries them."""
        return [self.largest, *self.sums]


def lower_attention_cuda(lowering: Lowering, op: hamkaas.AttentionOp) -> tuple[int, int]:
    """Lowers a group around one attention. Raises `CompileError` where a head is too long for this schedule."""
    if (d := shape_of(op.query)[-1]) > MAX_HEAD_DIM:
        raise CompileError(f"hamkaas.attention: expected heads of at most {MAX_HEAD_DIM} elements, got {d}")
    split = choose_split(op, lowering.max_cluster if len(lowering.outputs) == 1 else 1)
    lowering.cluster, lowering.min_blocks = split.blocks, MIN_BLOCKS
    return _Attention(lowering, op, split).lower()


def choose_split(op: hamkaas.AttentionOp, max_cluster: int) -> Split:
    """As many blocks as fill a GPU, if there is enough to read for them; heads share keys while that leaves enough."""
    *_, heads, d = shape_of(op.query)
    positions, kv_heads, _ = shape_of(op.keys)
    fits = [n for n in range(2, MAX_RESULT // (_width(op) * _rounds(op)) + 1) if heads // kv_heads % n == 0]
    together = max([n for n in fits if op.queries * heads // n * max_cluster >= FILL], default=1)
    units = op.queries * heads // together
    size = 2 * positions * d * element_bytes(tensor_type(op.keys).element_type)
    blocks = 1
    while blocks < max_cluster and units * blocks < FILL and size >= 2 * blocks * SHARE:
        blocks *= 2
    threads = MIN_THREADS
    while threads < MAX_THREADS and units < 8 * FILL and threads * AT_ONCE * blocks < positions * _sharing(op):
        threads *= 2
    while (threads // WARP + blocks) * together * d * 4 > SHARED:
        threads //= 2
    return Split(together, blocks, threads)


def _width(op: hamkaas.AttentionOp) -> int:
    """Elements of a key that a thread reads at once."""
    most = ACCESS // element_bytes(tensor_type(op.keys).element_type)
    return next(lanes for lanes in (8, 4, 2, 1) if lanes <= most and shape_of(op.keys)[-1] % lanes == 0)


def _sharing(op: hamkaas.AttentionOp) -> int:
    """Threads that share a position: one for each vector, rounded up to a power of two, a warp at most."""
    vectors = shape_of(op.keys)[-1] // _width(op)
    return min(WARP, 1 << (vectors - 1).bit_length())


def _rounds(op: hamkaas.AttentionOp) -> int:
    """Vectors of a key that each of them takes."""
    return -(-shape_of(op.keys)[-1] // (_width(op) * _sharing(op)))


class _Box:
    """Partial results of some warps or blocks, in shared memory, each for several heads."""

    def __init__(self, builder: Builder, count: int, heads: int, d: int):
        self.count, self.heads, self.d = count, heads, d
        self.largest, self.totals = builder.shared(count * heads), builder.shared(count * heads)
        self.values = builder.shared(count * heads * d)

    def place(self, number: Index, head: Index) -> Index:
        """Where the largest score and the sum of weights are."""
        return number * self.heads + head


class _Attention:
    """One block's share: some positions of one query, for some heads."""

    def __init__(self, lowering: Lowering, op: hamkaas.AttentionOp, split: Split):
        b = lowering.builder
        *queries, heads, self.d = shape_of(op.query)
        self.positions, kv_heads, _ = shape_of(op.keys)
        self.lowering, self.op, self.split = lowering, op, split
        parts = heads // split.heads
        self.grid = op.queries * parts * split.blocks
        block = b.block_id(self.grid)
        unit, self.rank = block // split.blocks, block % split.blocks
        query, self.first_head = unit // parts, unit % parts * split.heads
        self.query: Position = (query,) if queries else ()
        self.group = self.first_head // (heads // kv_heads)
        self.length = length_of(lowering, op, query)
        # who shares a position: neighbours read neighbours of its key
        self.thread = b.thread_id(split.threads)
        self.width, self.sharing = _width(op), _sharing(op)
        self.member = b.var(b.index(self.thread % self.sharing), self.sharing, "member")
        self.team = Team(b, self.sharing, self.width, self.member, unroll=_rounds(op))
        self.chunks = self.team.straight(Span(self.d))
        self.at_once = max(1, AT_ONCE // _rounds(op))
        self.result_width = next(lanes for lanes in (4, 2, 1) if self.d % lanes == 0)

    def lower(self) -> tuple[int, int]:
        """The pass over the positions, and what joins its parts; gives grid and block."""
        b, split = self.lowering.builder, self.split
        if split.blocks > 1:
            b.arrive(relaxed=True)  # that they have all started is waited for below
        partials = self._pass()
        box = _Box(b, split.threads // WARP, split.heads, self.d)
        for head, partial in enumerate(partials):
            self._leave(self._join_teams(partial), box, head)
        b.barrier()
        if split.blocks > 1:
            box = self._gather(box)
            b.when(b.compare("eq", b.index(self.rank), b.number(0)), lambda: self._finish(box))
        else:
            self._finish(box)
        return self.grid, split.threads

    # the pass

    def _pass(self) -> list[Partial]:
        """This team's positions, for each head."""
        b, e, op, split = self.lowering.builder, self.lowering.elements, self.op, self.split
        for head, c in product(range(split.heads), self.chunks):
            e.at(op.query, (*self._head(Index.of(head)), c))  # once, not in each round
        start = [b.real(LOWEST), b.real(0.0), *[b.real(0.0, self.width)] * len(self.chunks)]
        # all threads of a warp go the same rounds, since they exchange registers
        first = self.thread // WARP * (WARP // self.sharing) * split.blocks + self.rank
        teams = split.threads // self.sharing * split.blocks
        state = b.loop(
            b.index(first),
            b.index(self.length),
            teams * self.at_once,
            start * split.heads,
            lambda number, state: self._round(number, teams, state),
            "first",
        )
        return self._partials(state)

    def _partials(self, state: list[SSAValue]) -> list[Partial]:
        size = len(state) // self.split.heads
        return [Partial(state[at], state[at + 1 : at + size]) for at in range(0, len(state), size)]

    def _head(self, head: Index) -> Position:
        """Query and head, of the heads of this block."""
        return (*self.query, self.first_head + head)

    def _round(self, number: SSAValue, teams: int, state: list[SSAValue]) -> list[SSAValue]:
        """A few positions of each team, with all their keys and values in flight at once."""
        b, e, op = self.lowering.builder, self.lowering.elements, self.op
        first = b.var(number, self.positions, "first") + self.thread % WARP // self.sharing * self.split.blocks
        length = b.index(self.length)
        last = b.sub(length, b.number(1))
        numbers = [b.index(first + n * teams) for n in range(self.at_once)]
        # what is behind the last position reads that one again, and counts nothing
        rows = [b.var(b.minimum(n, last), self.positions, "j") for n in numbers]
        here = [b.compare("slt", n, length) for n in numbers]
        for source, j, c in product((op.keys, op.values), rows, self.chunks):
            e.at(source, (j, self.group, c))
        result: list[SSAValue] = []
        for head, old in enumerate(self._partials(state)):
            at = self._head(Index.of(head))
            scores = [
                b.select(is_here, self._score(at, j), b.real(float("-inf")))
                for is_here, j in zip(here, rows, strict=True)
            ]
            largest = reduce(lambda x, y: b.combine(Combine.MAX, x, y), scores, old.largest)
            keep = b.exp2(b.sub(old.largest, largest))
            total, *values = [b.mul(x, keep) for x in old.sums]
            for score, j in zip(scores, rows, strict=True):
                weight = b.exp2(b.sub(score, largest))
                total = b.add(total, weight)
                new = [e.at(op.values, (j, self.group, c)) for c in self.chunks]
                values = [b.fma(x, weight, value) for x, value in zip(new, values, strict=True)]
            result += Partial(largest, [total, *values]).state
        return result

    def _score(self, at: Position, j: Index) -> SSAValue:
        """scale * query . key / ln(2), for all threads of a team."""
        b, e, op = self.lowering.builder, self.lowering.elements, self.op
        chunks = [(e.at(op.query, (*at, c)), e.at(op.keys, (j, self.group, c))) for c in self.chunks]
        *parts, last = [b.dot(x, y) for x, y in chunks]
        if ragged := self.d // self.width % self.sharing:  # the others have read a vector that is not theirs
            last = b.select(b.compare("slt", b.index(self.member), b.number(ragged)), last, b.real(0.0))
        (total,) = self.team.across([reduce(b.add, [*parts, last])], lambda x, y: [b.add(x[0], y[0])])
        return b.mul(total, b.real(op.scale.value.data * log2(euler)))

    # joining

    def _join_teams(self, partial: Partial) -> Partial:
        """All positions of a warp: every team gets the same."""
        b = self.lowering.builder
        masks = [mask for mask in (16, 8, 4, 2, 1) if mask >= self.sharing]
        if not masks:
            return partial
        largest = partial.largest
        for mask in masks:
            largest = b.combine(Combine.MAX, largest, b.shuffle_xor(largest, mask))
        keep = b.exp2(b.sub(partial.largest, largest))
        sums = [b.mul(x, keep) for x in partial.sums]
        for mask in masks:
            sums = [b.add(x, b.shuffle_xor(x, mask)) for x in sums]
        return Partial(largest, sums)

    def _leave(self, partial: Partial, box: _Box, head: int) -> None:
        """The first team of a warp puts into a box what the warp has found."""
        b, e = self.lowering.builder, self.lowering.elements
        warp, lane = self.thread // WARP, self.thread % WARP
        place = box.place(warp, Index.of(head))
        total, *values = partial.sums
        vectors = self.d // self.width

        def leave(value: SSAValue, vector: Index) -> None:
            e.store(value, box.values, place * self.d + vector * self.width + _lanes(self.width))

        for round, value in enumerate(values):
            size = min(self.sharing, vectors - round * self.sharing)
            mine = b.var(b.index(lane), size, "vector") + round * self.sharing
            if size == WARP:
                leave(value, mine)
            else:
                b.when(b.compare("slt", b.index(lane), b.number(size)), lambda v=value, m=mine: leave(v, m))

        def leave_numbers() -> None:
            b.store(partial.largest, box.largest, b.index(place))
            b.store(total, box.totals, b.index(place))

        b.when(b.compare("eq", b.index(lane), b.number(0)), leave_numbers)

    def _joined(self, box: _Box, head: Index, first: Index) -> Partial:
        """All that is in a box, for a head and the vector of values that starts at an element."""
        b, e = self.lowering.builder, self.lowering.elements
        places = [box.place(Index.of(number), head) for number in range(box.count)]
        found = [b.load(box.largest, b.index(place)) for place in places]
        largest = reduce(lambda x, y: b.combine(Combine.MAX, x, y), found)
        keep = [b.exp2(b.sub(one, largest)) for one in found]
        totals = [b.load(box.totals, b.index(place)) for place in places]
        chunk = first + _lanes(self.result_width)
        values = [e.load_raw(box.values, place * self.d + chunk) for place in places]
        return Partial(largest, [self._weighted(totals, keep), self._weighted(values, keep)])

    def _weighted(self, values: list[SSAValue], weights: list[SSAValue]) -> SSAValue:
        """The sum of some values, each times its weight."""
        b = self.lowering.builder
        total = b.mul(values[0], weights[0])
        for value, weight in zip(values[1:], weights[1:], strict=True):
            total = b.fma(value, weight, total)
        return total

    def _each(self, body: Callable[[Index, Index], None]) -> None:
        """Shares out the heads of the block and the vectors of the result: head, and first element of the vector."""
        count = self.d // self.result_width
        team = Team(self.lowering.builder, self.split.threads, 1, self.thread)
        team.each(Span(self.split.heads * count), lambda i: body(i // count, i % count * self.result_width))

    def _gather(self, box: _Box) -> _Box:
        """Each block puts what it has found into a box of the first one, for which all wait."""
        b, split = self.lowering.builder, self.split
        gathered = _Box(b, split.blocks, split.heads, self.d)
        first_block = b.number(0)

        def give(head: Index, first: Index) -> None:
            partial = self._joined(box, head, first)
            total, values = partial.sums
            place = gathered.place(self.rank, head)
            b.give(values, gathered.values, b.index(place * self.d + first), first_block, 4 * self.result_width)

            def give_numbers() -> None:
                b.give(partial.largest, gathered.largest, b.index(place), first_block)
                b.give(total, gathered.totals, b.index(place), first_block)

            b.when(b.compare("eq", b.index(first), b.number(0)), give_numbers)

        b.wait()  # for the first block to have started
        self._each(give)
        b.arrive()
        b.wait()
        return gathered

    def _finish(self, box: _Box) -> None:
        b = self.lowering.builder
        epilogue = self.lowering.epilogue(self.op.result)
        is_empty = b.compare("eq", b.index(self.length), b.number(0))

        def store(head: Index, first: Index) -> None:
            total, values = self._joined(box, head, first).sums
            scale = b.select(is_empty, b.real(0.0), b.div(b.real(1.0), total))
            place: Position = (*self._head(head), first + _lanes(self.result_width))
            self.lowering.store(epilogue, [place], [b.mul(values, scale)])

        self._each(store)


def _lanes(width: int) -> Index:
    """What is added to the first element's index for that of each lane."""
    return Index.of(Lane(width)) if width > 1 else Index.of(0)

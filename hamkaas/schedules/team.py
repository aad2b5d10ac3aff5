"""The threads and lanes that share a loop.

Most schedules are loops along one axis that either reduce it or write along it. A `Team` is who runs such a loop:
one CPU worker with its vector lanes, the 32 threads of a warp, or all threads of a block. The schedules are written
once, against a team.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from xdsl.dialects.builtin import i64
from xdsl.ir import SSAValue

from hamkaas.dialects.kernel import Combine
from hamkaas.schedules.builder import Builder
from hamkaas.schedules.index import Index, Lane

WARP = 32
"""Threads of a warp: those that can exchange registers."""

IDENTITY = {Combine.ADD: 0.0, Combine.MAX: float("-inf")}
"""What changes nothing when it is joined."""


Step: TypeAlias = Callable[[Index, list[SSAValue], int], list[SSAValue]]
"""One element, or one vector of them, of a loop: index, carried values and number of the unrolled copy."""


Combiner: TypeAlias = Callable[[Sequence[SSAValue], Sequence[SSAValue]], Sequence[SSAValue]]
"""Two partial results as one, each of several values."""

Join: TypeAlias = Callable[[list[SSAValue]], list[SSAValue]]
"""What becomes of the carried values after the vectors of a loop."""

Masked: TypeAlias = Callable[[Index, SSAValue, list[SSAValue]], list[SSAValue]]
"""One vector that counts only where a condition holds: index, condition, carried values."""

Ahead: TypeAlias = Callable[[Index], object]
"""Builds loads for an element, which are there when it is asked for."""


@dataclass(frozen=True)
class Factors:
    """A product that is an element of a sum: each is added with one fused multiply-add."""

    x: SSAValue
    y: SSAValue


Element: TypeAlias = SSAValue | Factors
"""An element of a reduction."""


@dataclass(frozen=True)
class Span:
    """The elements low <= k < high of an axis; bounds that only the running kernel knows lie within `size`."""

    size: int
    low: Index = Index.ZERO
    high: Index | None = None
    """None for all up to `size`."""

    @property
    def is_static(self) -> bool:
        """Whether it is the whole axis."""
        return self.low == Index.ZERO and self.high is None


@dataclass(frozen=True)
class Team:
    """`threads` threads, of which this is number `thread`, each with `lanes` vector lanes.

    Up to a warp, a power of two, or whole warps: then `teams` of them are all threads of the block, this one is number
    `number`, and all do the same.
    """

    builder: Builder
    threads: int
    lanes: int
    thread: Index
    unroll: int = 1
    """Vectors of one thread that are a batch: a round of a loop covers them, and their loads come first."""
    chains: bool = False
    """Whether each of them has its own accumulators, so that one addition need not wait for the other."""
    teams: int = 1
    number: Index = Index.ZERO

    def solo(self) -> "Team":
        """Each thread on its own, with its lanes."""
        return Team(self.builder, 1, self.lanes, Index.of(0))

    def each(
        self, span: Span, body: Callable[[Index], object], *, repeat: bool = False, ahead: Ahead | None = None
    ) -> None:
        """`body(k)` for all k of the span, shared out; k may mention a lane.

        `repeat`: threads that are left without one at the end do the last one too, rather than branch around it.
        """

        def step(k: Index, state: list[SSAValue], _: object) -> list[SSAValue]:
            body(k)
            return state

        masked: Masked | None = (lambda k, here, state: step(k, state, here)) if repeat else None
        self._run(span, [], step, lambda state: state, masked, ahead)

    def reduce(
        self,
        span: Span,
        kinds: Sequence[Combine],
        element: Callable[[Index], Sequence[Element]],
        *,
        scalars: bool = False,
        ahead: Ahead | None = None,
    ) -> list[SSAValue]:
        """Joins `element(k)` over all k of the span, several reductions at once; every thread gets the results.

        `scalars`: the elements have no lanes, though k may. `ahead(k)` is called for all k of a batch before the first
        `element(k)`; the first batch of a whole axis stands before any loop.
        """
        b = self.builder
        copies = self.unroll if self.chains and span.is_static else 1
        width = 1 if scalars else self._width(span)
        start = [b.real(IDENTITY[kind], width) for _ in range(copies) for kind in kinds]

        def step(k: Index, state: list[SSAValue], copy: int) -> list[SSAValue]:
            first = copy * len(kinds) if len(state) > len(kinds) else 0
            joined = [self._joined(*one) for one in zip(kinds, state[first:], element(k), strict=False)]
            return [*state[:first], *joined, *state[first + len(kinds) :]]

        def join(state: list[SSAValue]) -> list[SSAValue]:
            totals = state[: len(kinds)]
            for first in range(len(kinds), len(state), len(kinds)):
                more = state[first : first + len(kinds)]
                totals = [b.combine(kind, x, y) for kind, x, y in zip(kinds, totals, more, strict=True)]
            return [b.reduce(kind, total) for kind, total in zip(kinds, totals, strict=True)]

        def masked(k: Index, here: SSAValue, state: list[SSAValue]) -> list[SSAValue]:
            joined = [self._joined(*one) for one in zip(kinds, state, element(k), strict=False)]
            kept = [b.select(here, new, old) for new, old in zip(joined, state, strict=False)]
            return [*kept, *state[len(kinds) :]]

        def combine(some: Sequence[SSAValue], others: Sequence[SSAValue]) -> list[SSAValue]:
            return [b.combine(*one) for one in zip(kinds, some, others, strict=True)]

        return self.across(self._run(span, start, step, join, masked, ahead), combine)

    def first_largest(self, size: int, element: Callable[[Index], SSAValue]) -> tuple[SSAValue, SSAValue]:
        """The largest of `size` f32 and its first place, an i64; every thread gets them.

        NaN counts as the smallest. Where there are only such and -inf, the place is 0, and the largest -inf.
        """
        b = self.builder

        def larger(some: Sequence[SSAValue], others: Sequence[SSAValue]) -> list[SSAValue]:
            (x, i), (y, j) = some, others
            is_first = b.both(b.compare("oeq", y, x), b.compare("slt", j, i))
            takes = b.either(b.compare("ogt", y, x), is_first)
            return [b.select(takes, y, x), b.select(takes, j, i)]

        def next_one(k: SSAValue, found: list[SSAValue]) -> list[SSAValue]:
            x = element(b.var(k, size, "k"))
            takes = b.compare("ogt", x, found[0])
            return [b.select(takes, x, found[0]), b.select(takes, b.index_cast(k, i64), found[1])]

        start = [b.real(float("-inf")), b.integer(size)]
        found = b.loop(b.index(self.thread), b.number(size), self.threads, start, next_one, "k")
        largest, place = self.across(found, larger)
        return largest, b.select(b.compare("eq", place, b.integer(size)), b.integer(0), place)

    def _joined(self, kind: Combine, total: SSAValue, element: Element) -> SSAValue:
        """A partial result with one more element."""
        if isinstance(element, Factors):
            assert kind is Combine.ADD
            return self.builder.fma(element.x, element.y, total)
        return self.builder.combine(kind, total, element)

    def first(self, span: Span) -> list[Index]:
        """The indices of the first batch that `reduce` asks this thread for, in order."""
        rounds, ragged = divmod(span.size // self._width(span), self.threads)
        if not span.is_static:
            return []
        return self._indices(span, min(rounds, self.unroll), ragged if rounds < self.unroll else 0)

    def straight(self, span: Span) -> list[Index]:
        """The indices that `reduce` asks this thread for, in order, if it does so without a loop; else none."""
        rounds, ragged = divmod(span.size // self._width(span), self.threads)
        if not span.is_static or rounds > self.unroll or span.size % self._width(span):
            return []
        return self._indices(span, rounds, ragged)

    def _indices(self, span: Span, rounds: int, ragged: int) -> list[Index]:
        """The vectors of some rounds, the last of which may be for `ragged` threads only."""
        width = self._width(span)
        full = [self._vector(Index.of(round), width) for round in range(rounds)]
        lane = Index.of(Lane(width)) if width > 1 else Index.of(0)
        return [*full, self._last(rounds, ragged) * width + lane] if ragged else full

    def across(self, values: Sequence[SSAValue], combine: Combiner) -> list[SSAValue]:
        """Partial results of all threads as one; every thread gets it."""
        if self.threads == 1:
            return list(values)
        b = self.builder
        for mask in [mask for mask in (16, 8, 4, 2, 1) if mask < self.threads]:
            values = combine(values, [b.shuffle_xor(value, mask) for value in values])
        if self.threads <= WARP:
            return list(values)
        warps = self.threads // WARP
        slots = [b.shared(self.teams * warps, value.type) for value in values]
        first = self.number * warps
        if b.loops:
            b.barrier()  # the slots may still be read by the round before

        def leave() -> None:
            for value, slot in zip(values, slots, strict=True):
                b.store(value, slot, b.index(first + self.thread // WARP))

        b.when(b.compare("eq", b.index(self.thread % WARP), b.number(0)), leave)
        b.barrier()
        totals, *others = [[b.load(slot, b.index(first + warp)) for slot in slots] for warp in range(warps)]
        for other in others:
            totals = combine(totals, other)
        return list(totals)

    # loops

    def _width(self, span: Span) -> int:
        """Lanes that a loop over the span uses; several threads take vectors only where they fit exactly."""
        if self.threads > 1 and (not span.is_static or span.size % self.lanes):
            return 1
        return self.lanes if span.size >= self.lanes else 1

    def _run(
        self,
        span: Span,
        state: list[SSAValue],
        step: Step,
        join: Join,
        masked: Masked | None = None,
        ahead: Ahead | None = None,
    ) -> list[SSAValue]:
        width = self._width(span)
        if span.is_static:
            return self._run_static(span.size, width, state, step, join, masked, ahead)
        b = self.builder
        low, high = b.index(span.low), b.number(span.size) if span.high is None else b.index(span.high)
        if self.threads > 1:
            first = b.add(low, b.index(self.thread))
            return join(self._counted(first, high, self.threads, span.size, state, lambda k, s: step(k, s, 0)))
        vectors = b.div_index(b.sub(high, low), b.number(width))
        lane = Index.of(Lane(width)) if width > 1 else Index.of(0)

        def vector(v: Index, s: list[SSAValue]) -> list[SSAValue]:
            return step(span.low + v * width + lane, s, 0)

        state = join(self._counted(b.number(0), vectors, 1, span.size // width, state, vector))
        if width == 1:
            return state
        rest = b.add(low, b.mul_index(vectors, b.number(width)))
        return self._counted(rest, high, 1, span.size, state, lambda k, s: step(k, s, 0))

    def _vector(self, round: Index, width: int) -> Index:
        """The vector that this thread takes in a round."""
        lane = Index.of(Lane(width)) if width > 1 else Index.of(0)
        return (round * self.threads + self.thread) * width + lane

    def _last(self, rounds: int, ragged: int) -> Index:
        """Which vector this thread takes after all full rounds; those that are left without one take the last."""
        b = self.builder
        nearest = b.remember(("last", self.thread, ragged), lambda: self._nearest(ragged))
        return Index.of(rounds) * self.threads + b.var(nearest, ragged, "nearest")

    def _nearest(self, ragged: int) -> SSAValue:
        return self.builder.minimum(self.builder.index(self.thread), self.builder.number(ragged - 1))

    def _run_static(
        self,
        size: int,
        width: int,
        state: list[SSAValue],
        step: Step,
        join: Join,
        masked: Masked | None,
        ahead: Ahead | None,
    ) -> list[SSAValue]:
        b = self.builder
        lane = Index.of(Lane(width)) if width > 1 else Index.of(0)
        vectors, scalars = divmod(size, width)
        rounds, ragged = divmod(vectors, self.threads)
        trips, rest = divmod(rounds, self.unroll)

        def batch(first: Index, count: int, s: list[SSAValue], last: Sequence[Index] = ()) -> list[SSAValue]:
            ks = [self._vector(first + copy, width) for copy in range(count)]
            if ahead is not None:
                for k in [*ks, *last]:
                    ahead(k)
            for copy, k in enumerate(ks):
                s = step(k, s, copy)
            return s

        peeled = 1 if trips and (trips == 1 or ahead is not None) else 0
        if peeled:
            state = batch(Index.of(0), self.unroll, state)
        if trips - peeled == 1:
            state = batch(Index.of(peeled * self.unroll), self.unroll, state)
        elif trips > peeled:
            low, high = b.number(peeled), b.number(trips)
            state = self._counted(low, high, 1, trips, state, lambda t, s: batch(t * self.unroll, self.unroll, s))
        here = b.compare("slt", b.index(self.thread), b.number(ragged)) if ragged else None
        final_k = [self._last(rounds, ragged) * width + lane] if here is not None and masked is not None else []
        state = batch(Index.of(trips * self.unroll), rest, state, final_k)
        if here is not None and masked is not None:
            state = masked(final_k[0], here, state)
        elif here is not None:
            last = b.var(b.index(self.thread), ragged, "thread")

            def final() -> list[SSAValue]:
                return step((Index.of(rounds * self.threads) + last) * width + lane, state, 0)

            state = b.when(here, final, lambda: state) if state else b.when(here, final)
        state = join(state)
        first = Index.of(vectors * width)
        if scalars:
            state = self._counted(b.number(0), b.number(scalars), 1, scalars, state, lambda k, s: step(first + k, s, 0))
        return state

    def _counted(
        self,
        low: SSAValue,
        high: SSAValue,
        by: int,
        size: int,
        state: list[SSAValue],
        body: Callable[[Index, list[SSAValue]], list[SSAValue]],
    ) -> list[SSAValue]:
        """scf.for over indices in [0, size)."""
        b = self.builder
        return b.loop(low, high, by, state, lambda i, s: body(b.var(i, max(size, 1), "k"), s), "k")

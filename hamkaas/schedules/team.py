"""The threads and lanes that share a loop.

Most schedules are loops along one axis that either reduce it or write along it. A `Team` is who runs such a loop:
one CPU worker with its vector lanes, the 32 threads of a warp, or all threads of a block. The schedules are written
once, against a team.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

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


Combiner: TypeAlias = Callable[[SSAValue, SSAValue], SSAValue]
"""Two partial results as one."""

Join: TypeAlias = Callable[[list[SSAValue]], list[SSAValue]]
"""What becomes of the carried values after the vectors of a loop."""

Masked: TypeAlias = Callable[[Index, SSAValue, list[SSAValue]], list[SSAValue]]
"""One vector that counts only where a condition holds: index, condition, carried values."""


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

    Up to a warp, a power of two, or whole warps: then they are all threads of the block.
    """

    builder: Builder
    threads: int
    lanes: int
    thread: Index
    unroll: int = 1
    """Vectors of one thread that a round of a loop covers."""
    chains: bool = False
    """Whether each of them has its own accumulators, so that one addition need not wait for the other."""

    def solo(self) -> "Team":
        """Each thread on its own, with its lanes."""
        return Team(self.builder, 1, self.lanes, Index.of(0))

    def each(self, span: Span, body: Callable[[Index], None]) -> None:
        """`body(k)` for all k of the span, shared out; k may mention a lane."""
        self._run(span, [], lambda k, state, _: body(k) or state, lambda state: state)

    def reduce(
        self, span: Span, kinds: Sequence[Combine], element: Callable[[Index], Sequence[SSAValue]]
    ) -> list[SSAValue]:
        """Joins `element(k)` over all k of the span, several reductions at once; every thread gets the results."""
        b = self.builder
        copies = self.unroll if self.chains and span.is_static else 1
        width = self._width(span)
        identities = [b.real(IDENTITY[kind], width) for kind in kinds]
        start = [b.real(IDENTITY[kind], width) for _ in range(copies) for kind in kinds]

        def step(k: Index, state: list[SSAValue], copy: int) -> list[SSAValue]:
            first = copy * len(kinds) if len(state) > len(kinds) else 0
            joined = [
                b.combine(kind, old, new) for kind, old, new in zip(kinds, state[first:], element(k), strict=False)
            ]
            return [*state[:first], *joined, *state[first + len(kinds) :]]

        def join(state: list[SSAValue]) -> list[SSAValue]:
            totals = state[: len(kinds)]
            for first in range(len(kinds), len(state), len(kinds)):
                more = state[first : first + len(kinds)]
                totals = [b.combine(kind, x, y) for kind, x, y in zip(kinds, totals, more, strict=True)]
            return [b.reduce(kind, total) for kind, total in zip(kinds, totals, strict=True)]

        def masked(k: Index, here: SSAValue, state: list[SSAValue]) -> list[SSAValue]:
            last = [b.select(here, x, nothing) for x, nothing in zip(element(k), identities, strict=True)]
            joined = [b.combine(kind, old, new) for kind, old, new in zip(kinds, state, last, strict=False)]
            return [*joined, *state[len(kinds) :]]

        totals = self._run(span, start, step, join, masked)
        return self.across(totals, [partial(b.combine, kind) for kind in kinds])

    def straight(self, span: Span) -> list[Index]:
        """The indices that `reduce` asks this thread for, in order, if it does so without a loop; else none."""
        width = self._width(span)
        rounds, ragged = divmod(span.size // width, self.threads)
        if not span.is_static or rounds > self.unroll or span.size % width:
            return []
        lane = Index.of(Lane(width)) if width > 1 else Index.of(0)
        full = [(Index.of(round) * self.threads + self.thread) * width + lane for round in range(rounds)]
        return [*full, self._last(rounds, ragged) * width + lane] if ragged else full

    def across(self, values: Sequence[SSAValue], combine: Sequence[Combiner]) -> list[SSAValue]:
        """Each of some values, joined over all threads; every thread gets them."""
        if self.threads == 1:
            return list(values)
        b = self.builder
        for mask in [mask for mask in (16, 8, 4, 2, 1) if mask < self.threads]:
            values = [join(value, b.shuffle_xor(value, mask)) for value, join in zip(values, combine, strict=True)]
        if self.threads <= WARP:
            return list(values)
        warps = self.threads // WARP
        slots = [b.shared(warps, value.type) for value in values]
        if b.depth:
            b.barrier()  # the slots may still be read by the round before

        def leave() -> None:
            for value, slot in zip(values, slots, strict=True):
                b.store(value, slot, b.index(self.thread // WARP))

        b.when(b.compare("eq", b.index(self.thread % WARP), b.number(0)), leave)
        b.barrier()
        totals: list[SSAValue] = []
        for slot, join in zip(slots, combine, strict=True):
            total = b.load(slot, b.number(0))
            for warp in range(1, warps):
                total = join(total, b.load(slot, b.number(warp)))
            totals.append(total)
        return totals

    # loops

    def _width(self, span: Span) -> int:
        """Lanes that a loop over the span uses; several threads take vectors only where they fit exactly."""
        if self.threads > 1 and (not span.is_static or span.size % self.lanes):
            return 1
        return self.lanes if span.size >= self.lanes else 1

    def _run(
        self, span: Span, state: list[SSAValue], step: Step, join: Join, masked: Masked | None = None
    ) -> list[SSAValue]:
        width = self._width(span)
        if span.is_static:
            return self._run_static(span.size, width, state, step, join, masked)
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

    def _last(self, rounds: int, ragged: int) -> Index:
        """Which vector this thread takes after all full rounds; those that are left without one take the last."""
        b = self.builder
        nearest = b.remember(("last", self.thread, ragged), lambda: self._nearest(ragged))
        return Index.of(rounds) * self.threads + b.var(nearest, ragged, "nearest")

    def _nearest(self, ragged: int) -> SSAValue:
        return self.builder.minimum(self.builder.index(self.thread), self.builder.number(ragged - 1))

    def _run_static(
        self, size: int, width: int, state: list[SSAValue], step: Step, join: Join, masked: Masked | None
    ) -> list[SSAValue]:
        b = self.builder
        lane = Index.of(Lane(width)) if width > 1 else Index.of(0)
        vectors, scalars = divmod(size, width)
        rounds, ragged = divmod(vectors, self.threads)
        unroll = max(1, min(self.unroll, rounds))

        def one(round: Index, s: list[SSAValue], copy: int) -> list[SSAValue]:
            return step((round * self.threads + self.thread) * width + lane, s, copy)

        def several(trip: Index, s: list[SSAValue]) -> list[SSAValue]:
            for copy in range(unroll):
                s = one(trip * unroll + copy, s, copy)
            return s

        trips = rounds // unroll
        if trips == 1:
            state = several(Index.of(0), state)
        elif trips:
            state = self._counted(b.number(0), b.number(trips), 1, trips, state, several)
        for copy in range(rounds % unroll):
            state = one(Index.of(trips * unroll + copy), state, copy)
        here = b.compare("slt", b.index(self.thread), b.number(ragged)) if ragged else None
        if here is not None and masked is not None:
            state = masked(self._last(rounds, ragged) * width + lane, here, state)
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

"""A vector that a block keeps in its memory, where each of its threads reads runs of neighbours.

Memory has 32 banks of 4 bytes, and eight threads take 16 bytes each at a time: without a wait if these lie in
different banks. Where each thread reads a run of several chunks of 16 bytes, the first chunks of neighbouring threads
are that many chunks apart, and share banks. So chunk c is kept at place c xor (c / 8 mod 8): the eight chunks of each
row of banks change places among themselves, in each of eight rows in another way.

A run that starts at a multiple of 64 chunks plus something has its places at that multiple plus those of the
something: what a thread computes for the first of many such runs serves for all of them.
"""

from xdsl.ir import SSAValue

from hamkaas.schedules.builder import Builder
from hamkaas.schedules.elements import lane_in
from hamkaas.schedules.index import Index

CHUNK = 4
"""Elements of f32 that one access takes: 16 bytes."""

PERIOD = 64
"""Chunks that change places only among themselves."""


def place_of(chunk: int) -> int:
    """Where a chunk is kept, in chunks."""
    return chunk ^ (chunk // 8 % 8)


class Staged:
    """`size` elements of f32, a multiple of CHUNK, in the memory of a block."""

    def __init__(self, builder: Builder, size: int):
        self.builder = builder
        self.memref = builder.shared(-(-size // (PERIOD * CHUNK)) * PERIOD * CHUNK)
        self._places: dict[SSAValue, Index] = {}

    def put(self, k: Index, value: SSAValue) -> None:
        """Keeps a vector of CHUNK elements, of which element `k` is each lane's."""
        b = self.builder
        b.store(b.splat(value, CHUNK), self.memref, b.index(self._at(self._chunk(k))), align=4 * CHUNK)

    def get(self, k: Index) -> SSAValue:
        """Element `k`, of which a lane is part: one for each lane, whose number is a multiple of CHUNK."""
        b = self.builder
        lane = lane_in(k)
        assert lane is not None
        chunks = [self._chunk(k) + number for number in range(lane.size // CHUNK)]
        parts = [b.load(self.memref, b.index(self._at(chunk)), CHUNK, align=4 * CHUNK) for chunk in chunks]
        return parts[0] if len(parts) == 1 else b.pack([b.lane(part, i) for part in parts for i in range(CHUNK)])

    def _chunk(self, k: Index) -> Index:
        """The chunk of the first lane."""
        lane = lane_in(k)
        first = k if lane is None else k.substitute(lane, 0)
        assert first.is_multiple_of(CHUNK)
        return first // CHUNK

    def _at(self, chunk: Index) -> Index:
        """`place_of` as operations: the first element of a chunk in the buffer."""
        b = self.builder
        within = chunk % PERIOD
        place = b.remember(("place", within), lambda: b.xor_index(b.index(within), b.index(within // 8)))
        # one variable per SSA value, or the same place would look like two different ones
        if place not in self._places:
            self._places[place] = b.var(place, PERIOD, "place")
        return (chunk // PERIOD * PERIOD + self._places[place]) * CHUNK

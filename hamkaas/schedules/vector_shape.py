"""How a product of one row is shared out over the threads of a GPU: by a rule, or as a device finds best."""

from dataclasses import dataclass

from hamkaas.errors import CompileError
from hamkaas.schedules.team import WARP

IN_FLIGHT = 64
"""Registers of a thread that hold what is on its way from the matrix."""

STAGED_FROM, STAGED_TO = 1024, 11 * 1024
"""Sizes of a vector that is staged: worth it from the one; up to the other it fits a block's 48 KB, with some sums."""

STAGED_BLOCKS = 128
"""Blocks that a kernel must have for a vector to be staged: about one for each multiprocessor."""

STAGED_IN_FLIGHT = 32
"""`IN_FLIGHT` where a vector is staged: so few that a multiprocessor has more blocks, of which some load meanwhile."""

STAGED_LONG = 8 * 1024
"""Size of a staged vector beyond which that, not registers, says how many blocks a multiprocessor has."""

STAGED = "staged"
"""What a text says of a shape that stages its vector."""


@dataclass(frozen=True)
class VectorShape:
    """How a product with one row is shared out; as text `block:team:columns:in_flight`, or that with `:staged`."""

    block: int
    """Threads of a block; the same in all parts of a kernel."""
    team: int
    """Threads that share a loop: a warp, or all of the block."""
    columns: int
    """Outputs of each product that a team computes."""
    staged: bool = False
    """Whether the block keeps the vector in its memory, where that is possible.

    Then a thread takes 16 bytes of the matrix at a time, whatever their type; else 4 elements, as many as 16 bytes of
    the vector have: neighbours must read neighbours, which counts for more than wide loads of the matrix.
    """
    in_flight: int = IN_FLIGHT
    """Registers of a thread for what is on its way from the matrix."""

    def __str__(self) -> str:
        numbers = (self.block, self.team, self.columns, self.in_flight)
        return ":".join([*map(str, numbers), *([STAGED] if self.staged else [])])

    @staticmethod
    def parse(text: str) -> "VectorShape":
        """The shape that a text stands for. Raises `CompileError` if it stands for none."""
        parts = text.split(":")
        staged = parts[4:] == [STAGED]
        if len(parts) == 4 + staged and all(part.isdecimal() for part in parts[:4]):
            block, team, columns, in_flight = map(int, parts[:4])
            if WARP <= team <= block <= 1024 and team % WARP == 0 == block % team and columns and in_flight:
                return VectorShape(block, team, columns, staged, in_flight)
        raise CompileError(f"expected a vector shape such as '256:32:2:64:staged' or '128:128:2:64', got {text!r}")


def vector_shape(n: int, total: int, size: int = 4, products: int = 1) -> VectorShape:
    """The shape for `products` products [n] x [n, k], in a kernel with this many columns in all of its products.

    `size` is the number of bytes of an element of the matrix; the block does not depend on it.

    A whole block works on two columns at a time, so that all of its loads are in flight at once. Measured on an H200
    over blocks of 128 and 256, teams of a warp and of a block, and 1, 2 and 4 columns: see docs/performance.md.

    With bytes, arithmetic counts: the vector is staged, and each warp takes two rows, where that is enough blocks.
    """
    threads = 128 if min(n, total) <= 512 else 256
    warps = threads // WARP
    if size > 1 or n % 16 or not STAGED_FROM <= n <= STAGED_TO or total < 2 * warps * STAGED_BLOCKS:
        return VectorShape(threads, threads, 2)
    in_flight = STAGED_IN_FLIGHT if n <= STAGED_LONG else IN_FLIGHT
    return VectorShape(threads, WARP, max(1, 2 // products), staged=True, in_flight=in_flight)

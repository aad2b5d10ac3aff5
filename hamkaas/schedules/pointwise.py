"""Schedule of groups without a reduction: every output element on its own.

CPU: a block is a run of neighbouring elements, in vectors. CUDA: a thread is one element, or a few 16-byte vectors.
"""

from math import prod

from hamkaas.schedules.elements import shape_of
from hamkaas.schedules.index import Index, Lane, delinearize
from hamkaas.schedules.lowering import Lowering

CPU_BLOCK = 4096
"""Elements of a block on the CPU: enough to be worth handing out, few enough to share among workers."""

CUDA_BLOCK = 128
"""Threads of a block."""

CUDA_VECTORS_FROM = 1 << 18
"""Elements from which on a thread takes a vector: below, more threads hide latency better."""

CUDA_VECTORS = 4
"""Vectors of a thread, whose loads are under way together, where that leaves `CUDA_BLOCKS` blocks."""

CUDA_BLOCKS = 256
"""About two for each multiprocessor."""


def lower_pointwise(lowering: Lowering) -> tuple[int, int]:
    """Lowers a group that has one output and no reduction."""
    return _lower_cpu(lowering) if lowering.target == "cpu" else _lower_cuda(lowering)


def _lower_cpu(lowering: Lowering) -> tuple[int, int]:
    b = lowering.builder
    total, lanes = _total(lowering), lowering.lanes
    vectors, scalars = divmod(total, lanes)
    per_block = CPU_BLOCK // lanes
    grid = max(1, -(-vectors // per_block))
    block = b.block_id(grid)
    if vectors:
        low = b.index(block * per_block)
        high = b.number(vectors)
        if vectors % per_block and grid > 1:
            high = b.minimum(b.index(block * per_block + per_block), high)
        elif grid > 1:
            high = b.index(block * per_block + per_block)

        def vector(v: Index) -> None:
            _store(lowering, v * lanes + Index.of(Lane(lanes)))

        b.loop(low, high, 1, [], lambda i, _: vector(b.var(i, vectors, "i")) or [])
    if scalars:

        def rest() -> None:
            first = Index.of(vectors * lanes)
            b.loop(
                b.number(0),
                b.number(scalars),
                1,
                [],
                lambda i, _: _store(lowering, first + b.var(i, scalars, "i")) or [],
            )

        if grid == 1:
            rest()
        else:
            b.when(b.compare("eq", b.index(block), b.number(grid - 1)), rest)
    return grid, 1


def _lower_cuda(lowering: Lowering) -> tuple[int, int]:
    b = lowering.builder
    total = _total(lowering)
    lanes = lowering.lanes if total >= CUDA_VECTORS_FROM and total % lowering.lanes == 0 else 1
    items = total // lanes
    blocks, rest = divmod(items, CUDA_VECTORS * CUDA_BLOCK)
    vectors = CUDA_VECTORS if blocks >= CUDA_BLOCKS and not rest else 1
    grid = -(-items // (vectors * CUDA_BLOCK))
    first = b.block_id(grid) * (vectors * CUDA_BLOCK) + b.thread_id(CUDA_BLOCK)
    lane = Index.of(Lane(lanes)) if lanes > 1 else Index.of(0)
    if items % CUDA_BLOCK == 0:
        positions = [(first + number * CUDA_BLOCK) * lanes + lane for number in range(vectors)]
        if vectors > 1:
            for position in positions:
                _compute(lowering, position)
        for position in positions:
            _store(lowering, position)
    else:
        inside = b.compare("slt", b.index(first), b.number(items))
        i = b.var(b.index(first), items, "i")
        b.when(inside, lambda: _store(lowering, i * lanes + lane))
    return grid, CUDA_BLOCK


def _total(lowering: Lowering) -> int:
    output = lowering.output
    return prod(shape_of(output.value))


def _compute(lowering: Lowering, position: Index) -> None:
    """Computes what `_store` stores."""
    value = lowering.output.value
    lowering.elements.at(value, delinearize(position, shape_of(value)))


def _store(lowering: Lowering, position: Index) -> None:
    output = lowering.output
    lowering.store_output(output.value, delinearize(position, shape_of(output.value)))

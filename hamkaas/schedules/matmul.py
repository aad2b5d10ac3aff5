"""Schedules of matrix products: what is around them in the group is computed on the way in and out.

Which schedule fits depends on how the right side lies in memory and on the number of rows of the left side:

dot     neighbours along the inner axis k are neighbours in memory (a weight stored [out, in]): a tile of outputs is a
        set of dot products along k, in vectors. CPU: any size. CUDA: one row, a warp for each tile.
axpy    neighbours along the columns are neighbours in memory (stored [in, out]): a tile of columns grows by one
        multiple of a row for each k. CPU: any size. CUDA: one row, the warps of a block share k.
tiled   CUDA, several rows: 64 x 64 tiles of the output, both sides staged through shared memory.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from math import gcd

from xdsl.dialects.builtin import f16, f32
from xdsl.ir import Attribute, SSAValue

from hamkaas.dialects import hamkaas
from hamkaas.dialects.hamkaas import tensor_type
from hamkaas.dialects.kernel import Combine
from hamkaas.schedules.elements import Position, element_bytes, shape_of
from hamkaas.schedules.epilogue import Epilogue
from hamkaas.schedules.index import Index, Lane, Var
from hamkaas.schedules.lowering import Lowering
from hamkaas.schedules.staged import CHUNK, Staged
from hamkaas.schedules.team import WARP, Factors, Span, Team
from hamkaas.schedules.vector_shape import STAGED_TO, VectorShape, vector_shape

CPU_BLOCKS = 16
"""Blocks of a product on the CPU: enough for the workers to share evenly, and each a long run through memory."""

CPU_DOT_ROWS, CPU_DOT_COLUMNS = 4, 3
"""Tile of dot products with several rows: 12 accumulators, 4 + 3 vectors in flight; 16 registers are there."""

CPU_STREAMS = 4
"""Dot products with one row: runs of memory that a worker goes along side by side."""

CPU_STEP = 16
"""Dot products with one row: numbers of a stream that a worker takes before it turns to the next, a line of f32."""

CPU_SHARED = 4
"""The same: steps that are one, at most, where they share a factor."""

CPU_AXPY_ROWS, CPU_AXPY_VECTORS = 4, 2
"""Tile of axpy: 8 accumulators."""

CUDA_THREADS = 256
"""Threads of a block of all CUDA products."""

STAGE_IN_FLIGHT = 4
"""Vectors that a thread has in flight while the block stages its vector."""

CUDA_TILE, CUDA_DEPTH, CUDA_MICRO = 64, 16, 4
"""Tiled: outputs along a side of a block's tile, depth of a stage, outputs along a side of a thread's tile."""


@dataclass(frozen=True)
class Product:
    """A matmul as [batch, m, n] x [batch, n, k], whatever its rank; or several, with one left side and equal sizes."""

    ops: tuple[hamkaas.MatmulOp, ...]
    batch: int
    m: int
    n: int
    k: int

    @staticmethod
    def of(ops: Sequence[hamkaas.MatmulOp]) -> "Product":
        """The sizes of operations that have them in common."""
        batch, m, n = (1, 1, *shape_of(ops[0].lhs))[-3:]
        return Product(tuple(ops), batch, m, n, shape_of(ops[0].rhs)[-1])

    @property
    def lhs(self) -> SSAValue:
        """The left side."""
        return self.ops[0].lhs

    def lhs_at(self, b: Index, i: Index, n: Index) -> Position:
        """Where element (b, i, n) of the left side is."""
        return (b, i, n)[3 - len(shape_of(self.lhs)) :]

    def rhs_at(self, b: Index, n: Index, j: Index) -> Position:
        """Where element (b, n, j) of the right side is."""
        return (b, n, j)[3 - len(shape_of(self.ops[0].rhs)) :]

    def result_at(self, b: Index, i: Index, j: Index) -> Position:
        """Where element (b, i, j) of the result is."""
        return (b, i, j)[3 - len(shape_of(self.ops[0].result)) :]


def lower_matmul(lowering: Lowering, ops: Sequence[hamkaas.MatmulOp]) -> tuple[int, int]:
    """Lowers what is around a matrix product, or around several with one left side and equal sizes."""
    product = Product.of(ops)
    along_inner = _inner_is_contiguous(lowering, product)
    for op in ops:
        source = lowering.elements.source(op.rhs, product.rhs_at(*[Index.of(0)] * 3))
        if source is not None and product.m == 1:
            lowering.elements.streamed.add(source[0])
    if lowering.target == "cpu":
        dot = _cpu_dot_row if product.m == 1 else _cpu_dot
        return dot(lowering, product) if along_inner else _cpu_axpy(lowering, product)
    if product.m > 1 or product.batch > 1:
        return _cuda_tiled(lowering, product, along_inner)
    return _cuda_dot(lowering, product) if along_inner else _cuda_axpy(lowering, product)


def _inner_is_contiguous(lowering: Lowering, product: Product) -> bool:
    """Whether the right side's neighbours along the inner axis are neighbours in memory."""
    placeholder = product.ops[0].result  # any value will do: no operation is built from these indices
    n, j = Var(placeholder, product.n), Var(placeholder, product.k)
    found = lowering.elements.source(product.ops[0].rhs, product.rhs_at(Index.of(0), Index.of(n), Index.of(j)))
    if found is None:
        return False
    if product.n == 1 or product.k == 1:
        return product.k == 1
    return found[1].factor(n) == 1


def _epilogue(lowering: Lowering, product: Product) -> Epilogue:
    """The operations behind the product, or behind several."""
    return lowering.epilogue(*(op.result for op in product.ops))


def _tiles(lowering: Lowering, number: SSAValue, size: int, tile: int) -> Index:
    """The first element of tile `number` along an axis; the last tile is moved back until it fits.

    What two tiles share is computed twice, with the same result: cheaper than a loop for what is left over.
    """
    b = lowering.builder
    count = -(-size // tile)
    step = gcd(tile, size - tile)
    if step == tile or size == tile:
        return b.var(number, count, "tile") * tile
    moved = b.minimum(b.mul_index(number, b.number(tile // step)), b.number((size - tile) // step))
    return b.var(moved, (size - tile) // step + 1, "tile") * step


def _norm(lowering: Lowering, product: Product) -> hamkaas.RmsNormOp | None:
    """The norm that is to be computed on the way in, if there is one."""
    owner = product.lhs.owner
    return owner if isinstance(owner, hamkaas.RmsNormOp) and owner in lowering.ops else None


def _norm_scale(lowering: Lowering, norm: hamkaas.RmsNormOp, total: SSAValue) -> SSAValue:
    """1 / sqrt(mean(x^2) + eps) from the sum of squares."""
    b = lowering.builder
    mean = b.mul(total, b.real(1 / shape_of(norm.input)[-1]))
    return b.div(b.real(1.0), b.sqrt(b.add(mean, b.real(norm.eps.value.data))))


def _normalize(lowering: Lowering, norm: hamkaas.RmsNormOp, team: Team) -> None:
    """Computes a norm once for the block, into its own memory, from where the products read it."""
    b, e = lowering.builder, lowering.elements
    (n,) = shape_of(norm.input)

    def square(k: Index) -> list[Factors]:
        x = e.at(norm.input, (k,))
        return [Factors(x, x)]

    scale = _norm_scale(lowering, norm, team.reduce(Span(n), [Combine.ADD], square)[0])
    normalized = b.shared(n)

    def put(k: Index) -> None:
        x = b.mul(b.mul(e.at(norm.input, (k,)), scale), e.at(norm.weight, (k,)))
        e.store(x, normalized, k)

    team.each(Span(n), put)
    if team.threads > 1:
        b.barrier()
    e.known[norm.result] = lambda i: e.load_raw(normalized, i[0])


# CPU


def _cpu_blocks(lowering: Lowering, tiles: int, body: Callable[[SSAValue], None]) -> int:
    """Runs `body(tile number)` for all tiles, shared among at most CPU_BLOCKS blocks; gives the grid."""
    b = lowering.builder
    per_block = -(-tiles // CPU_BLOCKS)
    grid = -(-tiles // per_block)
    first = b.block_id(grid) * per_block
    high = b.index(first + per_block)
    if tiles % per_block:
        high = b.minimum(high, b.number(tiles))
    b.loop(b.index(first), high, 1, [], lambda t, _: body(t) or [], "t")
    return grid


def _cpu_dot(lowering: Lowering, product: Product) -> tuple[int, int]:
    b, e = lowering.builder, lowering.elements
    epilogue = _epilogue(lowering, product)
    rows = min(CPU_DOT_ROWS, product.m)
    columns = _even(min(CPU_DOT_COLUMNS, product.k), epilogue.pairs)
    row_tiles, column_tiles = -(-product.m // rows), -(-product.k // columns)
    team = Team(b, 1, lowering.lanes, Index.of(0))
    if (norm := _norm(lowering, product)) is not None:
        _normalize(lowering, norm, team)

    def tile(t: SSAValue) -> None:
        at = b.var(t, product.batch * row_tiles * column_tiles, "t")
        batch = at // (row_tiles * column_tiles)
        column = b.index((at // row_tiles) % column_tiles)
        i0 = _tiles(lowering, b.index(at % row_tiles), product.m, rows)
        j0 = _tiles(lowering, column, product.k, columns)

        def products(n: Index) -> list[Factors]:
            left = [e.at(product.lhs, product.lhs_at(batch, i0 + i, n)) for i in range(rows)]
            right = [[e.at(op.rhs, product.rhs_at(batch, n, j0 + j)) for j in range(columns)] for op in product.ops]
            return [Factors(x, y) for of_op in right for x in left for y in of_op]

        sums = team.reduce(Span(product.n), [Combine.ADD] * (rows * columns * len(product.ops)), products)
        places = [product.result_at(batch, i0 + i, j0 + j) for i in range(rows) for j in range(columns)]
        lowering.store(epilogue, places, sums)

    grid = _cpu_blocks(lowering, product.batch * row_tiles * column_tiles, tile)
    return grid, 1


def _cpu_dot_row(lowering: Lowering, product: Product) -> tuple[int, int]:
    """One row: each weight is read once, and reading is all that counts.

    A tile is a column from each of a few streams, which are far apart in memory, so that a processor sees long runs and
    fetches ahead in each. Neighbouring columns in turn, which look like jumps to and fro, took twice as long. Pairs of
    columns that have to be known together are therefore summed one after the other.
    """
    b, e = lowering.builder, lowering.elements
    epilogue = _epilogue(lowering, product)
    pair = epilogue.pairs
    pairs = product.k // pair
    streams = min(max(CPU_STREAMS // len(product.ops), 1), pairs)
    tiles = -(-pairs // streams)
    starts = [min(number * tiles, pairs - tiles) for number in range(streams)]  # streams may have columns in common
    # a step is one vector, unless a rest of a row would be left over; and 8 f16 twice convert faster than 16 at once
    fits = product.n % CPU_STEP == 0 and _rhs_type(lowering, product) != f16
    lanes = CPU_STEP if fits else lowering.lanes
    team = Team(b, 1, lanes, Index.of(0), unroll=CPU_STEP // lanes, chains=True)
    # neighbouring vectors that share a factor are one element of the sum, so that they are multiplied by it once
    vectors = max(1, gcd(CPU_SHARED * lanes, product.n, *(e.alike(op.rhs) or 1 for op in product.ops)) // lanes)
    zero = Index.of(0)
    if (norm := _norm(lowering, product)) is not None:
        _normalize(lowering, norm, Team(b, 1, lowering.lanes, Index.of(0)))

    def parts(n: Index) -> list[Index]:
        """The vectors of an element of the sum."""
        if vectors == 1:
            return [n]
        first = n.substitute(Lane(lanes), 0) * vectors + Index.of(Lane(lanes))
        return [first + number * lanes for number in range(vectors)]

    def dot(left: Sequence[SSAValue], right: Sequence[tuple[SSAValue, SSAValue | None]]) -> Factors:
        """The products of vectors, added up, and the factor that they have in common."""
        (y, factor), *others = right
        if factor is None:
            assert not others, "vectors are taken together for the factor that they share"
            return Factors(left[0], y)
        total = b.mul(left[0], y)
        for x, (y, _) in zip(left[1:], others, strict=True):
            total = b.fma(x, y, total)
        return Factors(total, factor)

    def tile(t: SSAValue) -> None:
        at = b.var(t, product.batch * tiles, "t")
        batch, first = at // tiles, at % tiles
        sums: list[list[SSAValue]] = []
        """By member of a pair: the sums of each stream, for the first product, then for the next."""
        for member in range(pair):
            columns = [(first + start) * pair + member for start in starts]

            def products(n: Index, columns: Sequence[Index] = columns) -> list[Factors]:
                ns = parts(n)
                left = [e.at(product.lhs, product.lhs_at(batch, zero, n)) for n in ns]
                return [
                    dot(left, [e.factored(op.rhs, product.rhs_at(batch, n, j)) for n in ns])
                    for op in product.ops
                    for j in columns
                ]

            sums.append(team.reduce(Span(product.n // vectors), [Combine.ADD] * (streams * len(product.ops)), products))
        members = range(pair)
        places = [
            product.result_at(batch, zero, (first + start) * pair + member) for start in starts for member in members
        ]
        lowering.store(epilogue, places, [x for of_pair in zip(*sums, strict=True) for x in of_pair])

    return _cpu_blocks(lowering, product.batch * tiles, tile), 1


def _even(tile: int, pairs: int) -> int:
    """A tile size that keeps pairs together."""
    return max(tile // pairs, 1) * pairs


def _cpu_axpy(lowering: Lowering, product: Product) -> tuple[int, int]:
    b, e = lowering.builder, lowering.elements
    lanes = min(lowering.lanes, product.k)
    epilogue = _epilogue(lowering, product)
    rows = min(CPU_AXPY_ROWS, product.m)
    vectors = min(CPU_AXPY_VECTORS * CPU_AXPY_ROWS // rows, product.k // lanes)
    columns = vectors * lanes
    row_tiles, column_tiles = -(-product.m // rows), -(-product.k // columns)
    lane = Index.of(Lane(lanes)) if lanes > 1 else Index.of(0)
    if (norm := _norm(lowering, product)) is not None:
        _normalize(lowering, norm, Team(b, 1, lowering.lanes, Index.of(0)))

    def tile(t: SSAValue) -> None:
        at = b.var(t, product.batch * row_tiles * column_tiles, "t")
        batch = at // (row_tiles * column_tiles)
        i0 = _tiles(lowering, b.index(at % row_tiles), product.m, rows)
        j0 = _tiles(lowering, b.index((at // row_tiles) % column_tiles), product.k, columns)

        def add_row(number: SSAValue, sums: list[SSAValue]) -> list[SSAValue]:
            n = b.var(number, product.n, "n")
            left = [e.at(product.lhs, product.lhs_at(batch, i0 + i, n)) for i in range(rows)]
            right = [
                [b.splat(e.at(op.rhs, product.rhs_at(batch, n, j0 + v * lanes + lane)), lanes) for v in range(vectors)]
                for op in product.ops
            ]
            factors = [(x, y) for of_op in right for x in left for y in of_op]
            return [b.fma(x, y, total) for (x, y), total in zip(factors, sums, strict=True)]

        zero = b.real(0.0, lanes)
        sums = b.loop(b.number(0), b.number(product.n), 1, [zero] * (rows * vectors * len(product.ops)), add_row, "n")
        places = [product.result_at(batch, i0 + i, j0 + v * lanes + lane) for i in range(rows) for v in range(vectors)]
        lowering.store(epilogue, places, sums)

    grid = _cpu_blocks(lowering, product.batch * row_tiles * column_tiles, tile)
    return grid, 1


# CUDA


def _vector_shape(lowering: Lowering, product: Product) -> VectorShape:
    """How a product with one row is shared out: as the group says, or by the rule."""
    if (given := lowering.group.vector_shape) is not None:
        return VectorShape.parse(given)
    ops = lowering.group.body.block.ops  # of all parts of the kernel: these share one size of block
    total = sum(shape_of(op.result)[-1] for op in ops if isinstance(op, hamkaas.MatmulOp))
    return vector_shape(product.n, total, _element_bytes(lowering, product), len(product.ops))


def _element_bytes(lowering: Lowering, product: Product) -> int:
    """Bytes of an element of the matrix, of the widest of several, where it lies in memory."""
    sources = [lowering.elements.source(op.rhs, product.rhs_at(*[Index.of(0)] * 3)) for op in product.ops]
    return max(4 if source is None else element_bytes(tensor_type(source[0]).element_type) for source in sources)


def _rhs_type(lowering: Lowering, product: Product) -> Attribute:
    """The type of an element of the matrix where it lies in memory."""
    source = lowering.elements.source(product.ops[0].rhs, product.rhs_at(*[Index.of(0)] * 3))
    return f32 if source is None else tensor_type(source[0]).element_type


def _cuda_dot(lowering: Lowering, product: Product) -> tuple[int, int]:
    """One row: each team of threads takes a few columns and runs along k with wide loads, many in flight."""
    b, e = lowering.builder, lowering.elements
    size = _element_bytes(lowering, product)
    shape = _vector_shape(lowering, product)
    # lanes that share a factor leave it to the end of their sum
    wide = gcd(16 // size, product.n, *(e.alike(op.rhs) for op in product.ops))
    stages = shape.staged and product.n <= STAGED_TO and wide % CHUNK == 0 and wide * size >= 8
    lanes = wide if stages else gcd(lowering.lanes, product.n)
    epilogue = _epilogue(lowering, product)
    columns = min(_even(shape.columns, epilogue.pairs), product.k)
    teams = shape.block // shape.team
    tiles = -(-product.k // columns)
    grid = -(-tiles // teams)
    thread = b.thread_id(shape.block)
    of_block = Index.ZERO if teams == 1 else b.var(b.index(thread // shape.team), teams, "team")
    number = b.index(b.block_id(grid) * teams + of_block)
    mine = None
    if tiles % teams:  # the teams that are left over do what the last one does, but keep it to themselves
        mine = b.compare("slt", number, b.number(tiles))
        number = b.minimum(number, b.number(tiles - 1))
    j0 = _tiles(lowering, number, product.k, columns)
    rows = [(op, j0 + j) for op in product.ops for j in range(columns)]
    rounds = -(-product.n // (lanes * shape.team))
    most = max(1, shape.in_flight * 4 // (lanes * size * len(rows)))
    member = thread if teams == 1 else b.var(b.index(thread % shape.team), shape.team, "lane")
    unroll = -(-rounds // -(-rounds // most))
    team = Team(b, shape.team, lanes, member, unroll, teams=teams, number=of_block)
    norm = _norm(lowering, product)
    span = Span(product.n)

    def right(n: Index) -> list[tuple[SSAValue, SSAValue | None]]:
        return [e.factored(op.rhs, product.rhs_at(Index.ZERO, n, j)) for op, j in rows]

    def load(n: Index) -> list[tuple[SSAValue, SSAValue | None]]:
        if not stages:
            _load_left(lowering, product, n)
        return right(n)

    # all of the first batch is on its way before the vector is there
    first = [factor for n in team.first(span) for _, factor in load(n)]
    scalars = any(factor is not None for factor in first)
    staged, squares = None, []
    if stages:
        staged, squares = _stage(lowering, product, Team(b, shape.block, CHUNK, thread, unroll=STAGE_IN_FLIGHT))
    ends = _Ends(lowering, product, epilogue, member, j0, columns, mine)

    def products(n: Index) -> list[Factors | SSAValue]:
        left, more = (staged.get(n), []) if staged is not None else _unscaled(lowering, product, n)
        if not scalars:
            return [*(Factors(left, numbers) for numbers, _ in right(n)), *more]
        sums = [(b.dot(left, numbers), factor) for numbers, factor in right(n)]
        squares = [b.dot(one.x, one.y) for one in more]
        return [*(x if factor is None else Factors(x, factor) for x, factor in sums), *squares]

    kinds = [Combine.ADD] * (len(rows) + (norm is not None and staged is None))
    sums = team.reduce(span, kinds, products, scalars=scalars, ahead=load)
    if norm is not None:
        scale = _norm_scale(lowering, norm, [*sums[len(rows) :], *squares][0])
        sums = [b.mul(total, scale) for total in sums[: len(rows)]]
    ends.store(sums)
    return grid, shape.block


def _unscaled(lowering: Lowering, product: Product, n: Index) -> tuple[SSAValue, list[Factors]]:
    """Element n of the vector; of a norm, what its scale is a factor of, and the square that the scale is made of.

    The scale is one factor for all products, so that it can wait until their sums are known.
    """
    b, e = lowering.builder, lowering.elements
    if (norm := _norm(lowering, product)) is None:
        return e.at(product.lhs, product.lhs_at(Index.ZERO, Index.ZERO, n)), []
    x = e.at(norm.input, (n,))
    return b.mul(x, e.at(norm.weight, (n,))), [Factors(x, x)]


def _load_left(lowering: Lowering, product: Product, n: Index) -> None:
    """Loads what `_unscaled` needs."""
    e = lowering.elements
    if (norm := _norm(lowering, product)) is None:
        e.at(product.lhs, product.lhs_at(Index.ZERO, Index.ZERO, n))
    else:
        e.at(norm.weight, (n,))
        e.at(norm.input, (n,))


def _stage(lowering: Lowering, product: Product, everyone: Team) -> tuple[Staged, list[SSAValue]]:
    """Puts the vector into the block's memory; gives the sum of squares for a norm's scale, if there is a norm."""
    staged, span = Staged(lowering.builder, product.n), Span(product.n)
    load = partial(_load_left, lowering, product)

    def put(n: Index) -> list[Factors]:
        x, more = _unscaled(lowering, product, n)
        staged.put(n, x)
        return more

    if _norm(lowering, product) is not None:  # the barrier of the sum serves the vector too
        return staged, everyone.reduce(span, [Combine.ADD], put, ahead=load)
    everyone.each(span, put, repeat=True, ahead=load)
    lowering.builder.barrier()
    return staged, []


class _Ends:
    """What becomes of the columns of a team from j0 on, of which all threads have the sums in the end.

    Each of its first threads takes one column, or one pair of columns; with `mine`, only of teams for which it holds.
    What it needs beside the sums is loaded at once.
    """

    def __init__(
        self,
        lowering: Lowering,
        product: Product,
        epilogue: Epilogue,
        thread: Index,
        j0: Index,
        columns: int,
        mine: SSAValue | None,
    ):
        b = lowering.builder
        self.lowering, self.epilogue, self.columns = lowering, epilogue, columns
        self.together = epilogue.pairs
        takers = columns // self.together
        self.taker = Index.ZERO
        if takers > 1:
            self.taker = b.var(b.minimum(b.index(thread), b.number(takers - 1)), takers, "taker")
        first = j0 + self.taker * self.together
        self.places = [product.result_at(Index.ZERO, Index.ZERO, first + j) for j in range(self.together)]
        takes = b.compare("slt", b.index(thread), b.number(takers))
        self.takes = takes if mine is None else b.both(takes, mine)
        lowering.prefetch(epilogue, self.places)

    def store(self, sums: Sequence[SSAValue]) -> None:
        """Stores the results, from the sums of the first product, then those of the next."""
        b = self.lowering.builder
        totals: list[SSAValue] = []
        for first in range(0, len(sums), self.columns):
            for number in range(self.together):
                total, *others = sums[first + number : first + self.columns : self.together]
                for other, value in enumerate(others, 1):
                    total = b.select(b.compare("eq", b.index(self.taker), b.number(other)), value, total)
                totals.append(total)
        b.when(self.takes, lambda: self.lowering.store(self.epilogue, self.places, totals))


def _cuda_axpy(lowering: Lowering, product: Product) -> tuple[int, int]:
    """One row: a warp's threads are neighbouring columns; the block's warps take a share of k and add up."""
    b, e = lowering.builder, lowering.elements
    threads = _vector_shape(lowering, product).block
    epilogue = _epilogue(lowering, product)
    warps, columns = threads // WARP, WARP * epilogue.pairs
    per_thread = columns // WARP
    grid = -(-product.k // columns)
    thread = b.thread_id(threads)
    warp, lane = thread // WARP, thread % WARP
    first = b.block_id(grid) * columns
    sums_of_warp = columns * len(product.ops)
    partial_sums = b.shared(warps * sums_of_warp)
    zero = Index.of(0)
    if (norm := _norm(lowering, product)) is not None:
        _normalize(lowering, norm, Team(b, threads, lowering.lanes, thread))

    def column(of_thread: Index, number: int) -> Index:
        j = first + of_thread * per_thread + number
        if product.k % columns == 0:
            return j
        return b.var(b.minimum(b.index(j), b.number(product.k - 1)), product.k, "column")

    mine = [column(lane, number) for number in range(per_thread)]

    def add_row(number: SSAValue, sums: list[SSAValue]) -> list[SSAValue]:
        n = b.var(number, product.n, "n")
        left = e.at(product.lhs, product.lhs_at(zero, zero, n))
        right = [e.at(op.rhs, product.rhs_at(zero, n, j)) for op in product.ops for j in mine]
        return [b.fma(left, y, total) for y, total in zip(right, sums, strict=True)]

    start = [b.real(0.0)] * (per_thread * len(product.ops))
    sums = b.loop(b.index(warp), b.number(product.n), warps, start, add_row, "n")
    for number, value in enumerate(sums):
        b.store(value, partial_sums, b.index(warp * sums_of_warp + lane * len(sums) + number))
    b.barrier()

    def finish() -> None:
        places = [product.result_at(zero, zero, first + thread * per_thread + r) for r in range(per_thread)]
        totals: list[SSAValue] = []
        for number in range(len(sums)):
            total = b.real(0.0)
            for other in range(warps):
                at = thread * len(sums) + number + other * sums_of_warp
                total = b.add(total, b.load(partial_sums, b.index(at)))
            totals.append(total)
        inside = b.compare("slt", b.index(places[0][-1]), b.number(product.k))  # a pair is inside as a whole
        b.when(inside, lambda: lowering.store(epilogue, places, totals))

    b.when(b.compare("slt", b.index(thread), b.number(WARP)), finish)
    return grid, threads


def _cuda_tiled(lowering: Lowering, product: Product, along_inner: bool) -> tuple[int, int]:
    """Several rows: the block stages 64 x 16 of both sides in shared memory, each thread owns 4 x 4 outputs."""
    b, e, epilogue = lowering.builder, lowering.elements, _epilogue(lowering, product)
    tile, depth, micro = CUDA_TILE, CUDA_DEPTH, CUDA_MICRO
    row_tiles, column_tiles = -(-product.m // tile), -(-product.k // tile)
    grid = product.batch * row_tiles * column_tiles
    at = b.block_id(grid)
    batch = at // (row_tiles * column_tiles)
    i0, j0 = (at // column_tiles) % row_tiles * tile, at % column_tiles * tile
    thread = b.thread_id(CUDA_THREADS)
    stride = tile + micro  # keeps 16-byte alignment, and neighbours in k apart by more than a bank
    left, rights = b.shared(depth * stride), [b.shared(depth * stride) for _ in product.ops]

    def clamped(index: Index, size: int, whole: bool) -> Index:
        return index if whole else b.var(b.minimum(b.index(index), b.number(size - 1)), size, "clamped")

    def stage(into: SSAValue, n0: Index, along_depth: bool, load: Callable[[Index, Index], SSAValue]) -> None:
        """Each thread brings 4 elements; neighbouring threads take neighbours in memory."""
        for number in range(tile * depth // CUDA_THREADS):
            item = thread + number * CUDA_THREADS
            n, x = (item % depth, item // depth) if along_depth else (item // tile, item % tile)
            inner = n0 + n
            value = load(clamped(inner, product.n, product.n % depth == 0), x)
            if product.n % depth:
                inside = b.compare("slt", b.index(inner), b.number(product.n))
                value = b.select(inside, value, b.real(0.0))
            b.store(value, into, b.index(n * stride + x))

    def places_of(first: Index, size: int) -> list[Index]:
        """The outputs of a thread along an axis, known to lie in it: what is stored does."""
        unit = gcd(micro, size)
        count = min(micro, size)
        if size % tile == 0:
            return [first + number for number in range(count)]
        starts = [b.var(b.index((first + n) // unit), -(-size // unit), "first") * unit for n in range(0, count, unit)]
        return [starts[number // unit] + number % unit for number in range(count)]

    def load_left(n: Index, x: Index) -> SSAValue:
        return e.at(product.lhs, product.lhs_at(batch, clamped(i0 + x, product.m, product.m % tile == 0), n))

    def load_right(op: hamkaas.MatmulOp, n: Index, x: Index) -> SSAValue:
        return e.at(op.rhs, product.rhs_at(batch, n, clamped(j0 + x, product.k, product.k % tile == 0)))

    side = tile // micro
    mine_i, mine_j = thread // side * micro, thread % side * micro

    def multiply(n: SSAValue, sums: list[SSAValue]) -> list[SSAValue]:
        row = b.var(n, depth, "n") * stride
        x = b.load(left, b.index(row + mine_i), micro, align=16)
        ys = [b.load(right, b.index(row + mine_j), micro, align=16) for right in rights]
        factors = [(b.lane(x, i), b.lane(y, j)) for y in ys for i in range(micro) for j in range(micro)]
        return [b.fma(*pair, total) for pair, total in zip(factors, sums, strict=True)]

    def step(number: SSAValue, sums: list[SSAValue]) -> list[SSAValue]:
        n0 = b.var(number, -(-product.n // depth), "stage") * depth
        stage(left, n0, True, load_left)
        for op, right in zip(product.ops, rights, strict=True):
            stage(right, n0, along_inner, partial(load_right, op))
        b.barrier()
        sums = b.loop(b.number(0), b.number(depth), 1, sums, multiply, "n", unroll=True)
        b.barrier()
        return sums

    zeros = [b.real(0.0)] * (micro * micro * len(product.ops))
    sums = b.loop(b.number(0), b.number(-(-product.n // depth)), 1, zeros, step, "stage")
    rows, columns = places_of(i0 + mine_i, product.m), places_of(j0 + mine_j, product.k)
    corners = [(i, j) for i in range(len(rows)) for j in range(len(columns))]
    places = [product.result_at(batch, rows[i], columns[j]) for i, j in corners]
    for first in range(0, len(corners), epilogue.pairs):
        some = slice(first, first + epilogue.pairs)
        kept = [sums[(o * micro + i) * micro + j] for o in range(len(product.ops)) for i, j in corners[some]]
        i, j = corners[first]
        store = partial(lowering.store, epilogue, places[some], kept)
        conditions = [
            b.compare("slt", b.index(index), b.number(size))
            for index, size in ((i0 + mine_i + i, product.m), (j0 + mine_j + j, product.k))
            if size % tile
        ]
        if conditions:
            b.when(reduce(b.both, conditions), store)
        else:
            store()
    return grid, CUDA_THREADS

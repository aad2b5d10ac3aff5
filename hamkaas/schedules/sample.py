"""Schedule of sampling: nucleus sampling without a sort, by one team.

With p = softmax(logits / temperature), the cut of a nucleus and the token that the coin picks are both of the form
"the largest threshold t such that the sum of all p >= t exceeds a given mass". The bits of a positive float are
ordered like the float, so a search over the digits of an integer finds each threshold exactly, with one pass over the
logits for each digit; ties are told apart by their index.
"""

from collections.abc import Callable, Sequence
from functools import partial

from xdsl.dialects import arith
from xdsl.dialects.builtin import f32, i32, i64
from xdsl.ir import SSAValue

from hamkaas.dialects import hamkaas
from hamkaas.dialects.kernel import Combine
from hamkaas.schedules.builder import Builder
from hamkaas.schedules.elements import shape_of
from hamkaas.schedules.index import Index
from hamkaas.schedules.lowering import Lowering
from hamkaas.schedules.team import WARP, Span, Team

CUDA_THREADS = 1024
"""The most threads of the one block."""

WEIGHT_BITS = 30
"""Bits of a float32 from 0 to 1 that are not 0 in all of them."""

DIGIT_BITS = 3
"""Bits that one pass of a search decides: it adds up seven sums at once."""


def lower_sample(lowering: Lowering, op: hamkaas.SampleOp) -> tuple[int, int]:
    """Lowers a group around one sampling of a token."""
    b, e = lowering.builder, lowering.elements
    (n,) = shape_of(op.logits)
    threads = min(CUDA_THREADS, max(WARP, 1 << (n - 1).bit_length())) if lowering.target == "cuda" else 1
    lowering.min_blocks = 1  # else registers would be left for a second block, and sums would be spilled
    thread = b.thread_id(threads) if threads > 1 else Index.of(0)
    team = Team(b, threads, 1, thread)
    first = (Index.of(0),)
    temperature, top_p, coin = (e.at(value, first) for value in (op.temperature, op.top_p, op.coin))
    is_drawn = b.compare("ogt", temperature, b.real(0.0))
    inverse = b.div(b.real(1.0), b.select(is_drawn, temperature, b.real(1.0)))
    largest, greedy = team.first_largest(n, lambda k: e.at(op.logits, (k,)))

    def weight(k: Index) -> SSAValue:
        """p of token k, but for the sum: 1 for the largest logit, even if that is infinite, NaN for a NaN."""
        x = e.at(op.logits, (k,))
        below = b.select(b.compare("oeq", x, largest), b.real(0.0), b.sub(x, largest))
        return b.exp(b.mul(below, inverse))

    def totals(of: Callable[[Index], Sequence[SSAValue]], count: int) -> list[SSAValue]:
        return team.reduce(Span(n), [Combine.ADD] * count, of)

    def masses_from(bits: Sequence[SSAValue]) -> list[SSAValue]:
        """For each of some floats, given by their bits, the sum of the weights that are at least as large."""
        thresholds = [_as_float(b, x) for x in bits]

        def counted(k: Index) -> list[SSAValue]:
            w = weight(k)
            return [b.select(b.compare("oge", w, threshold), w, b.real(0.0)) for threshold in thresholds]

        return totals(counted, len(bits))

    def threshold(mass: SSAValue) -> SSAValue:
        """The bits of the largest weight w such that the weights from w up sum to more than `mass`."""
        return _largest(b, WEIGHT_BITS, lambda bits: [b.compare("ogt", x, mass) for x in masses_from(bits)])

    def above(bits: SSAValue) -> SSAValue:
        return masses_from([b.add(bits, b.integer(1))])[0]

    def equal_before(bits: SSAValue, ends: Sequence[SSAValue]) -> list[SSAValue]:
        """For each of some ends, how many of the tokens before it have the weight with these bits."""
        wanted = _as_float(b, bits)

        def counted(k: Index) -> list[SSAValue]:
            here, same = b.index_cast(b.index(k), i64), b.compare("oeq", weight(k), wanted)
            return [b.select(b.both(b.compare("slt", here, end), same), b.real(1.0), b.real(0.0)) for end in ends]

        return [_floor(b, count) for count in totals(counted, len(ends))]

    (mass,) = masses_from([b.integer(0)])
    wanted = b.mul(b.select(b.compare("olt", top_p, b.real(0.0)), b.real(0.0), top_p), mass)
    everything = b.compare("oge", top_p, b.real(1.0))
    cut = b.select(everything, b.integer(0), threshold(wanted))
    kept_above = above(cut)
    ties = b.add(_times(b, b.sub(wanted, kept_above), cut), b.integer(1))
    ties = _smaller(b, ties, equal_before(cut, [b.integer(n)])[0])
    kept = b.fma(b.insert(arith.SIToFPOp(ties, f32)).results[0], _as_float(b, cut), kept_above)

    target = b.mul(_inside(b, coin), kept)
    chosen = threshold(target)
    chosen = b.select(b.compare("slt", chosen, cut), cut, chosen)
    rank = _times(b, b.sub(target, above(chosen)), chosen)
    token = _largest(
        b, (n - 1).bit_length(), lambda ends: [b.compare("sle", x, rank) for x in equal_before(chosen, ends)]
    )
    token = b.select(is_drawn, _smaller(b, token, b.integer(n - 1)), greedy)
    e.define(op.result, lambda _: token)
    store = partial(lowering.store_output, op.result, first)
    if threads == 1:
        store()
    else:
        b.when(b.compare("eq", b.index(thread), b.number(0)), store)
    return 1, threads


def _inside(b: Builder, coin: SSAValue) -> SSAValue:
    """A coin in [0, 1): one below 0 and NaN as 0. Times any sum it is less than the sum, so that a token is found."""
    coin = b.select(b.compare("ogt", coin, b.real(0.0)), coin, b.real(0.0))
    return b.select(b.compare("olt", coin, b.real(hamkaas.LARGEST_COIN)), coin, b.real(hamkaas.LARGEST_COIN))


def _largest(b: Builder, bits: int, hold: Callable[[Sequence[SSAValue]], Sequence[SSAValue]]) -> SSAValue:
    """The largest i64 of `bits` bits for which a condition holds that holds up to some number; 0 if for none.

    `hold` says of several numbers at once whether it does.
    """
    digits = -(-bits // DIGIT_BITS)

    def decide(number: SSAValue, state: list[SSAValue]) -> list[SSAValue]:
        shift = b.index_cast(b.mul_index(b.sub(b.number(digits - 1), number), b.number(DIGIT_BITS)), i64)
        trials = [
            b.add(state[0], b.insert(arith.ShLIOp(b.integer(digit), shift)).results[0])
            for digit in range(1, 1 << DIGIT_BITS)
        ]
        best = state[0]
        for trial, holds in zip(trials, hold(trials), strict=True):
            best = b.select(holds, trial, best)
        return [best]

    return b.loop(b.number(0), b.number(digits), 1, [b.integer(0)], decide, "digit")[0]


def _as_float(b: Builder, bits: SSAValue) -> SSAValue:
    """The f32 with these bits."""
    low = b.insert(arith.TruncIOp(bits, i32)).results[0]
    return b.insert(arith.BitcastOp(low, f32)).results[0]


def _floor(b: Builder, x: SSAValue) -> SSAValue:
    """The integer part of a float that is not negative, as i64."""
    return b.insert(arith.FPToSIOp(x, i64)).results[0]


def _times(b: Builder, mass: SSAValue, bits: SSAValue) -> SSAValue:
    """How often the weight with these bits fits into a mass; 0 where the weight is 0 or the mass negative."""
    weight = _as_float(b, bits)
    fits = b.both(b.compare("ogt", weight, b.real(0.0)), b.compare("ogt", mass, b.real(0.0)))
    quotient = b.div(b.select(fits, mass, b.real(0.0)), b.select(fits, weight, b.real(1.0)))
    return _floor(b, quotient)


def _smaller(b: Builder, x: SSAValue, y: SSAValue) -> SSAValue:
    return b.select(b.compare("slt", x, y), x, y)

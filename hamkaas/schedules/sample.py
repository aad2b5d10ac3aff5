"""Schedule of sampling: nucleus sampling without a sort, by one team.

With p = softmax(logits / temperature), the cut of a nucleus and the token that the coin picks are both of the form
"the largest threshold t such that the sum of all p >= t exceeds a given mass". The bits of a positive float are
ordered like the float, so 31 halvings of an integer find each threshold exactly; ties are told apart by their index.
"""

from collections.abc import Callable
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
from hamkaas.schedules.team import Span, Team

CUDA_THREADS = 1024
"""Threads of the one block."""

FLOAT_BITS = 31
"""Bits of a float32 but its sign."""


def lower_sample(lowering: Lowering, op: hamkaas.SampleOp) -> tuple[int, int]:
    """Lowers a group around one sampling of a token."""
    b, e = lowering.builder, lowering.elements
    (n,) = shape_of(op.logits)
    threads = CUDA_THREADS if lowering.target == "cuda" else 1
    thread = b.thread_id(threads) if threads > 1 else Index.of(0)
    team = Team(b, threads, 1, thread)
    first = (Index.of(0),)
    temperature, top_p, coin = (e.at(value, first) for value in (op.temperature, op.top_p, op.coin))
    greedy = b.compare("ole", temperature, b.real(0.0))
    inverse = b.div(b.real(1.0), b.select(greedy, b.real(1.0), temperature))
    (largest_logit,) = team.reduce(Span(n), [Combine.MAX], lambda k: [e.at(op.logits, (k,))])

    def weight(k: Index) -> SSAValue:
        """p of token k, but for the sum: 1 for the largest logit."""
        return b.exp(b.mul(b.sub(e.at(op.logits, (k,)), largest_logit), inverse))

    def total(of: Callable[[Index], SSAValue]) -> SSAValue:
        return team.reduce(Span(n), [Combine.ADD], lambda k: [of(k)])[0]

    def mass_from(bits: SSAValue) -> SSAValue:
        """The sum of the weights that are at least the float with these bits."""
        threshold = _as_float(b, bits)

        def counted(k: Index) -> SSAValue:
            w = weight(k)
            return b.select(b.compare("oge", w, threshold), w, b.real(0.0))

        return total(counted)

    def threshold(mass: SSAValue) -> SSAValue:
        """The bits of the largest weight w such that the weights from w up sum to more than `mass`."""
        return _largest(b, FLOAT_BITS, lambda bits: b.compare("ogt", mass_from(bits), mass))

    def above(bits: SSAValue) -> SSAValue:
        return mass_from(b.add(bits, b.integer(1)))

    def equal_before(bits: SSAValue, end: SSAValue) -> SSAValue:
        """How many of the tokens before `end` have the weight with these bits."""
        wanted = _as_float(b, bits)

        def is_one(k: Index) -> SSAValue:
            here = b.compare("slt", b.index_cast(b.index(k), i64), end)
            return b.select(b.both(here, b.compare("oeq", weight(k), wanted)), b.real(1.0), b.real(0.0))

        return _floor(b, total(is_one))

    mass = total(weight)
    everything = b.compare("oge", top_p, b.real(1.0))
    wanted = b.mul(top_p, mass)
    cut = b.select(everything, b.integer(0), threshold(wanted))
    kept_above = above(cut)
    ties = b.add(_times(b, b.sub(wanted, kept_above), cut), b.integer(1))
    ties = _smaller(b, ties, equal_before(cut, b.integer(n)))
    kept = b.fma(b.insert(arith.SIToFPOp(ties, f32)).results[0], _as_float(b, cut), kept_above)

    target = b.mul(coin, kept)
    chosen = threshold(target)
    chosen = b.select(b.compare("slt", chosen, cut), cut, chosen)
    rank = _times(b, b.sub(target, above(chosen)), chosen)
    one = b.insert(arith.ExtUIOp(b.insert(arith.BitcastOp(b.real(1.0), i32)).results[0], i64)).results[0]
    chosen, rank = b.select(greedy, one, chosen), b.select(greedy, b.integer(0), rank)

    token = _largest(b, (n - 1).bit_length(), lambda end: b.compare("sle", equal_before(chosen, end), rank))
    token = _smaller(b, token, b.integer(n - 1))
    e.known[op.result] = lambda _: token
    store = partial(lowering.store_output, op.result, first)
    if threads == 1:
        store()
    else:
        b.when(b.compare("eq", b.index(thread), b.number(0)), store)
    return 1, threads


def _largest(b: Builder, bits: int, holds: Callable[[SSAValue], SSAValue]) -> SSAValue:
    """The largest i64 of `bits` bits for which a condition holds that holds up to some number; 0 if for none."""

    def decide(number: SSAValue, state: list[SSAValue]) -> list[SSAValue]:
        shift = b.index_cast(b.sub(b.number(bits - 1), number), i64)
        trial = b.add(state[0], b.insert(arith.ShLIOp(b.integer(1), shift)).results[0])
        return [b.select(holds(trial), trial, state[0])]

    return b.loop(b.number(0), b.number(bits), 1, [b.integer(0)], decide, "bit")[0]


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

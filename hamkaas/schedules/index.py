"""Symbolic indices: sums of loop variables with constant factors, with division and remainder that simplify.

Views (reshape, permute, slice) cost nothing because a kernel never moves their elements: it computes the address of
what it needs as a function of its loop variables. This file is that arithmetic. All indices are non-negative and
every variable has a known range, so most divisions that a reshape asks for vanish when the kernel is generated:

    (8*t + lane) // 48          ->  t // 6              because 0 <= lane < 8 and 8 divides 48
    (2*p + 1) % 2               ->  1
    48*(i // 48) + i % 48       ->  i
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count
from math import gcd, prod
from typing import ClassVar

from xdsl.ir import SSAValue


@dataclass(frozen=True)
class Var:
    """A value of index type that is known when the kernel runs, with 0 <= value < size."""

    value: SSAValue = field(compare=False)
    size: int
    serial: int = field(default_factory=count().__next__)

    @property
    def high(self) -> int:
        """The largest value."""
        return self.size - 1

    @property
    def key(self) -> tuple[object, ...]:
        """Sorts terms, so that equal sums are equal objects."""
        return (0, self.serial)


@dataclass(frozen=True)
class Lane:
    """The number of a vector lane, 0 <= lane < size: not one value, but all of them side by side."""

    size: int

    @property
    def high(self) -> int:
        """The largest value."""
        return self.size - 1

    @property
    def key(self) -> tuple[object, ...]:
        """Sorts terms, so that equal sums are equal objects."""
        return (1, self.size)


@dataclass(frozen=True)
class Div:
    """numerator // divisor, where it does not simplify."""

    numerator: "Index"
    divisor: int

    @property
    def high(self) -> int:
        """The largest value."""
        return self.numerator.high // self.divisor

    @property
    def key(self) -> tuple[object, ...]:
        """Sorts terms, so that equal sums are equal objects."""
        return (2, self.divisor, self.numerator.key)


@dataclass(frozen=True)
class Mod:
    """numerator % divisor, where it does not simplify."""

    numerator: "Index"
    divisor: int

    @property
    def high(self) -> int:
        """The largest value."""
        return min(self.divisor - 1, self.numerator.high)

    @property
    def key(self) -> tuple[object, ...]:
        """Sorts terms, so that equal sums are equal objects."""
        return (3, self.divisor, self.numerator.key)


Atom = Var | Lane | Div | Mod


@dataclass(frozen=True)
class Index:
    """constant + sum of factor * atom, all non-negative. Equal sums compare equal."""

    terms: tuple[tuple[Atom, int], ...] = ()
    constant: int = 0
    ZERO: ClassVar["Index"]

    @staticmethod
    def of(value: "Index | Atom | int") -> "Index":
        """A number or an atom as an index."""
        if isinstance(value, Index):
            return value
        return Index((), value) if isinstance(value, int) else _sum([(value, 1)], 0)

    @property
    def high(self) -> int:
        """The largest value that it can have."""
        return self.constant + sum(factor * atom.high for atom, factor in self.terms)

    @property
    def key(self) -> tuple[object, ...]:
        """Sorts terms, so that equal sums are equal objects."""
        return (*((atom.key, factor) for atom, factor in self.terms), self.constant)

    def __add__(self, other: "Index | int") -> "Index":
        other = Index.of(other)
        return _sum((*self.terms, *other.terms), self.constant + other.constant)

    def __mul__(self, factor: int) -> "Index":
        if factor == 0:
            return Index()
        return Index(tuple((atom, factor * f) for atom, f in self.terms), factor * self.constant)

    def __floordiv__(self, divisor: int) -> "Index":
        quotient, remainder = self._split(divisor)
        if remainder.high < divisor:
            return quotient
        step, small = remainder._common_step(divisor)
        if step > 1:
            return quotient + remainder._without(small, step) // (divisor // step)
        return quotient + Index.of(Div(remainder, divisor))

    def __mod__(self, divisor: int) -> "Index":
        _, remainder = self._split(divisor)
        if remainder.high < divisor:
            return remainder
        step, small = remainder._common_step(divisor)
        if step > 1:
            return (remainder._without(small, step) % (divisor // step)) * step + small
        return Index.of(Mod(remainder, divisor))

    def _split(self, divisor: int) -> tuple["Index", "Index"]:
        """(q, r) with self = divisor * q + r, where q takes the terms that the divisor divides."""
        whole = [(atom, factor // divisor) for atom, factor in self.terms if factor % divisor == 0]
        rest = [(atom, factor) for atom, factor in self.terms if factor % divisor]
        return _sum(whole, self.constant // divisor), _sum(rest, self.constant % divisor)

    def _common_step(self, divisor: int) -> tuple[int, "Index"]:
        """(g, small) with self = g * big + small, 0 <= small < g, g dividing the divisor; g is 1 if there is none."""
        for step in sorted({gcd(factor, divisor) for _, factor in self.terms}, reverse=True):
            small = _sum([(atom, f) for atom, f in self.terms if f % step], self.constant % step)
            if step > 1 and small.high < step:
                return step, small
        return 1, Index()

    def _without(self, small: "Index", step: int) -> "Index":
        """(self - small) / step, where `small` holds the terms that the step does not divide."""
        terms = [(atom, factor // step) for atom, factor in self.terms if factor % step == 0]
        return _sum(terms, (self.constant - small.constant) // step)

    def factor(self, atom: Atom) -> int:
        """The factor of `atom` in the sum."""
        return next((factor for other, factor in self.terms if other == atom), 0)

    def is_multiple_of(self, number: int) -> bool:
        """Whether every value of the sum is known to be a multiple of `number`."""
        return self.constant % number == 0 and all(factor % number == 0 for _, factor in self.terms)

    def mentions(self, atom: Atom) -> bool:
        """Whether `atom` occurs anywhere, inside divisions too."""
        return any(a == atom or (isinstance(a, Div | Mod) and a.numerator.mentions(atom)) for a, _ in self.terms)

    def substitute(self, atom: Atom, value: "Index | int") -> "Index":
        """The sum with `value` in place of `atom`, simplified anew."""
        if not self.mentions(atom):
            return self
        result = Index((), self.constant)
        for term, factor in self.terms:
            result = result + _substitute(term, atom, Index.of(value)) * factor
        return result


def _substitute(term: Atom, atom: Atom, value: Index) -> Index:
    if term == atom:
        return value
    match term:
        case Div():
            return term.numerator.substitute(atom, value) // term.divisor
        case Mod():
            return term.numerator.substitute(atom, value) % term.divisor
        case _:
            return Index.of(term)


def _sum(terms: Iterable[tuple[Atom, int]], constant: int) -> Index:
    factors: dict[Atom, int] = {}
    for atom, factor in terms:
        if isinstance(atom, Var) and atom.size == 1:
            continue
        factors[atom] = factors.get(atom, 0) + factor
    for atom, factor in list(factors.items()):
        # d*k*(x // d) + k*(x % d) -> k*x: the two halves of a reshape there and back
        if isinstance(atom, Mod) and factors.get(Div(atom.numerator, atom.divisor)) == factor * atom.divisor:
            del factors[atom], factors[Div(atom.numerator, atom.divisor)]
            rest = Index(tuple(factors.items()), constant)
            return rest + atom.numerator * factor
    ordered = sorted(factors.items(), key=lambda item: item[0].key)
    return Index(tuple(ordered), constant)


Index.ZERO = Index()


def linearize(index: Sequence[Index], shape: Sequence[int]) -> Index:
    """The position of element `index` of a dense row-major tensor of this shape."""
    result = Index()
    for axis, value in enumerate(index):
        result = result + value * prod(shape[axis + 1 :])
    return result


def delinearize(position: Index, shape: Sequence[int]) -> tuple[Index, ...]:
    """The index of the element at a position: the inverse of `linearize`."""
    index: list[Index] = []
    for size in reversed(shape[1:]):
        index.append(position % size)
        position = position // size
    return (position, *reversed(index))

"""Remarks of passes: what was decided otherwise than a user might hope, and why. Never an error.

A pass calls `remark`; whoever wants to know wraps the run in `collect`. Nobody else pays for them.
"""

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class Remark:
    """One decision."""

    where: str
    """The pass and the function: 'cudnn-outline: @main'."""
    what: str
    """The operation: 'hamkaas.add %y'."""
    why: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}: {self.why}"


_collected: ContextVar[list[Remark] | None] = ContextVar("remarks", default=None)


def remark(where: str, what: str, why: str) -> None:
    """Adds a remark to those that are being collected, if anybody does."""
    if (collected := _collected.get()) is not None:
        collected.append(Remark(where, what, why))


@contextmanager
def collect() -> Generator[list[Remark]]:
    """The remarks that are made in the block, in order."""
    remarks: list[Remark] = []
    token = _collected.set(remarks)
    try:
        yield remarks
    finally:
        _collected.reset(token)

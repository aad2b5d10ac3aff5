"""Tells versions of the compiler apart: what was measured with one says nothing about another."""

import hashlib
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1]


@cache
def compiler_digest() -> str:
    """Changes with every change of the compiler's code."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()

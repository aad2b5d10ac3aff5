"""How long it takes to compile, and to run things in turn."""

import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import hamkaas as hk


@dataclass
class Compiled:
    """A model, and how long it took to make."""

    model: hk.Model | None
    """None if the time to compile was all that was wanted."""
    compile_seconds: float
    """From graph to loaded code. On the CPU all of `hk.compile`: weights are used where they lie, if not small."""
    load_seconds: float
    """Uploading the weights to a GPU."""
    slow_steps: list[str]
    """What `hk.compile` said that it was doing."""


class _Enough(Exception):
    """The code is there."""


def compile_timed(graphs: Any, *, load: bool = True, **options: Any) -> Compiled:
    """Compiles with these options of `hk.compile`; without `load` a GPU gets no weights."""
    said: list[str] = []
    model, uploading = None, 0.0

    def note(what: str) -> None:
        nonlocal uploading
        said.append(what)
        if what.startswith("uploading"):
            uploading = time.perf_counter()
            if not load:
                raise _Enough

    started = time.perf_counter()
    try:
        model = hk.compile(graphs, progress=note, **options)
    except _Enough:
        pass
    ended = time.perf_counter()
    compiled = uploading or ended
    if model is not None and not load:
        model.close()
        model = None
    return Compiled(model, compiled - started, ended - compiled if load else 0.0, said)


@contextmanager
def empty_cache() -> Generator[None]:
    """A cache folder with nothing in it, for this process and those that it starts."""
    with TemporaryDirectory() as folder, patch.dict(os.environ, HAMKAAS_CACHE="1", HAMKAAS_CACHE_DIR=folder):
        yield


def compile_cold_and_warm(graphs: Any, **options: Any) -> tuple[hk.Model, dict[str, float]]:
    """Compiles with an empty cache folder and again with that folder filled; weights are uploaded once.

    Gives the model, and the seconds of both compiles and of the upload as parts of a row.
    """
    with empty_cache():
        cold = compile_timed(graphs, load=False, **options)
        warm = compile_timed(graphs, **options)
    assert warm.model is not None
    return warm.model, {
        "compile_cold_seconds": round(cold.compile_seconds, 2),
        "compile_warm_seconds": round(warm.compile_seconds, 2),
        "load_seconds": round(warm.load_seconds, 2),
    }

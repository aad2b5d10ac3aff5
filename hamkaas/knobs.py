"""Every `HAMKAAS_*` environment variable: its type, its default and one line of documentation.

No other file reads the environment. A knob that changes generated code is part of the cache key.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Knob(Generic[T]):
    """One environment variable. `get()` reads it anew at each call; a value that does not parse is a `ValueError`."""

    name: str
    default: T
    parse: Callable[[str], T]
    doc: str

    def get(self) -> T:
        """The value in force: the environment's, or the default when the variable is unset or empty."""
        text = os.environ.get(self.name, "")
        if not text:
            return self.default
        try:
            return self.parse(text)
        except ValueError as error:
            raise ValueError(f"{self.name}: expected {self.doc}, got {text!r}") from error


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise ValueError(f"{number} is negative")
    return number


def _default_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path.home() / ".cache") / "hamkaas"


CACHE_DIR: Knob[Path | None] = Knob(
    "HAMKAAS_CACHE_DIR", None, Path, "a folder for compiled code (default: the user's cache folder)"
)
CACHE = Knob("HAMKAAS_CACHE", 1, _count, "0 to switch the cache of compiled code off, 1 to use it")
WORKERS = Knob(
    "HAMKAAS_WORKERS", 0, _count, "the number of CPU worker threads, 0 to choose by cores and size of the work"
)
TUNE = Knob("HAMKAAS_TUNE", 1, _count, "0 to take CUDA kernels by rule, 1 to time several shapes of them on the device")
DUMP: Knob[Path | None] = Knob(
    "HAMKAAS_DUMP", None, Path, "a folder into which every stage's IR and the generated code are written"
)
CUDNN_PLANS = Knob(
    "HAMKAAS_CUDNN_PLANS", 0, _count, "how many plans of a cuDNN graph are built and timed at most, 0 for all"
)

ALL_KNOBS = (CACHE_DIR, CACHE, WORKERS, TUNE, DUMP, CUDNN_PLANS)


def cache_dir() -> Path | None:
    """The folder of the cache of compiled code, or None when the cache is off."""
    if not CACHE.get():
        return None
    return CACHE_DIR.get() or _default_cache()

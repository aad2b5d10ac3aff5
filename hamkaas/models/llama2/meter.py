"""What a run costs: tokens, time and memory, as people and as programs read it."""

import sys
import time
import zlib
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hamkaas.models.llama2.generate import Feed


@dataclass
class Cost:
    """Tokens, and the time that they took."""

    tokens: int = 0
    seconds: float = 0.0

    def add(self, tokens: int, seconds: float) -> None:
        """More of both."""
        self.tokens += tokens
        self.seconds += seconds

    @property
    def rate(self) -> float | None:
        """Tokens per second; None if that cannot be known."""
        return self.tokens / self.seconds if self.tokens and self.seconds else None


class Meter:
    """Counts and times what is fed to a model: the prompt, which comes first, and then each token that is decoded."""

    def __init__(self, on_token: Callable[[int, float], None] | None = None):
        """`on_token` is told (position, seconds) of each decoded token."""
        self._feed: Feed | None = None
        self._step_bytes = 0
        self._on_token = on_token
        self._prompt, self._decode = Cost(), Cost()
        self._first_token: float | None = None
        self._is_prompt = True
        self._last = time.perf_counter()
        self._logits: NDArray[np.float32] | None = None
        self._load_seconds = 0.0
        self._compile_seconds = 0.0
        self._is_cold = False

    @contextmanager
    def loading(self) -> Generator[None]:
        """What is done inside is loading."""
        started = time.perf_counter()
        yield
        self._load_seconds = time.perf_counter() - started

    @contextmanager
    def compiling(self) -> Generator[Callable[[str], None]]:
        """What is done inside is compiling; gives a `progress` for `hamkaas.compile`.

        A compilation is cold if machine code had to be generated, and warm if it was in the cache.
        """

        def progress(what: str) -> None:
            self._is_cold |= what.startswith("compiling")

        started = time.perf_counter()
        yield progress
        self._compile_seconds = time.perf_counter() - started

    def attach(self, feed: Feed, step_bytes: int) -> None:
        """What `feed` feeds; one step reads `step_bytes` of weights."""
        self._feed, self._step_bytes = feed, step_bytes

    def begin(self) -> None:
        """A text begins: the time since the last token, in which a person may have typed, does not count."""
        self._is_prompt = True
        self._last = time.perf_counter()

    def feed(self, tokens: Sequence[int], start: int) -> NDArray[np.float32]:
        """See `Feed`. A decoded token takes from the end of the one before: sampling and printing count."""
        assert self._feed is not None, "attach comes first"
        logits = self._logits = self._feed(tokens, start)
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        if self._is_prompt:
            self._prompt.add(len(tokens), seconds)
            self._first_token = seconds if self._first_token is None else self._first_token
        else:
            self._decode.add(len(tokens), seconds)
            if self._on_token is not None:
                self._on_token(start, seconds)
        self._is_prompt = False
        return logits

    def statistics(self) -> dict[str, Any]:
        """Numbers in SI units; those that cannot be known are None."""
        rate = self._decode.rate
        return {
            "tokens": self._prompt.tokens + self._decode.tokens,
            "prompt_tokens": self._prompt.tokens,
            "prompt_tokens_per_second": self._prompt.rate,
            "first_token_seconds": self._first_token,
            "decode_tokens": self._decode.tokens,
            "tokens_per_second": rate,
            "seconds_per_token": None if rate is None else 1 / rate,
            "weight_bytes_per_second": None if rate is None else self._step_bytes * rate,
            "load_seconds": self._load_seconds,
            "compile_seconds": self._compile_seconds,
            "compiled_cold": self._is_cold,
            "peak_memory_bytes": peak_memory(),
            "logits_crc32": None if self._logits is None else f"{zlib.crc32(self._logits.tobytes()):08x}",
        }

    def report(self) -> str:
        """The statistics in one line; the last field is a checksum of the last logits."""
        numbers = self.statistics()
        parts: list[str] = []
        if (rate := numbers["prompt_tokens_per_second"]) is not None:
            first = numbers["first_token_seconds"] * 1e3
            parts.append(f"prompt {self._prompt.tokens}: {rate:.0f} tok/s, first token after {first:.0f} ms")
        if (rate := numbers["tokens_per_second"]) is not None:
            bandwidth = numbers["weight_bytes_per_second"] / 1e9
            speed = f"{rate:.0f} tok/s, {1e3 / rate:.3f} ms/tok, {bandwidth:.1f} GB/s of weights"
            parts.append(f"decode {self._decode.tokens}: {speed}")
        parts.append(f"load {self._load_seconds:.2f} s")
        parts.append(f"compile {self._compile_seconds:.2f} s ({'cold' if self._is_cold else 'warm'})")
        if (memory := numbers["peak_memory_bytes"]) is not None:
            parts.append(f"peak {memory / 1e6:.0f} MB")
        if numbers["logits_crc32"] is not None:
            parts.append(f"#{numbers['logits_crc32']}")
        return f"# {numbers['tokens']} tokens: " + "; ".join(parts)


def peak_memory() -> int | None:
    """The most memory that the process had resident, in bytes, mapped files included; None where nobody tells."""
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

"""What a run costs: tokens, time and memory, as people and as programs read it."""

import sys
import time
import zlib
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import hamkaas as hk
from hamkaas.models.llama2.checkpoint import Checkpoint, Quantized
from hamkaas.models.llama2.generate import Feed, Source
from hamkaas.models.llama2.graph import NEXT, STEP, scales_name

BANDWIDTH_OF = {"cpu": "reading alone", "cuda": "a copy"}
"""What the measured bandwidth is that of, by target; see `hamkaas.Graph.bandwidth`."""


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
    """Counts and times the tokens of a source, and is one: each prompt, which comes first, and then what is decoded."""

    def __init__(self, on_token: Callable[[int, float], None] | None = None):
        """`on_token` is told (position, seconds) of each decoded token."""
        self._source: Source | None = None
        self._model: hk.Model | None = None
        self._step_bytes = 0
        self._on_token = on_token
        self._prompt, self._decode = Cost(), Cost()
        self._first_token: float | None = None
        self._num_prompt = 0
        self._position = 0
        self._last = time.perf_counter()
        self._logits: NDArray[np.float32] | None = None
        self._bandwidth: float | None = None
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

    def attach(self, source: Source, model: hk.Model, checkpoint: Checkpoint) -> None:
        """What the tokens come from, the model behind it, and whose weights that has."""
        self._source, self._model, self._step_bytes = source, model, step_bytes(model, checkpoint)

    @property
    def logits(self) -> NDArray[np.float32] | None:
        """See `Source`."""
        return self._logits

    def begin(self, prompt: Sequence[int], before: Sequence[int], end: int) -> None:
        """See `Source`. The time since the last token, in which a person may have typed, does not count."""
        assert self._source is not None, "attach comes first"
        self._num_prompt = len(prompt)
        self._position = len(before) + len(prompt) - 1
        self._last = time.perf_counter()
        self._source.begin(prompt, before, end)

    def next(self) -> int:
        """See `Source`. A decoded token takes from the end of the one before: sampling and printing count."""
        assert self._source is not None, "attach comes first"
        token = self._source.next()
        self._logits = self._source.logits
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        if self._num_prompt:
            self._prompt.add(self._num_prompt, seconds)
            self._first_token = seconds if self._first_token is None else self._first_token
            self._num_prompt = 0
        else:
            self._position += 1
            self._decode.add(1, seconds)
            if self._on_token is not None:
                self._on_token(self._position, seconds)
        return token

    def count(self, rows: Feed) -> Feed:
        """The same feed, whose tokens count as a prompt's."""

        def counted(tokens: Sequence[int], start: int) -> NDArray[np.float32]:
            started = time.perf_counter()
            self._logits = rows(tokens, start)
            self._prompt.add(len(tokens), time.perf_counter() - started)
            return self._logits

        return counted

    def statistics(self) -> dict[str, Any]:
        """Numbers in SI units; those that cannot be known are None.

        The bandwidth is measured when this is first called after a token was decoded; the model must be open then.
        """
        memory = peak_memory()
        rate = self._decode.rate
        if rate is not None and self._bandwidth is None and self._model is not None:
            self._bandwidth = self._model[STEP if STEP in self._model.graphs else NEXT].bandwidth()
        weights = None if rate is None else self._step_bytes * rate
        return {
            "tokens": self._prompt.tokens + self._decode.tokens,
            "prompt_tokens": self._prompt.tokens,
            "prompt_tokens_per_second": self._prompt.rate,
            "first_token_seconds": self._first_token,
            "decode_tokens": self._decode.tokens,
            "tokens_per_second": rate,
            "seconds_per_token": None if rate is None else 1 / rate,
            "weight_bytes_per_second": weights,
            "bandwidth_bytes_per_second": self._bandwidth,
            "bandwidth_of": None if self._model is None else BANDWIDTH_OF[self._model.target],
            "percent_of_bandwidth": 100 * weights / self._bandwidth if weights and self._bandwidth else None,
            "load_seconds": self._load_seconds,
            "compile_seconds": self._compile_seconds,
            "compiled_cold": self._is_cold,
            "peak_memory_bytes": memory,
            "logits_crc32": None if self._logits is None else f"{zlib.crc32(self._logits.tobytes()):08x}",
        }


def step_bytes(model: hk.Model, checkpoint: Checkpoint) -> int:
    """Bytes of weights that one step of a compiled model reads; the compiler may have stored them in fewer bits."""
    unread = () if checkpoint.config.shared_classifier else ("tok_embeddings",)  # but for one row
    read = {name for of, name in model.artifact.scaled if of not in unread}
    for name, weight in checkpoint.weights.items():
        if name not in unread:
            read |= {name, scales_name(name)} if isinstance(weight, Quantized) else {name}
    return sum(spec.nbytes for spec in model.artifact.weights if spec.name in read)


def report(numbers: Mapping[str, Any]) -> str:
    """The statistics of a `Meter` in one line; the last field is a checksum of the last logits."""
    parts: list[str] = []
    if (rate := numbers["prompt_tokens_per_second"]) is not None:
        parts.append(f"prompt {numbers['prompt_tokens']}: {rate:.0f} tok/s")
    if (first := numbers["first_token_seconds"]) is not None:
        parts[-1] += f", first token after {first * 1e3:.0f} ms"
    if (rate := numbers["tokens_per_second"]) is not None:
        speed = f"{rate:.0f} tok/s, {1e3 / rate:.3f} ms/tok, {numbers['weight_bytes_per_second'] / 1e9:.1f} GB/s"
        speed += " of weights"
        if (percent := numbers["percent_of_bandwidth"]) is not None:
            measured = numbers["bandwidth_bytes_per_second"] / 1e9
            speed += f" ({percent:.0f} % of {measured:.1f} for {numbers['bandwidth_of']})"
        parts.append(f"decode {numbers['decode_tokens']}: {speed}")
    parts.append(f"load {numbers['load_seconds']:.2f} s")
    parts.append(f"compile {numbers['compile_seconds']:.2f} s ({'cold' if numbers['compiled_cold'] else 'warm'})")
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

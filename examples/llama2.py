#!/usr/bin/env python3
"""Runs llama2.c checkpoints: text on stdout, everything else on stderr.

llama2.py CHECKPOINT [-t TEMPERATURE] [-p TOP_P] [-s SEED] [-n STEPS] [-i PROMPT] [-z TOKENIZER] [--target cpu|cuda]
llama2.py CHECKPOINT TEMPERATURE STEPS PROMPT
"""

import argparse
import os
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

import hamkaas as hk
from hamkaas.models.llama2 import (
    Checkpoint,
    Sampler,
    Step,
    TextStream,
    Tokenizer,
    Xorshift,
    build_step,
    generate,
    load_checkpoint,
    load_tokenizer,
    model_step,
)

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT, as shells expect."""


def main() -> int:
    """Parses the command line and generates; gives the exit code."""
    parser = make_parser()
    options = parser.parse_args()
    merge_positional(parser, options)
    check_options(parser, options)
    try:
        return run(parser, options)
    except hk.HamkaasError as error:
        print(f"llama2.py: error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # whoever read our text has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def make_parser() -> argparse.ArgumentParser:
    """The command line; the short options are those of llama2.c."""
    parser = argparse.ArgumentParser(prog="llama2.py", description="Runs llama2.c checkpoints.")
    parser.add_argument("checkpoint", type=Path, help="a llama2.c checkpoint (.bin, version 0)")
    parser.add_argument("positional", nargs="*", metavar="TEMPERATURE STEPS PROMPT", help="as in llama2.py")
    parser.add_argument("-t", "--temperature", type=float, help="0 is greedy (default: 1.0)")
    parser.add_argument("-p", "--top-p", type=float, default=0.9, help="0 or 1 switch it off (default: 0.9)")
    parser.add_argument("-s", "--seed", type=int, default=0, help="0 takes the time (default)")
    parser.add_argument("-n", "--steps", type=int, help="0 runs to the end of the context (default: 256)")
    parser.add_argument("-i", "--prompt", help="text to begin with")
    parser.add_argument("-z", "--tokenizer", type=Path, help="default: tokenizer.bin beside the checkpoint, or here")
    parser.add_argument("--target", choices=["cpu", "cuda"], help="default: cuda if there is a driver, else cpu")
    parser.add_argument("-q", "--quiet", action="store_true", help="nothing on stderr but errors")
    return parser


def merge_positional(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Takes TEMPERATURE STEPS PROMPT for options that were not given."""
    if len(options.positional) > 3:
        parser.error(f"expected CHECKPOINT TEMPERATURE STEPS PROMPT, got {len(options.positional) + 1} arguments")
    names = (("temperature", float, 1.0), ("steps", int, 256), ("prompt", str, ""))
    given = [*options.positional, None, None, None]
    for (name, kind, default), text in zip(names, given, strict=False):
        if text is not None:
            if getattr(options, name) is not None:
                parser.error(f"{name} is given twice")
            try:
                setattr(options, name, kind(text))
            except ValueError:
                parser.error(f"argument {name.upper()}: expected {kind.__name__}, got {text!r}")
        elif getattr(options, name) is None:
            setattr(options, name, default)


def check_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuses numbers out of range and files that are not there, before anything is loaded."""
    if not 0 <= options.temperature < float("inf"):
        parser.error(f"argument -t/--temperature: expected at least 0, got {options.temperature}")
    if not 0 <= options.top_p <= 1:
        parser.error(f"argument -p/--top-p: expected between 0 and 1, got {options.top_p}")
    if options.steps < 0:
        parser.error(f"argument -n/--steps: expected at least 0, got {options.steps}")
    if options.tokenizer is None:
        beside = options.checkpoint.parent / "tokenizer.bin"
        options.tokenizer = beside if beside.exists() else Path("tokenizer.bin")
    for path in (options.checkpoint, options.tokenizer):
        if not path.is_file():
            parser.error(f"{path}: no such file")


def run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Loads, compiles, generates and reports."""
    with status("loading", options.quiet):
        checkpoint = load_checkpoint(options.checkpoint)
        tokenizer = load_tokenizer(options.tokenizer, checkpoint.config.vocab_size)
    prompt = tokenizer.encode(options.prompt)
    context = checkpoint.config.max_positions
    if len(prompt) > context:
        parser.error(f"the prompt has {len(prompt)} tokens, more than the context of {context}")
    steps = min(options.steps or context, context)
    seed = options.seed if options.seed > 0 else int(time.time())
    sampler = Sampler(options.temperature, options.top_p, Xorshift(seed))
    started = time.perf_counter()
    with status("compiling", options.quiet):
        model = hk.compile(build_step(checkpoint.config, checkpoint.weights), target=options.target)
    compile_seconds = time.perf_counter() - started
    with model:
        meter = Meter(model_step(model))
        code = write(meter, tokenizer, prompt, sampler, steps)
    if not options.quiet:
        print(meter.report(checkpoint, compile_seconds), file=sys.stderr)
    return code


def write(meter: "Meter", tokenizer: Tokenizer, prompt: list[int], sampler: Sampler, steps: int) -> int:
    """Streams the text to stdout; Ctrl-C ends it early."""
    stream = TextStream(tokenizer)
    code = 0
    try:
        for token, previous in generate(meter.step, prompt, sampler, steps):
            if text := stream.push(token, previous):
                sys.stdout.write(text)
                sys.stdout.flush()
    except KeyboardInterrupt:
        code = INTERRUPTED
    sys.stdout.write(stream.finish() + "\n")
    sys.stdout.flush()
    return code


class Meter:
    """Counts and times steps. The rate leaves the first one out, as llama2.c does: it also pays for cold caches."""

    def __init__(self, step: Step):
        self._step = step
        self._steps = 0
        self._after_first = 0.0
        self._last = 0.0
        self._logits: NDArray[np.float32] | None = None

    def step(self, token: int, position: int) -> NDArray[np.float32]:
        """One step, counted."""
        logits = self._logits = self._step(token, position)
        self._last = time.perf_counter()
        if not self._steps:
            self._after_first = self._last
        self._steps += 1
        return logits

    def report(self, checkpoint: Checkpoint, compile_seconds: float) -> str:
        """The statistics in one line; the last field is a checksum of the last logits."""
        parts = [f"{self._steps} tokens"]
        if self._steps > 1:
            seconds = (self._last - self._after_first) / (self._steps - 1)
            parts[0] += f": {1 / seconds:.0f} tok/s"
            # of the embedding table a step reads one row, unless it is the classifier too
            table = checkpoint.weights["tok_embeddings"].nbytes
            read = checkpoint.nbytes - (0 if checkpoint.config.shared_classifier else table)
            parts += [f"{seconds * 1e3:.3f} ms/tok", f"{read / seconds / 1e9:.1f} GB/s of weights"]
        parts.append(f"compile {compile_seconds:.2f} s")
        if self._logits is not None:
            parts.append(f"#{zlib.crc32(self._logits.tobytes()):08x}")
        return "# " + "; ".join(parts)


@contextmanager
def status(what: str, quiet: bool) -> Iterator[None]:
    """Shows on a terminal that something is going on."""
    if quiet or not sys.stderr.isatty():
        yield
        return
    with Progress(console=Console(stderr=True), transient=True) as progress:
        progress.add_task(what, total=None)
        yield


def _entry() -> NoReturn:
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    _entry()

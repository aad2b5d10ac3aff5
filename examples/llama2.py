#!/usr/bin/env python3
"""Runs llama models: text on stdout, everything else on stderr.

llama2.py MODEL [-t TEMPERATURE] [-p TOP_P] [-s SEED] [-n STEPS] [-i PROMPT] [-z TOKENIZER] [--target cpu|cuda]
llama2.py MODEL TEMPERATURE STEPS PROMPT
llama2.py MODEL -m chat [-y SYSTEM_PROMPT]
"""

import argparse
import json
import os
import sys
import time
import zlib
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

import hamkaas as hk
from hamkaas.models.llama2 import (
    Chat,
    Checkpoint,
    Sampler,
    Step,
    TextStream,
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
    """Parses the command line and runs the model; gives the exit code."""
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
    except OSError as error:  # a full disk, say
        where = f"{error.filename}: " if error.filename else ""
        print(f"llama2.py: error: {where}{error.strerror}", file=sys.stderr)
        return 1


def make_parser() -> argparse.ArgumentParser:
    """The command line; the short options are those of llama2.c."""
    parser = argparse.ArgumentParser(prog="llama2.py", description="Runs llama models.")
    parser.add_argument("model", type=Path, help="a checkpoint of llama2.c (version 0, 1 or 2) or a GGUF file")
    parser.add_argument("positional", nargs="*", metavar="TEMPERATURE STEPS PROMPT", help="as in llama2.py")
    parser.add_argument("-t", "--temperature", type=float, help="0 is greedy (default: 1.0)")
    parser.add_argument("-p", "--top-p", type=float, default=0.9, help="0 or 1 switch it off (default: 0.9)")
    parser.add_argument("-s", "--seed", type=int, default=0, help="0 takes the time (default)")
    parser.add_argument("-n", "--steps", type=int, help="0 runs to the end of the context (default: 256; a chat: 0)")
    parser.add_argument("-i", "--prompt", help="text to begin with; in a chat the first message")
    parser.add_argument("-z", "--tokenizer", type=Path, help="default: tokenizer.bin beside the checkpoint, or here")
    parser.add_argument("-m", "--mode", choices=["generate", "chat"], default="generate", help="default: generate")
    parser.add_argument("-y", "--system", metavar="TEXT", help="system prompt of a chat (default: the template's)")
    parser.add_argument("-c", "--context", type=int, metavar="N", help="use N positions of the context at most")
    parser.add_argument("--target", choices=["cpu", "cuda"], help="default: cuda if there is a driver, else cpu")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the statistics as JSON")
    parser.add_argument("-q", "--quiet", action="store_true", help="nothing on stderr but errors")
    return parser


def merge_positional(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Takes TEMPERATURE STEPS PROMPT for options that were not given."""
    if len(options.positional) > 3:
        parser.error(f"expected MODEL TEMPERATURE STEPS PROMPT, got {len(options.positional) + 1} arguments")
    steps = 0 if options.mode == "chat" else 256
    names = (("temperature", float, 1.0), ("steps", int, steps), ("prompt", str, ""))
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
    if options.context is not None and options.context < 1:
        parser.error(f"argument -c/--context: expected at least 1, got {options.context}")
    for path in (options.model, options.tokenizer):
        if path is not None and not path.is_file():
            parser.error(f"{path}: no such file")


def run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Loads, compiles, generates and reports."""
    started = time.perf_counter()
    checkpoint = load(options)
    load_seconds = time.perf_counter() - started
    prompt = [] if options.mode == "chat" else encode(parser, checkpoint, options.prompt)
    sampler = Sampler(
        options.temperature, options.top_p, Xorshift(options.seed if options.seed > 0 else int(time.time()))
    )
    started = time.perf_counter()
    with status("compiling", options.quiet):
        model = hk.compile(build_step(checkpoint.config, checkpoint.weights), target=options.target)
    compile_seconds = time.perf_counter() - started
    with model:
        meter = Meter(model_step(model), checkpoint, load_seconds, compile_seconds)
        if options.mode == "chat":
            code = chat(meter, checkpoint, sampler, options)
        else:
            code = write(meter, checkpoint, prompt, sampler, options.steps)
    if not options.quiet:
        print(meter.report(), file=sys.stderr)
    if options.json is not None:
        options.json.write_text(json.dumps(meter.statistics(), indent=2) + "\n")
    return code


def load(options: argparse.Namespace) -> Checkpoint:
    """The model, with a tokenizer, and with no more of a context than is wanted."""
    with status("loading", options.quiet) as update:
        checkpoint = load_checkpoint(options.model, update)
        if options.context is not None and options.context < checkpoint.config.max_positions:
            checkpoint = replace(checkpoint, config=replace(checkpoint.config, max_positions=options.context))
        if options.mode == "chat" and checkpoint.chat_template is None:
            raise hk.CheckpointError(f"{options.model}: expected a model with a chat template for -m chat, got none")
        if options.tokenizer is None and checkpoint.tokenizer is not None:
            return checkpoint
        beside = options.model.parent / "tokenizer.bin"
        path = options.tokenizer or (beside if beside.exists() else Path("tokenizer.bin"))
        return replace(checkpoint, tokenizer=load_tokenizer(path, checkpoint.config.vocab_size))


def encode(parser: argparse.ArgumentParser, checkpoint: Checkpoint, text: str) -> list[int]:
    """The tokens of a prompt that fits the context."""
    assert checkpoint.tokenizer is not None
    prompt = checkpoint.tokenizer.encode(text)
    if not prompt:
        parser.error(
            "argument -i/--prompt: expected a text, since texts of this model begin with no token of their own"
        )
    if len(prompt) > checkpoint.config.max_positions:
        parser.error(f"the prompt has {len(prompt)} tokens, more than the context of {checkpoint.config.max_positions}")
    return prompt


def write(meter: "Meter", checkpoint: Checkpoint, prompt: list[int], sampler: Sampler, steps: int) -> int:
    """Streams the text to stdout; Ctrl-C ends it early."""
    assert checkpoint.tokenizer is not None
    stream = TextStream(checkpoint.tokenizer)
    context = checkpoint.config.max_positions
    code = 0
    meter.begin(len(prompt))
    try:
        if checkpoint.tokenizer.piece(prompt[0], -1) and prompt[0] not in checkpoint.stop:
            show(stream.push(prompt[0], -1))
        for token, previous in generate(meter.step, prompt, sampler, min(steps or context, context), checkpoint.stop):
            show(stream.push(token, previous))
    except KeyboardInterrupt:
        code = INTERRUPTED
    show(stream.finish() + "\n")
    return code


CHAT_HELP = "/help, /reset (forget the conversation), /stats, /save FILE (the conversation as JSON), /quit or Ctrl-D"


def chat(meter: "Meter", checkpoint: Checkpoint, sampler: Sampler, options: argparse.Namespace) -> int:
    """Messages from stdin, answers to stdout. Ctrl-C ends an answer; at a prompt, or without a terminal, the chat."""
    conversation = Chat(checkpoint, meter.step, sampler, options.system)
    interactive = sys.stdin.isatty()
    message = options.prompt
    try:
        while True:
            if not message:
                message = ask(interactive)
            if message is None or message == "/quit":
                return 0
            if message.startswith("/"):
                command(conversation, meter, message)
            elif message:
                try:
                    meter.begin(0)
                    for text in conversation.reply(message):
                        show(text)
                except KeyboardInterrupt:
                    if not interactive:
                        return INTERRUPTED
                except hk.InputError as error:
                    print(f"llama2.py: {error}; /reset begins a new one", file=sys.stderr)
                    if not interactive:
                        return 1
                finally:
                    show("\n")
            message = ""
    except KeyboardInterrupt:
        return INTERRUPTED


def ask(interactive: bool) -> str | None:
    """The next message, or None at the end of stdin."""
    if interactive:
        print("> ", end="", file=sys.stderr, flush=True)
    line = sys.stdin.readline()
    return line.strip() if line else None


def command(conversation: Chat, meter: "Meter", line: str) -> None:
    """Does what a line that starts with / says; says on stderr what it did."""
    name, _, argument = line.partition(" ")
    if name == "/reset":
        conversation.reset()
        print("the conversation is forgotten", file=sys.stderr)
    elif name == "/stats":
        print(meter.report(), file=sys.stderr)
    elif name == "/save" and argument:
        try:
            Path(argument).write_text(json.dumps(conversation.messages, indent=2, ensure_ascii=False) + "\n")
            print(f"saved to {argument}", file=sys.stderr)
        except OSError as error:
            print(f"{argument}: {error.strerror}", file=sys.stderr)
    else:
        print(CHAT_HELP, file=sys.stderr)


def show(text: str) -> None:
    """Text to stdout, at once."""
    if text:
        sys.stdout.write(text)
        sys.stdout.flush()


class Meter:
    """Counts and times steps. The rate leaves the first one out, as llama2.c does: it also pays for cold caches."""

    def __init__(self, step: Step, checkpoint: Checkpoint, load_seconds: float, compile_seconds: float):
        self._step = step
        self._checkpoint = checkpoint
        self._load_seconds = load_seconds
        self._compile_seconds = compile_seconds
        self._steps = 0
        self._seconds = 0.0
        self._first_seconds = 0.0
        self._last: float | None = None
        self._logits: NDArray[np.float32] | None = None

    def begin(self, prompt: int) -> None:
        """A text begins: the time since the last step, in which a person typed, does not count."""
        self._last = None

    def step(self, token: int, position: int) -> NDArray[np.float32]:
        """One step, counted: the time between its end and that of the step before includes sampling and printing."""
        before = time.perf_counter() if self._last is None else self._last
        logits = self._logits = self._step(token, position)
        self._last = time.perf_counter()
        if self._steps:
            self._seconds += self._last - before
        else:
            self._first_seconds = self._last - before
        self._steps += 1
        return logits

    def statistics(self) -> dict[str, Any]:
        """Numbers in SI units; those that cannot be known yet are None."""
        per_step = self._seconds / (self._steps - 1) if self._steps > 1 else None
        return {
            "tokens": self._steps,
            "tokens_per_second": None if per_step is None else 1 / per_step,
            "seconds_per_token": per_step,
            "first_step_seconds": self._first_seconds,
            "weight_bytes_per_second": None if per_step is None else self._checkpoint.step_bytes / per_step,
            "load_seconds": self._load_seconds,
            "compile_seconds": self._compile_seconds,
            "logits_crc32": None if self._logits is None else f"{zlib.crc32(self._logits.tobytes()):08x}",
        }

    def report(self) -> str:
        """The statistics in one line; the last field is a checksum of the last logits."""
        numbers = self.statistics()
        parts = [f"{self._steps} tokens"]
        if numbers["seconds_per_token"] is not None:
            parts[0] += f": {numbers['tokens_per_second']:.0f} tok/s"
            parts.append(f"{numbers['seconds_per_token'] * 1e3:.3f} ms/tok")
            parts.append(f"{numbers['weight_bytes_per_second'] / 1e9:.1f} GB/s of weights")
        parts.append(f"load {self._load_seconds:.2f} s")
        parts.append(f"compile {self._compile_seconds:.2f} s")
        if numbers["logits_crc32"] is not None:
            parts.append(f"#{numbers['logits_crc32']}")
        return "# " + "; ".join(parts)


@contextmanager
def status(what: str, quiet: bool) -> Generator[Callable[[int, int], None]]:
    """Shows on a terminal what is going on; gives a function that is told how much of how much is done."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    shown = sys.stderr.isatty() and not quiet
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not shown) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _entry() -> NoReturn:
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    _entry()

#!/usr/bin/env python3
"""Runs llama models: text on stdout, everything else on stderr.

llama2.py MODEL [-t TEMPERATURE] [-p TOP_P] [-s SEED] [-n STEPS] [-i PROMPT] [-z TOKENIZER] [--target cpu|cuda]
llama2.py MODEL TEMPERATURE STEPS PROMPT
llama2.py MODEL -m chat [-y SYSTEM_PROMPT]
llama2.py MODEL --perplexity FILE
"""

import os
import signal

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT, as shells expect."""


def interrupt(*_: object) -> None:
    """Ends the program, in one line."""
    os.write(2, b"llama2.py: interrupted\n")
    os._exit(INTERRUPTED)


# The imports below take a while: until there is somebody to catch it, Ctrl-C ends the program without a traceback
if __name__ == "__main__":
    signal.signal(signal.SIGINT, interrupt)

import _thread
import argparse
import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import NoReturn, get_args

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

import hamkaas as hk
from hamkaas import knobs
from hamkaas.api import Cudnn, Schedule
from hamkaas.models.llama2 import (
    BURST,
    TEMPLATES,
    Bursts,
    Chat,
    Checkpoint,
    Config,
    Feed,
    Meter,
    ModelFeed,
    Quantized,
    Sampler,
    Source,
    Steps,
    StopStrings,
    TextStream,
    Transformer,
    Xorshift,
    build_burst_graphs,
    build_graphs,
    chunk_size,
    generate,
    load_checkpoint,
    load_tokenizer,
    model_rows,
    perplexity,
    report,
    with_template,
)

ROWS = 64
"""Positions whose logits a perplexity computes at once."""

CACHES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
"""Precisions of activations and of the cache, and what arrays of these are called."""

CUDNN: dict[str, Cudnn] = {"auto": "auto", "on": True, "off": False}
"""What becomes of --cudnn."""

MOST_POSITIONS = 8192
"""The context that is used of models that have more, unless -c asks for more."""


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
        print(f"llama2.py: error: {error.filename or 'standard output'}: {error.strerror}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left in its buffer has no place
        return 1


# the command line


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the eight lines of usage; `-h` has these."""

    def error(self, message: str) -> NoReturn:
        """Ends the program."""
        self.exit(2, f"{self.prog}: error: {message}\n")


def make_parser() -> argparse.ArgumentParser:
    """The command line; the short options are those of llama2.c."""
    parser = OneLineParser(prog="llama2.py", description="Runs llama models.")
    add = parser.add_argument
    add("model", type=Path, help="a checkpoint of llama2.c, a GGUF file or a folder of Hugging Face")
    add("positional", nargs="*", default=[], metavar="TEMPERATURE STEPS PROMPT", help="as in llama2.py")
    add(
        "-n",
        "--steps",
        type=int,
        help="positions of a text, or of a chat; 0: to the end of the context (default: 256; a chat: 0)",
    )
    add("-i", "--prompt", help="text to begin with; in a chat the first message")
    add("--prompts", type=Path, metavar="FILE", help="texts to begin with, one a line")
    add("-z", "--tokenizer", type=Path, help="default: the model's own, tokenizer.bin beside it, or here")
    add("-m", "--mode", choices=["generate", "chat"], default="generate", help="default: generate")
    add("-y", "--system", metavar="TEXT", help="system prompt of a chat (default: the template's)")
    add("--template", choices=list(TEMPLATES), help="how a chat is written (default: as the model's file says)")
    add("--perplexity", type=Path, metavar="FILE", help="how well the model predicts a text")
    add("-c", "--context", type=int, metavar="N", help="use N positions of the context at most")
    add("--target", choices=["cpu", "cuda"], help="default: cuda if there is a driver, else cpu")
    add(
        "--burst",
        type=int,
        metavar="N",
        help=f"steps that the device does at once, choosing tokens itself; 0: the host does (default: {BURST} on cuda)",
    )
    precisions = ["f32", "f16", "bf16", "i8"]
    add(
        "--weights", choices=precisions, default="f32", help="precision of float32 matrices (default: f32, as they are)"
    )
    add("--cache", choices=list(CACHES), default="f32", help="precision of the cache of keys and values (default: f32)")
    add(
        "--activations",
        choices=list(CACHES),
        default="f32",
        help="what prompts are rounded to where they meet weights or a cache of that precision (default: f32)",
    )
    add("--cudnn", choices=list(CUDNN), default="auto", help="whether cuDNN computes (default: where it is faster)")
    add(
        "--schedule",
        choices=get_args(Schedule),
        default="auto",
        help="on cuda: a graph of kernels, or one kernel that stays for all of a step (default: what is faster)",
    )
    add_sampling(parser)
    add_output(parser)
    return parser


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """How the next token is chosen, and what ends a text."""
    add = parser.add_argument_group("sampling").add_argument
    add("-t", "--temperature", type=float, help="0 is greedy (default: 1.0)")
    add("-p", "--top-p", type=float, default=0.9, help="0 or 1 switch it off (default: 0.9)")
    add("--top-k", type=int, default=0, metavar="K", help="0 switches it off (default)")
    add("--min-p", type=float, default=0.0, metavar="P", help="least share of the likeliest token's (default: 0)")
    add("--repetition-penalty", type=float, default=1.0, metavar="R", help="1 switches it off (default)")
    add("-s", "--seed", type=int, default=0, help="0 takes the time (default)")
    add("--stop", action="append", default=[], metavar="TEXT", help="ends the text; may be given several times")


def add_output(parser: argparse.ArgumentParser) -> None:
    """What is told beside the text."""
    add = parser.add_argument_group("output").add_argument
    add("--compat", action="store_true", help="drop bytes that are not ASCII, as llama2.c does")
    add("--timing", action="store_true", help="the time of each token")
    add("--json", type=Path, metavar="FILE", help="write the statistics as JSON")
    add("--dump", type=Path, metavar="DIR", help="write every stage's IR, the code and the memory plan")
    add("-q", "--quiet", action="store_true", help="nothing on stderr but errors")


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


RANGES = (
    ("temperature", "-t/--temperature", 0, None),
    ("top_p", "-p/--top-p", 0, 1),
    ("top_k", "--top-k", 0, None),
    ("min_p", "--min-p", 0, 1),
    ("steps", "-n/--steps", 0, None),
    ("context", "-c/--context", 1, None),
    ("burst", "--burst", 0, None),
)
"""Option, its name, its least and its largest value."""


def check_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuses numbers out of range and files that are not there, before anything is loaded."""
    for key, name, low, high in RANGES:
        value = getattr(options, key)
        if value is not None and not (low <= value <= (inf if high is None else high) and value < inf):
            what = f"at least {low}" if high is None else f"between {low} and {high}"
            parser.error(f"argument {name}: expected {what}, got {value}")
    if not 0 < options.repetition_penalty < inf:
        parser.error(f"argument --repetition-penalty: expected more than 0, got {options.repetition_penalty}")
    if options.burst and needs_host(options):
        parser.error(
            "argument --burst: expected a temperature of 0 or a nucleus (-p between 0 and 1), and none of --top-k, "
            "--min-p, --repetition-penalty and --timing"
        )
    if "" in options.stop:
        parser.error("argument --stop: expected a text, got an empty one")
    for path in (options.model, options.tokenizer, options.prompts, options.perplexity):
        if path is not None and not path.exists():
            parser.error(f"{path}: no such file")
        if path is not None and path.is_dir() and path is not options.model:
            parser.error(f"{path}: expected a file, got a folder")
    if options.json is not None and (options.json.is_dir() or not options.json.absolute().parent.is_dir()):
        parser.error(f"argument --json: expected a file in a folder that exists, got {options.json}")
    if options.dump is not None and options.dump.exists() and not options.dump.is_dir():
        parser.error(f"argument --dump: expected a folder, got the file {options.dump}")
    modes = {"-m chat": options.mode == "chat", "--prompts": options.prompts, "--perplexity": options.perplexity}
    if len(given := [name for name, value in modes.items() if value]) > 1:
        parser.error(f"expected one of {' and '.join(given)}")


def needs_host(options: argparse.Namespace) -> bool:
    """Whether the host has to choose each token, or is asked to time it."""
    return options.timing or not make_sampler(options, 1).fits_device


def burst_size(options: argparse.Namespace) -> int:
    """How many steps the device does at once; 0 if the host chooses each token."""
    if options.burst is not None:
        return options.burst
    return BURST if options.target == "cuda" and not needs_host(options) else 0


# from the options to a compiled model


def run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Loads, compiles, does what the mode says and reports."""
    meter = Meter(show_time if options.timing and not options.quiet else None)
    with meter.loading():
        checkpoint = load(options)
    texts = encode_texts(parser, options, checkpoint)
    seed = options.seed if options.seed > 0 else int(time.time())
    options.target = hk.choose_target(options.target)
    check_precision(parser, options, checkpoint)
    burst = burst_size(options)
    with meter.compiling() as progress, Bar("compiling", "", options.quiet) as bar:

        def show(what: str) -> None:
            progress(what)
            bar.show(what)

        bar.show("compiling")
        model = compile_model(options, checkpoint, texts, burst, show)
    with model, Bar("prompt", "tokens", options.quiet) as bar:
        if options.perplexity is not None:
            code = measure(options, checkpoint, meter.count(model_rows(model)), texts[0], bar)
        else:
            sampler = make_sampler(options, seed)
            meter.attach(make_source(model, checkpoint.config, sampler, burst, bar), model, checkpoint)
            write_or_chat = chat if options.mode == "chat" else write_all
            code = write_or_chat(options, checkpoint, meter, texts)
        if options.quiet and options.json is None:
            return code
        numbers = meter.statistics()
    if not options.quiet:
        print(report(numbers), file=sys.stderr)
    if options.json is not None:
        write_file(options.json, json.dumps(numbers | {"seed": seed}, indent=2) + "\n")
    return code


def write_file(path: Path, text: str) -> None:
    """Writes a file; an `OSError` says which one it was, also if it comes of a full disk."""
    try:
        path.write_text(text)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def load(options: argparse.Namespace) -> Checkpoint:
    """The model, with a tokenizer, and with no more of a context than is wanted."""
    with Bar("loading", "tensors", options.quiet) as bar:
        bar.show("loading")
        checkpoint = load_checkpoint(options.model, bar.update)
        checkpoint = replace(checkpoint, config=cut_context(options, checkpoint.config))
        if options.tokenizer is not None or checkpoint.tokenizer is None:
            path = options.tokenizer or find_tokenizer(options.model)
            checkpoint = replace(checkpoint, tokenizer=load_tokenizer(path, checkpoint.config.vocab_size))
        if options.template is not None:
            checkpoint = with_template(checkpoint, options.template)
        if options.mode == "chat" and checkpoint.chat_template is None:
            raise hk.CheckpointError(
                f"{options.model}: expected a model with a chat template for -m chat, got none (--template names some)"
            )
        return checkpoint


def find_tokenizer(model: Path) -> Path:
    """A tokenizer of llama2.c that lies beside the model, or here."""
    beside = (model if model.is_dir() else model.parent) / "tokenizer.bin"
    for path in (beside, Path("tokenizer.bin")):
        if path.exists():
            return path
    raise hk.CheckpointError(f"{beside}: expected a tokenizer beside the model, or here, got none (-z FILE names one)")


def cut_context(options: argparse.Namespace, config: Config) -> Config:
    """No more positions than are wanted; each takes memory for its keys and values."""
    wanted = options.context or MOST_POSITIONS
    if options.mode == "chat" and options.steps:
        wanted = min(wanted, options.steps)
    elif options.context is None and config.max_positions > MOST_POSITIONS and not options.quiet:
        print(f"# using {MOST_POSITIONS} positions of the context of {config.max_positions}", file=sys.stderr)
    return replace(config, max_positions=min(wanted, config.max_positions))


def check_precision(parser: argparse.ArgumentParser, options: argparse.Namespace, checkpoint: Checkpoint) -> None:
    """Refuses what would change nothing: activations that meet no numbers of their type, and what a CPU has not."""
    stored = {str(weight.dtype) for weight in checkpoint.weights.values() if not isinstance(weight, Quantized)}
    wanted = options.activations
    if wanted not in ("f32", options.weights, options.cache) and CACHES[wanted] not in stored:
        parser.error(
            f"argument --activations: expected weights or a cache of {wanted} to meet "
            f"(--weights {wanted}, --cache {wanted}), got none"
        )
    if options.cudnn == "on" and options.target != "cuda":
        parser.error(f"argument --cudnn: expected target cuda for on, got {options.target}")
    if options.schedule == "persistent" and options.target != "cuda":
        parser.error(f"argument --schedule: expected target cuda for {options.schedule}, got {options.target}")


def encode_texts(
    parser: argparse.ArgumentParser, options: argparse.Namespace, checkpoint: Checkpoint
) -> list[list[int]]:
    """The tokens of all texts that the command line names; none for a chat."""
    if options.mode == "chat":
        return []
    assert checkpoint.tokenizer is not None
    context = checkpoint.config.max_positions
    if options.perplexity is not None:
        tokens = checkpoint.tokenizer.encode(read_text(parser, options.perplexity))
        if len(tokens) < 2:
            parser.error(f"{options.perplexity}: expected a text of at least two tokens, got {len(tokens)}")
        return [tokens]
    lines = [options.prompt]
    if options.prompts is not None:
        lines = [line for line in read_text(parser, options.prompts).splitlines() if line.strip()]
        if not lines:
            parser.error(f"{options.prompts}: expected a prompt on each line, got no text")
    texts = [checkpoint.tokenizer.encode(line) for line in lines]
    for tokens in texts:
        if not tokens:
            parser.error(
                "argument -i/--prompt: expected a text, since texts of this model begin with no token of their own"
            )
        if len(tokens) > context:
            parser.error(f"the prompt has {len(tokens)} tokens, more than the context of {context}")
    return texts


def read_text(parser: argparse.ArgumentParser, path: Path) -> str:
    """A text file, which must be UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        parser.error(f"{path}: expected UTF-8, got byte {error.object[error.start]:#x} at {error.start}")


def compile_model(
    options: argparse.Namespace,
    checkpoint: Checkpoint,
    texts: Sequence[Sequence[int]],
    burst: int,
    progress: Callable[[str], None],
) -> hk.Model:
    """The graphs that the mode needs, compiled; and written down where that is wanted."""
    config, weights = checkpoint.config, checkpoint.weights
    cache = CACHES[options.cache]
    if options.perplexity is not None:
        rows = min(ROWS, config.max_positions)
        graphs = {"rows": Transformer(config, weights, cache).chunk(rows, all_rows=True)}
    else:
        longest = max(map(len, texts), default=config.max_positions)
        if burst:
            size = chunk_size(config, longest - 1)  # the last token of a prompt is fed by the first burst
            graphs = build_burst_graphs(config, weights, size, cache, sampled=options.temperature > 0)
        else:
            graphs = build_graphs(config, weights, chunk_size(config, longest), cache)
    if options.dump is not None:
        os.environ[knobs.DUMP.name] = str(options.dump)
    model = hk.compile(
        graphs,
        target=options.target,
        weights=options.weights,
        activations=options.activations,
        cudnn=CUDNN[options.cudnn],
        schedule=options.schedule,
        progress=progress,
    )
    if options.dump is not None:
        name = "code.cu" if model.target == "cuda" else "code.ll"
        write_file(options.dump / name, model.source)
        write_file(options.dump / "plan.txt", model.memory_plan)
    return model


def make_sampler(options: argparse.Namespace, seed: int) -> Sampler:
    """How the options say that tokens are chosen."""
    rng = Xorshift(seed)
    return Sampler(options.temperature, options.top_p, rng, options.top_k, options.min_p, options.repetition_penalty)


def make_source(model: hk.Model, config: Config, sampler: Sampler, burst: int, bar: "Bar") -> Source:
    """Where the tokens come from: bursts of steps, or single steps."""
    if burst:
        return Bursts(model, config, sampler, burst, bar.update)
    return Steps(ModelFeed(model, config, bar.update), sampler)


# the modes


def write_all(options: argparse.Namespace, checkpoint: Checkpoint, meter: Meter, texts: list[list[int]]) -> int:
    """Streams the texts to stdout, one after the other; Ctrl-C ends them early."""
    context = checkpoint.config.max_positions
    end = min(options.steps or context, context)
    for prompt in texts:
        used = 0
        try:
            used = write(options, checkpoint, meter, prompt, end)
        except KeyboardInterrupt:
            return INTERRUPTED
        finally:
            show("\n")
        if used == context and not options.quiet:
            print(f"# the context of {context} positions is full", file=sys.stderr)
    return 0


def write(options: argparse.Namespace, checkpoint: Checkpoint, meter: Meter, prompt: list[int], end: int) -> int:
    """Streams one text that begins with a prompt; gives the number of positions that it takes."""
    assert checkpoint.tokenizer is not None
    stream, stop = TextStream(checkpoint.tokenizer, options.compat), StopStrings(options.stop)
    used = 0
    try:
        for token, previous in generate(meter, prompt, end, checkpoint.stop):
            if used == 0 and checkpoint.tokenizer.piece(prompt[0], -1) and prompt[0] not in checkpoint.stop:
                show(stream.push(prompt[0], -1))
            used += 1
            text = stream.push(token, previous)
            show(text if used < len(prompt) else stop.push(text))
            if stop.found:
                return used
    finally:
        show(stop.push(stream.finish()) + stop.finish())
    return used


def measure(options: argparse.Namespace, checkpoint: Checkpoint, rows: Feed, tokens: list[int], bar: "Bar") -> int:
    """Prints the perplexity of a text."""
    context = checkpoint.config.max_positions
    try:
        found = perplexity(rows, tokens, context, min(ROWS, context), bar.update)
    except KeyboardInterrupt:
        return INTERRUPTED
    window = f"windows of {context} that move on by {max(context // 2, 1)}"
    show(f"perplexity {found.value:.4f} of {found.tokens} tokens; {window}\n")
    return 0


CHAT_HELP = "/help, /reset (forget the conversation), /stats, /save FILE (the conversation as JSON), /quit or Ctrl-D"


def chat(options: argparse.Namespace, checkpoint: Checkpoint, meter: Meter, _: list[list[int]]) -> int:
    """Messages from stdin, answers to stdout. Ctrl-C ends an answer; at a prompt, or without a terminal, the chat."""
    conversation = Chat(checkpoint, meter, options.system, options.stop)
    interactive = sys.stdin.isatty()
    message = options.prompt
    try:
        while True:
            message = message or ask(interactive)
            if message is None or message == "/quit":
                return 0
            if message.startswith("/"):
                command(conversation, meter, message)
            elif message:
                code = answer(conversation, message)
                if code and not interactive:
                    return code
            message = ""
    except KeyboardInterrupt:
        return INTERRUPTED


def answer(conversation: Chat, message: str) -> int:
    """Streams the answer to a message; gives an exit code, in case that nobody is there to go on."""
    try:
        for text in conversation.reply(message):
            show(text)
        if conversation.is_full:
            print("# the context is full; /reset begins a new conversation", file=sys.stderr)
    except KeyboardInterrupt:
        return INTERRUPTED
    except hk.InputError as error:
        print(f"llama2.py: {error}; /reset begins a new one", file=sys.stderr)
        return 1
    finally:
        show("\n")
    return 0


def ask(interactive: bool) -> str | None:
    """The next message, or None at the end of stdin."""
    if interactive:
        print("> ", end="", file=sys.stderr, flush=True)
    line = sys.stdin.readline()
    return line.strip() if line else None


def command(conversation: Chat, meter: Meter, line: str) -> None:
    """Does what a line that starts with / says; says on stderr what it did."""
    name, _, argument = line.partition(" ")
    if name == "/reset":
        conversation.reset()
        print("the conversation is forgotten", file=sys.stderr)
    elif name == "/stats":
        print(report(meter.statistics()), file=sys.stderr)
    elif name == "/save" and argument:
        try:
            Path(argument).write_text(json.dumps(conversation.messages, indent=2, ensure_ascii=False) + "\n")
            print(f"saved to {argument}", file=sys.stderr)
        except OSError as error:
            print(f"{argument}: {error.strerror}", file=sys.stderr)
    else:
        print(CHAT_HELP, file=sys.stderr)


# what people see


def show(text: str) -> None:
    """Text to stdout, at once."""
    if text:
        sys.stdout.write(text)
        sys.stdout.flush()


def show_time(position: int, seconds: float) -> None:
    """What a token took, to stderr."""
    print(f"position {position}: {seconds * 1e3:.3f} ms", file=sys.stderr)


LINE_SECONDS = 2.0
"""Without a terminal, what takes longer says so in a line each time that so much has passed."""


class Bar:
    """How much of something is done, how fast, and how long the rest takes: a bar on a terminal, else lines."""

    def __init__(self, what: str, unit: str, quiet: bool):
        self._what, self._unit = what, unit
        self._draws = sys.stderr.isatty() and not quiet
        self._writes = not sys.stderr.isatty() and not quiet
        self._progress: Progress | None = None
        self._timer: threading.Timer | None = None
        self._begun = self._said = time.monotonic()

    def show(self, what: str) -> None:
        """Something begins, of which nobody knows how long it takes."""
        if self._draws:
            self._draw(what, 0, None)
        if self._writes:
            self._close()
            self._timer = threading.Timer(LINE_SECONDS, self._write, [what])
            self._timer.daemon = True
            self._timer.start()

    def update(self, done: int, total: int) -> None:
        """`done` of `total` units are done; 0 begins anew."""
        now = time.monotonic()
        if self._timer is not None:
            self._timer.cancel()
        if done == 0:
            self._begun = self._said = now
        rate = done / max(now - self._begun, 1e-6)
        left = f", {(total - done) / rate:.0f} s left" if done else ""
        text = f"{self._what}: {done}/{total} {self._unit}, {rate:.0f} {self._unit}/s{left}"
        if done >= total:
            self._close()
        elif self._draws:
            self._draw(text, done, total)
        elif self._writes and now - self._said >= LINE_SECONDS:
            self._write(text)

    def _draw(self, text: str, done: int, total: int | None) -> None:
        if self._progress is None:
            columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
            self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
            self._progress.start()
            self._progress.add_task("")
        self._progress.update(self._progress.task_ids[0], description=text, completed=done, total=total)

    def _write(self, text: str) -> None:
        self._said = time.monotonic()
        print(f"# {text}", file=sys.stderr, flush=True)

    def _close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()


def keep_interrupt(unraisable: "sys.UnraisableHookArgs") -> None:
    """Ctrl-C within a destructor or a callback of the interpreter is lost there: it comes again a moment later."""
    if unraisable.exc_type is KeyboardInterrupt:
        threading.Timer(0.01, _thread.interrupt_main).start()
    else:
        sys.__unraisablehook__(unraisable)


def _entry() -> None:
    try:
        sys.unraisablehook = keep_interrupt
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.exit(main())
    except KeyboardInterrupt:
        interrupt()


if __name__ == "__main__":
    _entry()

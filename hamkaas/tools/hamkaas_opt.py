"""`hamkaas-opt`: reads IR, runs passes, prints IR or code.

    hamkaas-opt FILE -p 'lower-to{stage=kernels target=cuda}' --print-ir-after-change
    hamkaas-opt FILE -p 'hamkaas-outline-groups,hamkaas-dedup-groups'
    hamkaas-opt FILE -t cuda

Diagnostics go to stderr as `FILE:LINE:COL: error: ...` with the line and a caret; the exit code is then 1.
"""

import argparse
import difflib
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation
from xdsl.parser import Parser
from xdsl.passes import ModulePass
from xdsl.printer import Printer
from xdsl.transforms import get_all_passes
from xdsl.utils.arg_spec import ArgSpec, parse_pipeline
from xdsl.utils.exceptions import ArgSpecParseError, DiagnosticException, ParseError, VerifyException

from hamkaas.codegen.cuda_module import print_cuda
from hamkaas.codegen.llvm import print_llvm
from hamkaas.codegen.plan import print_plan
from hamkaas.dialects import kernel, program
from hamkaas.errors import CompileError, HamkaasError, TargetError
from hamkaas.passes.verify_dominance import DominanceException, verify_dominance
from hamkaas.pipeline import DEFAULT_ARCH, CudaOptions, LowerToPass, run_pass, run_pipeline, stages, unknown
from hamkaas.remarks import collect
from hamkaas.schedules.lowering import Target
from hamkaas.universe import OWN_PASSES, context

SPLIT = "// -----"
"""A line that separates modules in one file."""

_COMMENT = re.compile(r"//[^\n]*")
_UNDEFINED = re.compile(r"values used but not defined: \[(%[^,\]]+)")


@dataclass
class Diagnostic(Exception):
    """An error in the IR that was read, with its place (1-based) if it has one."""

    message: str
    line: int | None = None
    column: int | None = None


class PositionedParser(Parser):
    """Remembers where in the text each operation stands; xDSL keeps no positions of plain text."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.position_of: dict[Operation, int] = {}

    def module(self) -> ModuleOp:
        """All of the text."""
        try:
            return self.parse_module()
        except VerifyException as error:  # attributes and inferred types are verified while they are parsed
            raise _at(self.lexer.input.content, self.pos, str(error)) from error

    def parse_operation(self) -> Operation:
        """One operation; its position is that of its name, behind the results."""
        start = self._current_token.span.start
        op = super().parse_operation()
        self.position_of[op] = start
        return op


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the tool; gives the exit code."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    if options.list_passes:
        print("\n".join(_pass_lines()))
        return 0
    if options.list_stages:
        print("\n".join(f"{stage.name:<14}{stage.summary}" for stage in stages("cpu")))
        return 0
    try:
        text, name = _read(options.file)
        passes = _pipeline(options.passes)
        chunks = list(_split(text)) if options.split_input_file else [(0, text)]
        return _run(chunks, name, passes, options)
    except CompileError as error:
        return _fail(f"hamkaas-opt: error: {error}", error, options)


def _run(
    chunks: Sequence[tuple[int, str]], name: str, passes: Sequence[ModulePass], options: argparse.Namespace
) -> int:
    """Runs the passes on each chunk. A file for the output is written only if none of them fails."""
    code = 0
    results: list[str] = []
    for number, (first, chunk) in enumerate(chunks):
        try:
            result = _run_chunk(chunk, first, name, passes, options)
        except HamkaasError as error:
            code = max(code, _fail(str(error), error, options))
            continue
        results.append(f"{SPLIT}\n{result}" if number else result)
        if options.output is None:
            sys.stdout.write(results[-1])
    if options.output is not None and len(results) == len(chunks):
        try:
            options.output.write_text("".join(results), encoding="utf-8")
        except OSError as error:
            raise CompileError(f"cannot write '{options.output}': {error.strerror}") from error
    return code


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="hamkaas-opt", description="Runs passes on HamKaas IR.")
    parser.add_argument("file", nargs="?", default="-", help="a file of IR; '-' is stdin (default)")
    parser.add_argument(
        "-p", "--passes", default="", metavar="PIPELINE", help="passes to run, with commas between them"
    )
    parser.add_argument("-t", "--target", choices=sorted(TARGETS), default="mlir", help="what to print (default: mlir)")
    parser.add_argument("-o", "--output", type=Path, help="a file for the result (default: stdout)")
    parser.add_argument("--arch", default=DEFAULT_ARCH, help=f"for -t cuda and ptx (default: {DEFAULT_ARCH})")
    parser.add_argument("--print-ir-after-all", action="store_true", help="print the IR after each pass, to stderr")
    parser.add_argument("--print-ir-after-change", action="store_true", help="the same, for passes that changed it")
    parser.add_argument("--print-op-generic", action="store_true", help="print the IR in generic form")
    parser.add_argument("--split-input-file", action="store_true", help=f"'{SPLIT}' lines separate modules")
    parser.add_argument("--verify-diagnostics", action="store_true", help="print errors to stdout and exit with 0")
    parser.add_argument("--remarks", action="store_true", help="print what passes refused, and why, to stderr")
    parser.add_argument("--list-passes", action="store_true", help="list the passes, with a line of help each")
    parser.add_argument("--list-stages", action="store_true", help="list the stages of the default pipeline")
    parser.add_argument("--debug", action="store_true", help="show Python's traceback for errors")
    return parser


# reading


def _read(file: str) -> tuple[str, str]:
    name = "<stdin>" if file == "-" else file
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
        text.encode("utf-8")  # in some locales, stdin lets any bytes pass
        return text, name
    except OSError as error:
        raise CompileError(f"cannot read '{name}': {error.strerror}") from error
    except UnicodeError as error:
        raise CompileError(f"cannot read '{name}': expected text, got bytes that are not UTF-8") from error


def _split(text: str) -> Iterator[tuple[int, str]]:
    """(number of lines before it, text) of each module in a file."""
    lines = text.splitlines(keepends=True)
    first = 0
    for number, line in enumerate([*lines, SPLIT]):
        if line.rstrip() == SPLIT:
            yield first, "".join(lines[first:number])
            first = number + 1


def _parse(text: str) -> ModuleOp:
    if not _COMMENT.sub("", text).strip():
        raise Diagnostic("expected operations, got an empty input")
    try:
        parser = PositionedParser(context(), text)
        module = parser.module()
    except ParseError as error:
        raise _at(text, _where(text, error), error.msg.strip()) from error
    _verify(module, lambda op, message: _at(text, parser.position_of.get(op), message))
    return module


def _where(text: str, error: ParseError) -> int:
    """Where to point: xDSL reports a value that is never defined at the end of the file, not where it is used."""
    if (found := _UNDEFINED.search(error.msg)) is not None:
        code = _COMMENT.sub(lambda comment: " " * len(comment[0]), text)
        if (use := re.search(re.escape(found[1]) + r"\b(?!\s*=)", code)) is not None:
            return use.start()
    return error.span.start


def _verify(module: ModuleOp, place: Callable[[Operation, str], Exception]) -> None:
    """Verifies operation by operation, so that the one that is wrong is known; `place` makes the error to raise."""
    for op in module.walk():
        try:
            op.verify(verify_nested_ops=False)
        except DiagnosticException as error:
            cause = error.__cause__ if isinstance(error.__cause__, VerifyException) else error
            raise place(op, f"'{op.name}' does not verify: {cause}") from error
    try:
        verify_dominance(module)
    except DominanceException as error:
        raise place(error.op, str(error)) from error


def _at(text: str, position: int | None, message: str) -> Diagnostic:
    if position is None:
        return Diagnostic(message)
    start = text.rfind("\n", 0, position) + 1
    return Diagnostic(message, text.count("\n", 0, position) + 1, position - start + 1)


# passes


def _all_passes() -> dict[str, Callable[[], type[ModulePass]]]:
    return {**get_all_passes(), **{one.name: lambda one=one: one for one in OWN_PASSES}}


def _pipeline(text: str) -> list[ModulePass]:
    """The passes of a pipeline's text."""
    known = _all_passes()
    passes: list[ModulePass] = []
    try:
        specs = list(parse_pipeline(text))
    except ArgSpecParseError as error:
        raise CompileError(f"cannot read the pipeline: {error}") from error
    for spec in specs:
        if spec.name not in known:
            near = difflib.get_close_matches(spec.name, known, n=1)
            hint = f", did you mean '{near[0]}'?" if near else ""
            raise CompileError(f"unknown pass '{spec.name}'{hint} (see --list-passes)")
        passes.append(_make_pass(known[spec.name](), spec))
    return passes


def _make_pass(kind: type[ModulePass], spec: ArgSpec) -> ModulePass:
    options = tuple(field.replace("_", "-") for field in getattr(kind, "__dataclass_fields__", {}) if field != "name")
    for option in spec.parameters:
        if (dashed := option.replace("_", "-")) not in options:
            raise CompileError(f"pass '{spec.name}': {unknown('option', dashed, options)}")
        _check_option(kind, spec, option)
    try:
        return kind.from_pass_spec(spec)
    except Exception as error:
        raise CompileError(f"pass '{spec.name}': {error}") from error


def _check_option(kind: type[ModulePass], spec: ArgSpec, option: str) -> None:
    """Refuses a value of an option that has one of a few types; whatever else is wrong, xDSL says."""
    hint = get_type_hints(kind)[option.replace("-", "_")]
    values = spec.parameters[option]
    if get_origin(hint) is Literal:
        choices = get_args(hint)
        fits = len(values) == 1 and values[0] in choices
        expected = " or ".join(map(repr, choices))
    elif hint in (int, str):
        fits = len(values) == 1 and type(values[0]) is hint
        expected = "a number" if hint is int else "a name"
    else:
        return
    if not fits:
        got = ", ".join(map(repr, values)) or "nothing"
        raise CompileError(f"pass '{spec.name}': option '{option}': expected {expected}, got {got}")


def _pass_lines() -> Iterator[str]:
    own = {one.name for one in OWN_PASSES}
    yield "HamKaas:"
    yield from (_pass_line(one) for one in OWN_PASSES)
    yield "xDSL:"
    yield from (_pass_line(load()) for name, load in sorted(get_all_passes().items()) if name not in own)


def _pass_line(one: type[ModulePass]) -> str:
    lines = (one.__doc__ or "").strip().splitlines()
    generated = not lines or lines[0].startswith(f"{one.__name__}(")
    return f"  {one.name:<34}{'' if generated else lines[0]}".rstrip()


# writing


def _launchable(module: ModuleOp, target: Target, arch: str = DEFAULT_ARCH) -> ModuleOp:
    """The module at the last stage."""
    if not any(isinstance(op, program.FuncOp | kernel.FuncOp) for op in module.body.block.ops):
        run_pipeline(context(), module, target, arch=arch)
    return module


def _emit_ptx(module: ModuleOp, options: argparse.Namespace) -> str:
    # The only target that needs a library of CUDA; the others work without it
    try:
        from hamkaas.runtime.nvrtc import compile_ptx
    except ImportError as error:
        raise TargetError(f"-t ptx needs NVRTC: {error}") from error
    return compile_ptx(print_cuda(_launchable(module, "cuda", options.arch)), options.arch)


def _emit_mlir(module: ModuleOp, options: argparse.Namespace) -> str:
    stream = StringIO()
    Printer(stream, print_generic_format=options.print_op_generic).print_op(module)
    return stream.getvalue() + "\n"


def _emit_plan(module: ModuleOp, options: argparse.Namespace) -> str:
    if not any(isinstance(op, program.FuncOp) for op in module.body.block.ops):
        run_pipeline(context(), module, "cpu")
    return print_plan(module)


TARGETS: dict[str, Callable[[ModuleOp, argparse.Namespace], str]] = {
    "mlir": _emit_mlir,
    "cuda": lambda module, options: print_cuda(_launchable(module, "cuda", options.arch)),
    "llvm": lambda module, options: print_llvm(_launchable(module, "cpu")),
    "plan": _emit_plan,
    "ptx": _emit_ptx,
}
"""What can be printed. A module that is not lowered yet is lowered by the default pipeline first."""


def _run_chunk(text: str, first_line: int, name: str, passes: Sequence[ModulePass], options: argparse.Namespace) -> str:
    """What the passes make of a module. Raises `HamkaasError` with the place of what is wrong and a caret below it."""
    try:
        module = _parse(text)
        with collect() as remarks:
            for one in passes:
                _apply(module, one, options)
        if options.remarks:
            sys.stderr.writelines(f"{name}: remark: {one}\n" for one in remarks)
        return TARGETS[options.target](module, options)
    except Diagnostic as error:
        if error.line is None or error.column is None:
            raise CompileError(f"{name}: error: {error.message}") from error
        line = [*text.splitlines(), ""][error.line - 1]
        caret = " " * (error.column - 1) + "^"
        place = f"{name}:{first_line + error.line}:{error.column}"
        raise CompileError(f"{place}: error: {error.message}\n{line}\n{caret}") from error
    except HamkaasError as error:
        raise CompileError(f"{name}: error: {error}") from error


def _apply(module: ModuleOp, one: ModulePass, options: argparse.Namespace) -> None:
    show = _Show(module, options)
    if isinstance(one, LowerToPass):  # its passes are shown one by one
        run_pipeline(context(), module, one.target, one.stage, show, CudaOptions(schedule=one.schedule), one.arch)
        _verify(module, lambda _, message: Diagnostic(f"after pass '{one.name}': {message}"))
        return
    run_pass(context(), module, one, verify=lambda result: _verify(result, lambda _, message: VerifyException(message)))
    show(one, module)


class _Show:
    """Prints IR after passes, as the options say."""

    def __init__(self, module: ModuleOp, options: argparse.Namespace):
        self._always: bool = options.print_ir_after_all
        self._before = module.clone() if options.print_ir_after_change and not self._always else None

    def __call__(self, one: ModulePass, module: ModuleOp) -> None:
        if not self._always:
            if self._before is None or module.is_structurally_equivalent(self._before):
                return
            self._before = module.clone()
        print(f"// IR after {one.pipeline_pass_spec()}\n{module!s}", file=sys.stderr)


def _fail(message: str, error: BaseException, options: argparse.Namespace) -> int:
    if options.debug:
        raise error
    print(message, file=sys.stdout if options.verify_diagnostics else sys.stderr)
    return 0 if options.verify_diagnostics else 1


def entry() -> None:
    """The command `hamkaas-opt`."""
    try:
        sys.exit(main())
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    entry()

"""The tool `hamkaas-opt`: failures and what they leave behind, inputs of all kinds, dumps of all stages."""

import io
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, StringAttr
from xdsl.passes import ModulePass
from xdsl.utils.exceptions import PassFailedException

from hamkaas.api import Target
from hamkaas.compiler import compile_artifact
from hamkaas.dialects import hamkaas
from hamkaas.frontend import build_module
from hamkaas.models.llama2 import Config, build_step
from hamkaas.pipeline import STAGE_NAMES
from hamkaas.tools import hamkaas_opt
from hamkaas.tools.hamkaas_opt import main

ROOT = Path(__file__).parents[2]

RELU = """\
func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
  %y = hamkaas.relu %x : (tensor<4xf32>) -> tensor<4xf32>
  func.return %y : tensor<4xf32>
}
"""

BROKEN_CALL = """\
func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
  %y = hamkaas.execute @nobody(%x) : (tensor<4xf32>) -> tensor<4xf32>
  func.return %y : tensor<4xf32>
}
"""
"""A call of a group that is not there: the graph is well-formed, but no program can be made of it."""


@dataclass(frozen=True)
class HamkaasBreakPass(ModulePass):
    """Mark the module, then fail; or leave IR that does not verify."""

    name = "hamkaas-break"

    quietly: int = 0
    """1 to leave wrong IR instead of failing."""

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        op.attributes["marked"] = StringAttr("")
        if not self.quietly:
            raise PassFailedException("this never works")
        (relu,) = [child for child in op.walk() if isinstance(child, hamkaas.ReluOp)]
        relu.detach()


# A pass is "ours", and leaves a replay, by where it is defined
HamkaasBreakPass.__module__ = "hamkaas.passes.hamkaas_break"


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str], str]:
    """Writes text to a file; gives its name."""

    def write(text: str) -> str:
        (tmp_path / "input.mlir").write_text(text)
        return str(tmp_path / "input.mlir")

    return write


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """Runs a line in a shell, where `hamkaas-opt` is this version of the tool."""
    tool = tmp_path / "bin" / "hamkaas-opt"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m hamkaas.tools.hamkaas_opt "$@"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent), prepend=":")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return lambda line: subprocess.run(line, shell=True, capture_output=True, text=True)


# a pass that fails


@pytest.mark.parametrize(
    ("pipeline", "why"),
    [
        ("hamkaas-break", "this never works"),
        ("hamkaas-break{quietly=1}", r"'func\.func' does not verify: "),
    ],
)
def test_a_failing_pass_leaves_the_ir_before_it(
    pipeline: str,
    why: str,
    file: Callable[[str], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(hamkaas_opt, "OWN_PASSES", (*hamkaas_opt.OWN_PASSES, HamkaasBreakPass))
    monkeypatch.setenv("HAMKAAS_DUMP", str(tmp_path / "a folder"))
    name = file(RELU)
    assert main([name, "-p", f"cse,{pipeline}"]) == 1
    output, message = capsys.readouterr()
    assert output == ""
    assert re.match(rf"{re.escape(name)}: error: pass 'hamkaas-break' failed: .*{why}", message)
    replay = tmp_path / "a folder" / "hamkaas-break.mlir"
    assert message.endswith(f"\nreplay: hamkaas-opt '{replay}' -p {shlex.quote(pipeline)}\n")
    text = replay.read_text()
    assert text.startswith(f"// RUN: hamkaas-opt %s -p '{pipeline}'\n")
    assert "hamkaas.relu" in text
    assert "marked" not in text
    # The file fails in the same way
    assert main([str(replay), "-p", pipeline]) == 1
    assert capsys.readouterr().err == message.replace(name, str(replay))


def test_the_replay_command_as_it_is_printed(
    file: Callable[[str], str], command: Callable[[str], subprocess.CompletedProcess[str]]
) -> None:
    first = command(f"hamkaas-opt {file(BROKEN_CALL)} -p lower-to")
    assert first.returncode == 1
    message, line = re.fullmatch(r"\S+: (error: .*)\nreplay: (.*)\n", first.stderr, re.DOTALL).groups()  # type: ignore[union-attr]
    assert message == "error: pass 'program-schedule' failed: KeyError: 'nobody'"
    second = command(line)
    assert second.returncode == 1
    assert re.fullmatch(rf"\S+: {re.escape(message)}\nreplay: .*\n", second.stderr)
    for replay in re.findall(r"replay: hamkaas-opt (\S+)", first.stderr + second.stderr):
        Path(replay).unlink()
        Path(replay).parent.rmdir()


def test_debug_shows_the_traceback(
    file: Callable[[str], str], command: Callable[[str], subprocess.CompletedProcess[str]]
) -> None:
    for line in (f"{file(RELU)} -p no-such-pass", f"{file('func.func')}", "no-such-file.mlir"):
        quiet, loud = command(f"hamkaas-opt {line}"), command(f"hamkaas-opt {line} --debug")
        assert quiet.returncode == loud.returncode == 1
        assert "Traceback" not in quiet.stderr
        assert "Traceback (most recent call last)" in loud.stderr


# what is asked for


@pytest.mark.parametrize(
    ("pipeline", "message"),
    [
        ("hamkaas-outline-group", "unknown pass 'hamkaas-outline-group', did you mean 'hamkaas-outline-groups'? (see"),
        ("xyz", "unknown pass 'xyz' (see --list-passes)"),
        ("lower-to{stge=graph}", "pass 'lower-to': unknown option 'stge', did you mean 'stage'?"),
        ("lower-to{target=tpu}", "pass 'lower-to': option 'target': expected 'cpu' or 'cuda', got 'tpu'"),
        ("lower-to{stage}", "pass 'lower-to': option 'stage': expected a name, got nothing"),
        ("lower-to{stage=3}", "pass 'lower-to': option 'stage': expected a name, got 3"),
        ("lower-to{stage=kernel}", "unknown stage 'kernel', did you mean 'kernels'? (expected one of graph, part"),
        ("hamkaas-outline-groups{max-ops=many}", "option 'max-ops': expected a number, got 'many'"),
        ("cse,,cse", "cannot read the pipeline: "),
        ("lower-to{stage=graph", "cannot read the pipeline: "),
    ],
)
def test_wrong_pipelines(
    pipeline: str, message: str, file: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([file(RELU), "-p", pipeline]) == 1
    output, errors = capsys.readouterr()
    assert output == ""
    assert f"error: {message}" in errors or f": {message}" in errors


def test_wrong_arguments_exit_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["-t", "cubin"], ["--no-such-option"], ["a.mlir", "b.mlir"]):
        with pytest.raises(SystemExit, match="2"):
            main(arguments)
    assert "invalid choice: 'cubin' (choose from" in capsys.readouterr().err


# what is read and written


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "input.mlir: error: expected operations, got an empty input"),
        (b"// only a comment\n\n", "input.mlir: error: expected operations, got an empty input"),
        (b"\xff\xfe\x00garbage", "input.mlir': expected text, got bytes that are not UTF-8"),
        (b"\x00\x01\x02", "input.mlir:1:1: error: Unexpected character"),
        (b"prose, not IR", "input.mlir:1:6: error: Operation prose is not registered"),
        (b"\nbuiltin.module {", "input.mlir:2:17: error: in block definition"),
    ],
)
def test_wrong_files(content: bytes, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "input.mlir").write_bytes(content)
    assert main([str(tmp_path / "input.mlir")]) == 1
    output, errors = capsys.readouterr()
    assert output == ""
    assert message in errors


def test_files_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "no")]) == main([str(tmp_path)]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert errors == [
        f"hamkaas-opt: error: cannot read '{tmp_path / 'no'}': No such file or directory",
        f"hamkaas-opt: error: cannot read '{tmp_path}': Is a directory",
    ]


def test_stdin(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["-"]):
        monkeypatch.setattr(sys, "stdin", io.StringIO(RELU))
        assert main(arguments) == 0
        assert "hamkaas.relu" in capsys.readouterr().out
    monkeypatch.setattr(sys, "stdin", io.StringIO("\udcff"))  # how stdin gives a byte that is no text
    assert main([]) == 1
    assert "cannot read '<stdin>': expected text, got bytes that are not UTF-8" in capsys.readouterr().err


def test_output_file(file: Callable[[str], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two = file(f"{RELU}\n// -----\n{RELU}")
    result = tmp_path / "result.mlir"
    assert main([two, "--split-input-file", "-o", str(result)]) == 0
    assert result.read_text().count("// -----") == 1
    assert main([str(result), "--split-input-file"]) == 0
    assert capsys.readouterr().out == result.read_text()
    assert main([file(RELU), "-o", str(tmp_path / "no" / "folder")]) == 1
    assert "cannot write" in capsys.readouterr().err


def test_an_error_leaves_the_output_file_alone(file: Callable[[str], str], capsys: pytest.CaptureFixture[str]) -> None:
    text = f"{RELU}\n// -----\nfunc.func"
    name = file(text)
    assert main([name, "--split-input-file", "-o", name]) == 1
    assert Path(name).read_text() == text
    assert f"{name}:7:10: error:" in capsys.readouterr().err


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_a_run_may_start_from_any_stage(target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(64, 172, 3, 8, 4, 512, 512, True)
    weights = {name: np.broadcast_to(np.float32(0), shape) for name, shape in config.weight_shapes()}
    monkeypatch.setenv("HAMKAAS_DUMP", str(tmp_path))
    compile_artifact(build_module({"step": build_step(config, weights)}), target, "sm_90")
    monkeypatch.delenv("HAMKAAS_DUMP")
    for number, stage in enumerate(STAGE_NAMES):
        again = tmp_path / f"again-{stage}"
        pipeline = f"lower-to{{target={target}}}"
        assert main([str(tmp_path / f"{number:02}-{stage}.mlir"), "-p", pipeline, "-o", str(again)]) == 0
        assert again.read_text() == (tmp_path / "03-program.mlir").read_text()

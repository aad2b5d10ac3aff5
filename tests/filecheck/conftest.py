"""Runs the RUN lines of .mlir files in this process: 25 ms each instead of the second that two interpreters take.

The files are valid for `lit` too. A RUN line is a pipe of `hamkaas-opt` and `filecheck` commands; `not` in front of a
command expects it to fail, and `2>&1` adds its stderr to its stdout.
"""

import io
import shlex
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from filecheck.matcher import Matcher
from filecheck.options import parse_argv_options

from hamkaas.tools.hamkaas_opt import main

MARK = "// RUN:"


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Every .mlir file here is a test file."""
    return FileCheckFile.from_parent(parent, path=file_path) if file_path.suffix == ".mlir" else None


class FileCheckFile(pytest.File):
    """A file with RUN lines; one without is an error, or it would pass by doing nothing."""

    def collect(self) -> Iterator[pytest.Item]:
        lines = [line.split(MARK, 1)[1].strip() for line in self.path.read_text().splitlines() if MARK in line]
        if not lines:
            raise self.CollectError(f"{self.path}: no RUN line")
        for number, line in enumerate(lines):
            yield RunLine.from_parent(self, name=f"RUN{number}", command=line)


class FileCheckFailure(Exception):
    """A command of a RUN line did not do what was expected."""


class RunLine(pytest.Item):
    """One RUN line."""

    def __init__(self, command: str, **kwargs: object):
        super().__init__(**kwargs)  # type: ignore[arg-type]
        self.command = command

    def runtest(self) -> None:
        text = ""
        for stage in self.command.replace("%s", shlex.quote(str(self.path))).split(" | "):
            text = self._stage(shlex.split(stage), text)

    def _stage(self, words: list[str], stdin: str) -> str:
        joins = "2>&1" in words
        words = [word for word in words if word != "2>&1"]
        fails = words[0] == "not"
        program, *arguments = words[fails:]
        if program == "filecheck":
            return self._filecheck(arguments, stdin)
        if program != "hamkaas-opt":
            raise FileCheckFailure(f"expected hamkaas-opt or filecheck, got {program}")
        output, errors = io.StringIO(), io.StringIO()
        with (
            pytest.MonkeyPatch.context() as patch,
            redirect_stdout(output),
            redirect_stderr(output if joins else errors),
        ):
            patch.setattr(sys, "stdin", io.StringIO(stdin))
            code = main(arguments)
        if (code != 0) != fails:
            raise FileCheckFailure(f"{' '.join(words)}\nexit code {code}\n{output.getvalue()}{errors.getvalue()}")
        return output.getvalue()

    def _filecheck(self, arguments: list[str], stdin: str) -> str:
        report = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(report), redirect_stderr(report):
            patch.setattr(sys, "stdin", io.StringIO(stdin))
            matcher = Matcher.from_opts(parse_argv_options(["filecheck", *arguments]))
            matcher.stderr = report
            code = matcher.run()
        if code:
            raise FileCheckFailure(f"{report.getvalue()}\n--- input was ---\n{stdin}")
        return ""

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException]) -> str:  # type: ignore[override]
        """The failure without pytest's own frames."""
        if isinstance(excinfo.value, FileCheckFailure):
            return f"{self.command}\n{excinfo.value}"
        return str(super().repr_failure(excinfo))

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, 0, f"{self.path.name}: {self.command}"

"""What the documentation shows is what happens: examples run, IR is what the tool prints, names exist."""

import contextlib
import io
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hamkaas.knobs import ALL_KNOBS
from hamkaas.passes import ALL_PASSES
from hamkaas.pipeline import STAGE_NAMES, stages
from hamkaas.tools.hamkaas_opt import main, make_parser

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHOWN = re.compile(r"^    ((?:hamkaas-opt|cat) [^\n]*)\n\n```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
"""An indented command, and the fenced block below it: what it prints."""


def python_of(page: Path) -> str:
    """The first Python example of a page."""
    return next(text for kind, text in FENCE.findall(page.read_text()) if kind == "python")


def printed(code: str) -> str:
    """What the comments behind the `print`s of an example say."""
    return "".join(f"{text}\n" for text in re.findall(r"^ *print\(.*\)  # (.*)$", code, re.MULTILINE))


def matches(shown: str, output: str) -> bool:
    """Whether the output is what is shown, where a line of `...` stands for one line or more."""
    parts = [r"(?:.*\n)+?" if line.strip() == "..." else f"{re.escape(line)}\n" for line in shown.splitlines()]
    return re.fullmatch("".join(parts), output) is not None


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs" / "pipeline.md"], ids=lambda page: page.stem)
def test_python_examples(page: Path) -> None:
    code = python_of(page)
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert found.stderr == ""
    assert found.stdout == printed(code) != ""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the example of docs/pipeline.md has left its dump."""
    path = tmp_path_factory.mktemp("pipeline")
    (path / "layer.py").write_text(python_of(ROOT / "docs" / "pipeline.md"))
    line = f"PYTHONPATH={shlex.quote(str(ROOT))} HAMKAAS_DUMP=dump {shlex.quote(sys.executable)} layer.py"
    subprocess.run(line, shell=True, cwd=path, check=True, capture_output=True)
    return path


SHOWN_IN_PIPELINE = SHOWN.findall((ROOT / "docs" / "pipeline.md").read_text())


@pytest.mark.parametrize(("command", "shown"), SHOWN_IN_PIPELINE, ids=[command for command, _ in SHOWN_IN_PIPELINE])
def test_pipeline_shows_what_the_tool_prints(
    command: str, shown: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    program, *arguments = shlex.split(command)
    output = io.StringIO()
    if program == "cat":
        output.write(Path(*arguments).read_text())
    else:
        with contextlib.redirect_stdout(output):
            assert main(arguments) == 0
    assert matches(shown, output.getvalue()), output.getvalue()


def test_pipeline_shows_every_stage_and_names_every_pass() -> None:
    text = (ROOT / "docs" / "pipeline.md").read_text()
    assert len(SHOWN_IN_PIPELINE) == 8
    titles = re.findall(r"^## (\w+):", text, re.MULTILINE)
    assert titles == list(STAGE_NAMES)
    sections = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    for stage, section in zip(stages("cpu"), sections, strict=False):
        rows = "".join(re.findall(r"^\| `.*? \|", section, re.MULTILINE))
        assert re.findall(r"`([\w-]+)`", rows) == [one.name for one in stage.passes]


def test_the_table_in_the_readme() -> None:
    rows = re.findall(r"^   \|  ([\w, -]+)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert rows == [", ".join(one.name for one in stage.passes) for stage in stages("cpu")]


def tool_commands() -> Iterator[tuple[str, str]]:
    """(page, arguments) of every command line of `hamkaas-opt`, in code blocks and in the middle of prose."""
    for page in PAGES:
        for line in re.findall(
            r"(?:^    |^replay: |    replay: |`)hamkaas-opt ([^`\n]+)", page.read_text(), re.MULTILINE
        ):
            yield page.name, re.split(r" 2>&1| \| |  +# ", line)[0]


@pytest.mark.parametrize(("page", "line"), [pytest.param(*one, id=" ".join(one)) for one in tool_commands()])
def test_commands_name_what_there_is(page: str, line: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    options = make_parser().parse_args(shlex.split(line))
    (tmp_path / "empty.mlir").write_text("builtin.module {}")
    assert main([str(tmp_path / "empty.mlir"), "-p", options.passes]) == 0, capsys.readouterr().err


def test_there_are_commands() -> None:
    assert {"README.md", "debugging.md", "pipeline.md"} <= {page for page, _ in tool_commands()}


def test_debugging_lists_every_option_and_knob() -> None:
    text = (ROOT / "docs" / "debugging.md").read_text()
    options = {name for action in make_parser()._actions for name in action.option_strings[:1]}
    rows = "\n".join(re.findall(r"^\| `-.*? \|", text, re.MULTILINE))
    assert set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", rows)) == options - {"-h"}
    knobs = re.findall(r"^\| `(HAMKAAS_\w+)`", text, re.MULTILINE)
    assert sorted(knobs) == sorted(knob.name for knob in ALL_KNOBS)


def test_names_of_the_project_exist() -> None:
    knobs = {knob.name for knob in ALL_KNOBS}
    passes = {one.name for one in ALL_PASSES}
    for page in PAGES:
        text = page.read_text()
        assert set(re.findall(r"HAMKAAS_[A-Z_]+", text)) <= knobs
        named = set(re.findall(r"\b(?:hamkaas-(?:to|outline|dedup)-|program-|verify-dom)[a-z-]+", text))
        assert named <= passes, page.name
        for path in re.findall(r"`((?:hamkaas|tests|examples)/[\w/]+(?:\.\w+)?/?)`", text):
            if "do_this" not in path:  # the pass that a reader is to write
                assert (ROOT / path).exists(), f"{page.name} names {path}"

"""The runner as people use it: a process, its output, its exit code."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUNNER = ROOT / "examples" / "llama2.py"


def run(*arguments: object, stdin: str = "", **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(RUNNER), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, input=stdin, timeout=120, **options)  # type: ignore[call-overload]


@pytest.mark.parametrize("version", ["", "_v1"])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["-t", 0, "-i", "Once upon a time"], "once_upon_a_time_t0_n256.txt"),
        (["-t", 0, "-i", "Donald was a little duck"], "donald_duck_t0_n256.txt"),
        (["-t", 0], "empty_prompt_t0_n256.txt"),
        (["-t", 1.0, "-p", 0.9, "-s", 133742], "seeded_t1_p09_s133742_n256.txt"),
    ],
)
def test_texts_of_llama2c(models: Path, version: str, options: list[object], expected: str) -> None:
    model = models / f"stories260K{version}.bin"
    done = run(model, "-z", models / "tok512.bin", "-n", 256, "--target", "cpu", *options)
    assert (done.returncode, done.stdout) == (0, (models / "expected" / expected).read_text())
    assert done.stderr.startswith("# 256 tokens: ")


def test_int8(models: Path) -> None:
    # llama2.c rounds activations to int8 too; we do not, so that texts part in the end
    model = models / "stories260K_v2_q80_gs4.bin"
    done = run(model, "-z", models / "tok512.bin", "-t", 0, "-i", "Once upon a time", "--target", "cpu")
    expected = (models / "expected" / "runq_gs4_once_upon_a_t0_n256.txt").read_text()
    assert done.returncode == 0
    assert done.stdout[:100] == expected[:100]


def test_positional_form(models: Path, tmp_path: Path) -> None:
    # the tokenizer lies beside the checkpoint
    shutil.copy(models / "stories260K.bin", tmp_path / "model.bin")
    shutil.copy(models / "tok512.bin", tmp_path / "tokenizer.bin")
    done = run(tmp_path / "model.bin", 0, 256, "Once upon a time")
    assert done.stdout == (models / "expected" / "once_upon_a_time_t0_n256.txt").read_text()


def test_utf8(models: Path) -> None:
    prompt = "Zoë has 3 ☂ umbrellas"
    done = run(models / "stories260K.bin", "-z", models / "tok512.bin", "-t", 0, "-n", 64, "-i", prompt)
    assert done.stdout.startswith(prompt)
    # llama2.c drops the bytes of characters that are not ASCII
    expected = (models / "expected" / "utf8_t0_n64.txt").read_text(errors="ignore")
    assert "".join(c for c in done.stdout if c.isascii()) == expected


def test_statistics_as_json(models: Path, tmp_path: Path) -> None:
    done = run(
        models / "stories260K.bin", "-z", models / "tok512.bin", "-t", 0, "-n", 8, "-q", "--json", tmp_path / "s.json"
    )
    assert done.stderr == ""
    statistics = json.loads((tmp_path / "s.json").read_text())
    assert statistics["tokens"] == 8
    assert statistics["tokens_per_second"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.bin"], "nothing.bin: no such file"),
        (["{model}", "-z", "nothing.bin"], "nothing.bin: no such file"),
        (["{model}", "-z", "{tok}", "-t", "-1"], "argument -t/--temperature: expected at least 0, got -1.0"),
        (["{model}", "-z", "{tok}", "-t", "nan"], "argument -t/--temperature: expected at least 0, got nan"),
        (["{model}", "-z", "{tok}", "-p", "1.5"], "argument -p/--top-p: expected between 0 and 1, got 1.5"),
        (["{model}", "-z", "{tok}", "-n", "-3"], "argument -n/--steps: expected at least 0, got -3"),
        (["{model}", "-z", "{tok}", "-n", "many"], "argument -n/--steps: invalid int value: 'many'"),
        (["{model}", "hot", "256", "Once"], "argument TEMPERATURE: expected float, got 'hot'"),
        (["{model}", "0", "256", "Once", "more"], "expected MODEL TEMPERATURE STEPS PROMPT, got 5 arguments"),
        (["{model}", "-z", "{tok}", "-i", "cat " * 600], "the prompt has 1202 tokens, more than the context of 512"),
        (["{model}", "-z", "{models}/tokenizer.bin"], "tokenizer.bin: expected 512 tokens, as the checkpoint has"),
        (["{tok}", "-z", "{tok}"], "tok512.bin: no llama2.c checkpoint: expected"),
        (["{model}", "-z", "{tok}", "-m", "chat"], "expected a model with a chat template for -m chat, got none"),
    ],
)
def test_bad_input(models: Path, arguments: list[str], message: str) -> None:
    names = {"model": models / "stories260K.bin", "tok": models / "tok512.bin", "models": models}
    done = run(*(argument.format(**names) for argument in arguments))
    *usage, last = done.stderr.splitlines()
    assert done.returncode in (1, 2)
    assert message in last
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert all(line.startswith(("usage:", " ")) for line in usage)


def test_ctrl_c_prints_statistics(models: Path) -> None:
    command = [sys.executable, RUNNER, models / "stories260K.bin", "-z", models / "tok512.bin", "-t", "1", "-n", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    # the text may have ended before the signal came
    assert process.returncode in (130, 0)
    assert errors.startswith("# ")
    assert "Traceback" not in errors


def test_ctrl_c_while_starting(models: Path) -> None:
    command = [sys.executable, RUNNER, models / "stories260K.bin", "-z", models / "tok512.bin"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        time.sleep(1.2)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode in (130, 0)
    assert "Traceback" not in errors


def test_closed_pipe(models: Path) -> None:
    command = f"'{sys.executable}' '{RUNNER}' '{models}/stories260K.bin' -z '{models}/tok512.bin' -t 0 | head -c 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "O")
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_full_disk(models: Path) -> None:
    done = run(models / "stories260K.bin", "-z", models / "tok512.bin", "-n", 4, "-q", "--json", "/dev/full")
    assert done.returncode == 1
    assert done.stderr == "llama2.py: error: No space left on device\n"


@pytest.mark.parametrize("example", ["mnist.py", "compile_a_graph.py"])
def test_examples(example: str) -> None:
    done = subprocess.run([sys.executable, ROOT / "examples" / example], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout

"""The runner as people use it: a process, its output, its exit code."""

import importlib.util
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import llama_reference
import numpy as np
import pytest

from hamkaas.models.llama2 import load_checkpoint, load_tokenizer

ROOT = Path(__file__).parents[2]
RUNNER = ROOT / "examples" / "llama2.py"


def run(*arguments: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Runs the runner. Lines of progress are left out: they depend on how busy the machine is."""
    command = [sys.executable, str(RUNNER), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, input=stdin, timeout=120)
    done.stderr = re.sub(r"^# (loading|compiling|prompt).*\n", "", done.stderr, flags=re.MULTILINE)
    return done


@pytest.fixture
def runner() -> ModuleType:
    """The runner as a module."""
    spec = importlib.util.spec_from_file_location("runner", RUNNER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
    assert re.fullmatch(r"# 256 tokens: .* GB/s of weights \(\d+ % of [\d.]+ for reading alone\); .*\n", done.stderr)


@pytest.mark.parametrize("burst", [1, 16])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["-t", 0, "-i", "Once upon a time"], "once_upon_a_time_t0_n256.txt"),
        (["-t", 0], "empty_prompt_t0_n256.txt"),
        (["-t", 1.0, "-p", 0.9, "-s", 133742], "seeded_t1_p09_s133742_n256.txt"),
    ],
)
def test_texts_of_llama2c_in_bursts(models: Path, burst: int, options: list[object], expected: str) -> None:
    model = [models / "stories260K.bin", "-z", models / "tok512.bin", "-n", 256, "--target", "cpu"]
    done = run(*model, "--burst", burst, *options)
    assert (done.returncode, done.stdout) == (0, (models / "expected" / expected).read_text())
    assert done.stderr.startswith("# 256 tokens: ")


@pytest.mark.parametrize(
    ("arguments", "on_cuda"),
    [
        ([], 16),
        (["-t", "0", "--stop", "x", "-m", "chat"], 16),
        (["--burst", "0"], 0),
        (["--burst", "40"], 40),
        (["--timing"], 0),
        (["--top-k", "5"], 0),
        (["--min-p", "0.1"], 0),
        (["--repetition-penalty", "1.1", "-t", "0"], 0),
        (["-p", "1"], 0),
        (["-p", "0"], 0),
        (["-p", "1", "-t", "0"], 16),
    ],
)
def test_when_the_device_chooses(runner: ModuleType, models: Path, arguments: list[str], on_cuda: int) -> None:
    parser = runner.make_parser()
    options = parser.parse_args([str(models / "stories260K.bin"), *arguments])
    runner.merge_positional(parser, options)
    runner.check_options(parser, options)
    options.target = "cuda"
    assert runner.burst_size(options) == on_cuda
    options.target = "cpu"
    assert runner.burst_size(options) == (options.burst or 0)


def test_prompts_and_stop_strings_in_bursts(models: Path, tmp_path: Path) -> None:
    # a stop string ends a text within a burst; the seeded texts after it begin with the coins that were not used
    (tmp_path / "prompts.txt").write_text("Once upon a time\nDonald was a little duck\nThe cat\n")
    model = [models / "stories260K.bin", "-z", models / "tok512.bin", "--target", "cpu", "-q"]
    options = ["-s", 4, "--prompts", tmp_path / "prompts.txt", "--stop", "She", "--stop", "He", "-n", 0, "-c", 100]
    steps, bursts = (run(*model, *options, "--burst", burst) for burst in (0, 16))
    assert (bursts.returncode, bursts.stdout) == (0, steps.stdout)
    assert len(bursts.stdout.splitlines()) >= 3


def test_int8(models: Path) -> None:
    # llama2.c rounds activations to int8 too; we do not, so that texts part in the end: tests/unit/test_llama2_int8.py
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


def test_compat_has_the_bytes_of_llama2c(models: Path) -> None:
    command = [sys.executable, RUNNER, models / "stories260K.bin", "-z", models / "tok512.bin", "-t", "0", "-n", "64"]
    done = subprocess.run([*command, "-q", "--compat", "-i", "Zoë has 3 ☂ umbrellas"], capture_output=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == (models / "expected" / "utf8_t0_n64.txt").read_bytes()


def test_a_prompt_that_takes_several_chunks(models: Path) -> None:
    # the text of llama2.c as the prompt, but for its end: what follows must be its end
    expected = (models / "expected" / "donald_duck_t0_n256.txt").read_text()
    prompt = expected[:400]
    done = run(models / "stories260K.bin", "-z", models / "tok512.bin", "-t", 0, "-n", 256, "-i", prompt)
    assert done.stdout == expected
    assert int(re.search(r"prompt (\d+)", done.stderr)[1]) > 128  # type: ignore[index]


def test_prompts_from_a_file(models: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("Once upon a time\n\nDonald was a little duck\n")
    done = run(models / "stories260K.bin", "-z", models / "tok512.bin", "-t", 0, "--prompts", tmp_path / "prompts.txt")
    texts = [models / "expected" / f"{name}_t0_n256.txt" for name in ("once_upon_a_time", "donald_duck")]
    assert (done.returncode, done.stdout) == (0, "".join(text.read_text() for text in texts))


def test_stop_strings(models: Path) -> None:
    model = [models / "stories260K.bin", "-z", models / "tok512.bin", "-t", 0, "-i", "Once upon a time"]
    done = run(*model, "--stop", "Lily. She loved", "--stop", "nowhere to be found")
    assert (done.returncode, done.stdout) == (0, "Once upon a time, there was a little girl named \n")


@pytest.mark.parametrize(
    "options",
    [
        ["--top-k", 1],
        ["--min-p", 1],
        ["--top-k", 1, "--min-p", 0.5, "-p", 0.5, "-s", 5],
    ],
)
def test_the_likeliest_token_is_left(models: Path, options: list[object]) -> None:
    done = run(models / "stories260K.bin", "-z", models / "tok512.bin", "-t", 1, "-i", "Once upon a time", *options)
    assert done.stdout == (models / "expected" / "once_upon_a_time_t0_n256.txt").read_text()


def test_seeds_and_penalty(models: Path) -> None:
    model = [models / "stories260K.bin", "-z", models / "tok512.bin", "-n", 64, "-q"]
    first, again, other = (run(*model, "-s", seed).stdout for seed in (7, 7, 8))
    assert first == again != other
    assert run(*model, "-t", 0, "--repetition-penalty", 1.5).stdout != run(*model, "-t", 0).stdout


def test_chat_with_a_template_of_ours(models: Path) -> None:
    model = [models / "stories260K.bin", "-z", models / "tok512.bin", "-t", 0, "-c", 100, "--target", "cpu"]
    done = run(*model, "-m", "chat", "--template", "llama2", "-y", "be nice", "-i", "hi")
    assert (done.returncode, len(done.stdout) > 20) == (0, True)
    assert "# the context is full; /reset begins a new conversation\n" in done.stderr


def test_timing(models: Path) -> None:
    done = run(models / "stories260K.bin", "-z", models / "tok512.bin", "-t", 0, "-n", 8, "-i", "Once", "--timing")
    *times, report = done.stderr.splitlines()
    assert report.startswith("# 8 tokens: prompt ")
    assert all(re.fullmatch(r"position \d+: \d+\.\d{3} ms", line) for line in times)
    assert len(times) == int(re.search(r"decode (\d+)", report)[1])  # type: ignore[index]


def test_dump(models: Path, tmp_path: Path) -> None:
    model = [models / "stories260K.bin", "-z", models / "tok512.bin", "-t", 0, "-n", 2, "--target", "cpu"]
    done = run(*model, "--dump", tmp_path / "dump")
    assert done.returncode == 0
    names = {file.name for file in (tmp_path / "dump").iterdir()}
    assert {"00-graph.mlir", "code.ll", "plan.txt"} < names
    done = run(*model, "--dump", models / "tok512.bin" / "dump")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("llama2.py: error: ")


@pytest.mark.parametrize("context", [5, 64, 100, 512])
def test_perplexity(models: Path, tmp_path: Path, context: int) -> None:
    model, text = models / "stories260K.bin", models / "expected" / "once_upon_a_time_t0_n256.txt"
    done = run(model, "-z", models / "tok512.bin", "--perplexity", text, "-c", context, "--json", tmp_path / "s.json")
    assert done.returncode == 0
    value, tokens = re.match(r"perplexity ([\d.]+) of (\d+) tokens; windows of (\d+)", done.stdout).group(1, 2)  # type: ignore[union-attr]
    checkpoint = load_checkpoint(model)
    ids = load_tokenizer(models / "tok512.bin", 512).encode(text.read_text())
    assert int(tokens) == len(ids) - 1
    # the oracle looks at each token alone, with the window that the rule says
    nats, step = 0.0, max(context // 2, 1)
    rows: dict[int, np.ndarray] = {}
    for place in range(1, len(ids)):
        begin = 0 if place <= context else -(-(place - context) // step) * step
        if begin not in rows:
            weights = checkpoint.weights
            rows[begin] = llama_reference.logits(checkpoint.config, weights, ids[begin : begin + context])  # type: ignore[arg-type]
        nats -= np.log(llama_reference.softmax(rows[begin][place - begin - 1])[ids[place]])
    assert float(value) == pytest.approx(np.exp(nats / (len(ids) - 1)), rel=1e-3)


def test_the_end_of_the_context_is_said(models: Path) -> None:
    done = run(models / "stories260K.bin", "-z", models / "tok512.bin", "-t", 0, "-n", 0, "-c", 32, "-i", "Once")
    assert done.returncode == 0
    assert "# the context of 32 positions is full\n" in done.stderr


def test_progress_without_a_terminal(
    runner: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr(runner.time, "monotonic", lambda: now)
    with runner.Bar("prompt", "tokens", False) as bar:
        for done, seconds in ((0, 0), (64, 1.9), (128, 2), (192, 2.5), (256, 4), (400, 5)):
            now = 100.0 + seconds
            bar.update(done, 400)
        now = 200.0
        bar.update(0, 10)  # the next prompt
        bar.update(5, 10)
    with runner.Bar("prompt", "tokens", True) as bar:
        now = 300.0
        bar.update(1, 2)
    expected = ["# prompt: 128/400 tokens, 64 tokens/s, 4 s left", "# prompt: 256/400 tokens, 64 tokens/s, 2 s left"]
    assert capsys.readouterr().err.splitlines() == expected
    monkeypatch.undo()
    monkeypatch.setattr(runner, "LINE_SECONDS", 0.05)
    with runner.Bar("compiling", "", False) as bar:
        bar.show("compiling 3 kernels")
        time.sleep(0.3)
        bar.show("this is over at once")
    time.sleep(0.2)
    assert capsys.readouterr().err == "# compiling 3 kernels\n"


def test_statistics_as_json(models: Path, tmp_path: Path) -> None:
    done = run(
        models / "stories260K.bin", "-z", models / "tok512.bin", "-t", 0, "-n", 8, "-q", "--json", tmp_path / "s.json",
        "--target", "cpu"
    )  # fmt: skip
    assert done.stderr == ""
    statistics = json.loads((tmp_path / "s.json").read_text())
    assert statistics["tokens"] == statistics["prompt_tokens"] + statistics["decode_tokens"] == 8
    numbers = ("tokens_per_second", "prompt_tokens_per_second", "first_token_seconds", "peak_memory_bytes", "seed")
    assert all(statistics[name] > 0 for name in numbers)
    assert statistics["bandwidth_of"] == "reading alone"
    ratio = statistics["weight_bytes_per_second"] / statistics["bandwidth_bytes_per_second"]
    assert statistics["percent_of_bandwidth"] == pytest.approx(100 * ratio)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: model"),
        (["nothing.bin"], "nothing.bin: no such file"),
        (["{model}"], "tokenizer.bin: expected 512 tokens, as the checkpoint has, got 32000"),
        (["{model}", "-z", "{models}"], "expected a file, got a folder"),
        (
            ["{model}", "-z", "{tok}", "--json", "{models}"],
            "argument --json: expected a file in a folder that exists, got",
        ),
        (
            ["{model}", "-z", "{tok}", "--json", "no/s.json"],
            "argument --json: expected a file in a folder that exists, got",
        ),
        (["{model}", "-z", "{tok}", "--dump", "{tok}"], "argument --dump: expected a folder, got the file"),
        (["{model}", "-z", "nothing.bin"], "nothing.bin: no such file"),
        (["{model}", "-z", "{tok}", "-t", "-1"], "argument -t/--temperature: expected at least 0, got -1.0"),
        (["{model}", "-z", "{tok}", "-t", "nan"], "argument -t/--temperature: expected at least 0, got nan"),
        (["{model}", "-z", "{tok}", "-p", "1.5"], "argument -p/--top-p: expected between 0 and 1, got 1.5"),
        (["{model}", "-z", "{tok}", "-n", "-3"], "argument -n/--steps: expected at least 0, got -3"),
        (["{model}", "-z", "{tok}", "-n", "many"], "argument -n/--steps: invalid int value: 'many'"),
        (["{model}", "-z", "{tok}", "--top-k", "-1"], "argument --top-k: expected at least 0, got -1"),
        (["{model}", "-z", "{tok}", "--min-p", "2"], "argument --min-p: expected between 0 and 1, got 2.0"),
        (["{model}", "-z", "{tok}", "--repetition-penalty", "0"], "expected more than 0, got 0.0"),
        (["{model}", "-z", "{tok}", "--burst", "-1"], "argument --burst: expected at least 0, got -1"),
        (["{model}", "-z", "{tok}", "--burst", "8", "--timing"], "argument --burst: expected a temperature of 0 or"),
        (["{model}", "-z", "{tok}", "--burst", "8", "-p", "1"], "argument --burst: expected a temperature of 0 or"),
        (["{model}", "-z", "{tok}", "--stop", ""], "argument --stop: expected a text, got an empty one"),
        (["{model}", "-z", "{tok}", "-c", "0"], "argument -c/--context: expected at least 1, got 0"),
        (["{model}", "-z", "{tok}", "--prompts", "nothing.txt"], "nothing.txt: no such file"),
        (
            ["{model}", "-z", "{tok}", "--prompts", "/dev/null"],
            "/dev/null: expected a prompt on each line, got no text",
        ),
        (["{model}", "-z", "{tok}", "--prompts", "{model}"], "stories260K.bin: expected UTF-8, got byte"),
        (["{model}", "-z", "{tok}", "--perplexity", "nothing.txt"], "nothing.txt: no such file"),
        (["{model}", "--prompts", "{tok}", "--perplexity", "{tok}"], "expected one of --prompts and --perplexity"),
        (["{model}", "-z", "{tok}", "-m", "chat", "--template", "x"], "argument --template: invalid choice: 'x'"),
        (["{model}", "-z", "{tok}", "--cache", "i8"], "argument --cache: invalid choice: 'i8'"),
        (
            ["{model}", "-z", "{tok}", "--activations", "f16", "--weights", "bf16"],
            "argument --activations: expected weights or a cache of f16 to meet (--weights f16, --cache f16)",
        ),
        (
            ["{model}", "-z", "{tok}", "--target", "cpu", "--cudnn", "on"],
            "argument --cudnn: expected target cuda for on",
        ),
        (
            ["{model}", "-z", "{tok}", "--target", "cpu", "--schedule", "persistent"],
            "argument --schedule: expected target cuda for persistent, got cpu",
        ),
        (["{models}", "-z", "{tok}"], "config.json: cannot be read: No such file or directory"),
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
    (line,) = done.stderr.splitlines()
    assert done.returncode in (1, 2)
    assert message in line
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_no_tokenizer(models: Path, tmp_path: Path) -> None:
    shutil.copy(models / "stories260K.bin", tmp_path / "model.bin")
    done = run(tmp_path / "model.bin")
    expected = f"{tmp_path}/tokenizer.bin: expected a tokenizer beside the model, or here, got none (-z FILE names one)"
    assert (done.returncode, done.stderr) == (1, f"llama2.py: error: {expected}\n")


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


def test_ctrl_c_in_a_destructor_is_not_lost(runner: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    class Trap:
        def __del__(self) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(sys, "unraisablehook", runner.keep_interrupt)

    def be_trapped() -> None:
        Trap()
        for _ in range(500):
            time.sleep(0.01)

    with pytest.raises(KeyboardInterrupt):
        be_trapped()


@pytest.mark.parametrize("seconds", [0.1, 0.3, 0.6, 1.2])
def test_ctrl_c_while_starting(models: Path, seconds: float) -> None:
    command = [sys.executable, RUNNER, models / "stories260K.bin", "-z", models / "tok512.bin"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    # before the first line of the program runs, the signal ends Python as it ends any process
    assert process.returncode in (130, 0, -signal.SIGINT)
    assert "Traceback" not in errors
    if process.returncode == 130:
        assert re.fullmatch(r"llama2\.py: interrupted|# \d+ tokens: .*", errors.splitlines()[-1])


def test_closed_pipe(models: Path) -> None:
    command = f"'{sys.executable}' '{RUNNER}' '{models}/stories260K.bin' -z '{models}/tok512.bin' -t 0 | head -c 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "O")
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_full_disk(models: Path) -> None:
    done = run(models / "stories260K.bin", "-z", models / "tok512.bin", "-n", 4, "-q", "--json", "/dev/full")
    assert done.returncode == 1
    assert done.stderr == "llama2.py: error: /dev/full: No space left on device\n"
    command = [sys.executable, str(RUNNER), str(models / "stories260K.bin"), "-z", str(models / "tok512.bin"), "-q"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (1, "llama2.py: error: standard output: No space left on device\n")


def test_memory_while_a_checkpoint_of_a_gigabyte_runs(models: Path, tmp_path: Path) -> None:
    dim, hidden, layers, vocab = 2048, 5120, 4, 32000
    sizes = (dim, hidden, layers, 16, 16, vocab, 128)
    bytes = 28 + 4 * (vocab * dim + layers * (2 * dim + 4 * dim * dim + 3 * hidden * dim) + dim + 128 * dim // 16)
    assert bytes > 1e9
    if (free := shutil.disk_usage(tmp_path).free) < 2 * bytes:
        pytest.skip(f"expected {2 * bytes} bytes free in {tmp_path}, got {free}")
    with (tmp_path / "model.bin").open("wb") as file:
        file.write(struct.pack("<7i", *sizes))
        file.truncate(bytes)  # a file of zeros: it takes as much memory as any other
    statistics = tmp_path / "s.json"
    prompt = "the quick brown fox jumps over the lazy dog and runs"
    done = run(
        tmp_path / "model.bin", "-z", models / "tokenizer.bin", "-n", 24, "-q", "-t", 0, "--target", "cpu",
        "-i", prompt, "--json", statistics
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(statistics.read_text())["peak_memory_bytes"] < 1.3e9


@pytest.mark.parametrize("example", ["mnist.py", "compile_a_graph.py"])
def test_examples(example: str) -> None:
    done = subprocess.run([sys.executable, ROOT / "examples" / example], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_weights_of_fewer_bits(models: Path) -> None:
    arguments = [models / "stories260K.bin", "-z", models / "tok512.bin", "-t", 0, "-n", 100, "--target", "cpu"]
    exact, half, bytes = (run(*arguments, "--weights", weights) for weights in ("f32", "f16", "i8"))
    assert half.stdout == exact.stdout
    assert bytes.stdout[:100] == exact.stdout[:100]
    assert len({done.stderr.split("#")[-1] for done in (exact, half, bytes)}) == 3  # the logits differ


@pytest.mark.parametrize(
    ("version", "weights", "share"), [("", "f16", 0.5), ("", "i8", 0.33), ("_v2_q80_gs4", "f32", 0.5)]
)
def test_bytes_of_weights_are_those_that_are_read(
    models: Path, tmp_path: Path, version: str, weights: str, share: float
) -> None:
    def step_bytes(*options: object) -> float:
        tokenizer, statistics = models / "tok512.bin", tmp_path / "s.json"
        done = run(*options, "-z", tokenizer, "-t", 0, "-n", 20, "-q", "--target", "cpu", "--json", statistics)
        assert done.returncode == 0
        numbers = json.loads(statistics.read_text())
        return numbers["weight_bytes_per_second"] * numbers["seconds_per_token"]

    exact = step_bytes(models / "stories260K.bin")
    assert exact == pytest.approx(4 * 260032)  # all that a checkpoint has: the classifier is the embedding table
    assert step_bytes(models / f"stories260K{version}.bin", "--weights", weights) == pytest.approx(
        share * exact, rel=0.05
    )


LONG_PROMPT = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day,"
"""Long enough for a chunk."""


@pytest.mark.parametrize(
    ("options", "equal"),
    [
        (["--cache", "f16"], 600),
        (["--cache", "f16", "--burst", 8], 600),
        (["--cache", "bf16"], 400),
        (["--cache", "f16", "--activations", "f16"], 600),
        (["--weights", "f16", "--activations", "f16"], 600),
        (["--weights", "bf16", "--activations", "bf16", "--cudnn", "off"], 400),
    ],
)
def test_cache_and_activations_of_fewer_bits(models: Path, options: list[object], equal: int) -> None:
    model = [models / "stories260K.bin", "-z", models / "tok512.bin", "-t", 0, "--target", "cpu", "-i", LONG_PROMPT]
    exact, rounded = run(*model), run(*model, *options)
    assert (rounded.returncode, rounded.stdout[:equal]) == (0, exact.stdout[:equal])
    assert rounded.stderr.split("#")[-1] != exact.stderr.split("#")[-1]  # the logits differ


def test_perplexity_with_a_cache_of_fewer_bits(models: Path) -> None:
    text = models / "expected" / "once_upon_a_time_t0_n256.txt"
    model = [models / "stories260K.bin", "-z", models / "tok512.bin", "--target", "cpu", "--perplexity", text]
    exact, rounded = (run(*model, "--cache", cache).stdout for cache in ("f32", "bf16"))
    values = [float(line.split()[1]) for line in (exact, rounded)]
    assert values[0] != values[1] == pytest.approx(values[0], rel=0.01)

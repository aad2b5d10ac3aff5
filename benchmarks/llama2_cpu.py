#!/usr/bin/env python3
"""Decode speed on the CPU beside llama2.c, on one checkpoint, taken in turns.

    llama2_cpu.py CHECKPOINT -z TOKENIZER [--llama2c PATH_TO_RUN ...] [--repeats 5]

Both run greedily for the same number of steps as whole processes and report their own rate, which leaves the first
step out. `--llama2c` may be given several times, for builds with and without OpenMP say.
"""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path
from statistics import median

RUNNER = Path(__file__).parents[1] / "examples" / "llama2.py"


def main() -> None:
    """Runs all programs in turn and prints minimum, median and maximum of each."""
    parser = argparse.ArgumentParser(description="Compares decode speed with llama2.c.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("-z", "--tokenizer", type=Path, required=True)
    parser.add_argument("--llama2c", type=Path, action="append", default=[])
    parser.add_argument("--steps", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    arguments = [str(options.checkpoint), "-t", "0", "-n", str(options.steps), "-z", str(options.tokenizer)]
    programs = {f"llama2.c ({path})": [str(path), *arguments] for path in options.llama2c}
    for workers in (1, os.cpu_count() or 1):
        label = f"hamkaas ({workers} worker{'s' if workers > 1 else ''})"
        programs[label] = [
            "env",
            f"HAMKAAS_WORKERS={workers}",
            sys.executable,
            str(RUNNER),
            *arguments,
            "--target",
            "cpu",
        ]
    rates: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(options.repeats):
        for name, command in programs.items():
            result = subprocess.run(command, capture_output=True, check=True)
            found = re.search(rb"achieved tok/s: ([\d.]+)|decode \d+: ([\d.]+) tok/s", result.stderr)
            if found is None:
                raise SystemExit(f"{name}: no rate in {result.stderr!r}")
            rates[name].append(float(found[1] or found[2]))
    width = max(map(len, rates))
    print(f"{'tokens/s':<{width}}  {'min':>8} {'median':>8} {'max':>8}")
    for name, values in rates.items():
        print(f"{name:<{width}}  {min(values):8.0f} {median(values):8.0f} {max(values):8.0f}")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""The roofline of decoding: what it could reach if it did nothing but read weights and cache, and what it reaches.

    roofline.py RESULTS.json [MORE.json ...] PLOT.png

The files are those of decode.py --json; `decode.py --plot` draws its own rows. Needs matplotlib.
"""

import json
import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

COLORS = {"f32": "tab:blue", "f16": "tab:orange", "bf16": "tab:green", "i8": "tab:red"}
"""By the precision of the weights."""

PEER_MARKERS = "sD^vPX*"
"""In the order in which peers appear; HamKaas is a circle."""


def draw(rows: list[dict[str, Any]], path: Path, title: str) -> None:
    """One marker for each row that did not fail: bytes that a token reads, tokens/s; the line is the bandwidth."""
    rows = [row for row in rows if "error" not in row]
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xscale="log", yscale="log", xlabel="bytes that a token reads", ylabel="tokens/s", title=title)
    bound = {row["bytes_per_token"]: row["bandwidth_GB_per_second"] for row in rows if "bandwidth_GB_per_second" in row}
    sizes = sorted(bound)
    axes.plot(sizes, [bound[size] * 1e9 / size for size in sizes], color="gray", label="measured bandwidth")
    markers = {"hamkaas": "o"} | dict(
        zip(dict.fromkeys(row["peer"] for row in rows if row["peer"] != "hamkaas"), PEER_MARKERS, strict=False)
    )
    for row in rows:
        color, marker = COLORS[row["weights"]], markers.get(row["peer"], "x")
        axes.plot(row["bytes_per_token"], row["tokens_per_second"], marker, color=color, fillstyle="none")
    for precision in dict.fromkeys(row["weights"] for row in rows):
        axes.plot([], [], "-", linewidth=6, color=COLORS[precision], label=f"{precision} weights")
    for peer in dict.fromkeys(row["peer"] for row in rows):
        axes.plot([], [], markers.get(peer, "x"), color="black", fillstyle="none", label=peer)
    for shape in dict.fromkeys(row["shape"] for row in rows):
        x = max(row["bytes_per_token"] for row in rows if row["shape"] == shape)
        y = max(row["tokens_per_second"] for row in rows if row["shape"] == shape)
        axes.annotate(shape, (x, y), xytext=(6, 6), textcoords="offset points")
    axes.margins(0.1)
    axes.grid(which="both", alpha=0.2)
    axes.legend()
    figure.savefig(path, dpi=150)


def main() -> None:
    """Draws the rows of some files."""
    if len(sys.argv) < 3:
        raise SystemExit("usage: roofline.py RESULTS.json [MORE.json ...] PLOT.png")
    results = [json.loads(Path(name).read_text()) for name in sys.argv[1:-1]]
    rows = [row for result in results for row in result["rows"]]
    draw(rows, Path(sys.argv[-1]), results[0]["device"])


if __name__ == "__main__":
    main()

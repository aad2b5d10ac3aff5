"""What a benchmark says: one line of JSON for each row as it comes, and all of them in a file."""

import json
import shlex
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from device import describe


class Report:
    """Rows of a benchmark. Each is printed at once, and the file is written anew: nothing is lost if time runs out."""

    def __init__(self, target: str, file: Path | None):
        self.rows: list[dict[str, Any]] = []
        self.failed = False
        self._file = file
        about = describe(target)
        self.device = about["device"]
        self._head = {
            **about,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": shlex.join(sys.argv),
        }
        print(json.dumps(self._head), flush=True)

    def add(self, row: dict[str, Any]) -> None:
        """One more row."""
        self.rows.append(row)
        print(json.dumps(row), flush=True)
        if self._file is not None:
            self._file.write_text(json.dumps({**self._head, "rows": self.rows}, indent=1) + "\n")

    def fail(self, why: str, **case: Any) -> None:
        """A row that could not be measured."""
        self.failed = True
        self.add({**case, "error": why})

    def attempt(self, **case: Any) -> "Attempt":
        """What fails in this context becomes a row that says why; what comes after it goes on."""
        return Attempt(self, case)


@dataclass(frozen=True)
class Attempt:
    """See `Report.attempt`."""

    report: Report
    case: dict[str, Any]

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, Exception):
            return False
        why = (str(error).splitlines() or [""])[0]
        self.report.fail(f"{type(error).__name__}: {why}", **self.case)
        return True

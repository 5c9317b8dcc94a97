"""What the tests of faults measured, for docs/reliability.md: one flat object in build/reports/reliability.json."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path

REPORT = Path(__file__).parents[1] / "build" / "reports" / "reliability.json"


def record(fault: str, **numbers: float) -> None:
    """Put numbers of one fault beside those of the others."""
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    with REPORT.open("a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        known = json.loads(file.read() or "{}")
        known |= {f"{fault}_{name}": round(value, 3) for name, value in numbers.items()}
        file.truncate(0)
        file.write(json.dumps(dict(sorted(known.items())), indent=1) + "\n")

"""Every error that Serinus raises on purpose.

    SerinusError
    ├── InvalidInput      what the caller gave is wrong: arguments, data, a request      exit 2
    │   ├── InvalidSpec   serinus.yaml is wrong; carries every problem at once
    │   └── InvalidData   ingested data or a dataset breaks its contract
    ├── NotFound          a model, version, project or file that is named does not exist exit 3
    ├── Conflict          something else holds what is needed: a port, a lease, a name   exit 4
    ├── IntegrityError    bytes do not match the digest they were registered under       exit 5
    └── EngineError       an engine (Feast, MLflow, TorchServe, ...) failed              exit 6

Exit code 1 is kept for an answer that is a plain "no": a candidate refused by the gate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


class SerinusError(Exception):
    """Base of all our errors: what happened, where, and in `hint` what to do about it."""

    exit_code: ClassVar[int] = 70

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class InvalidInput(SerinusError):
    """What the caller gave is wrong."""

    exit_code = 2


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong in a spec: where, what was found, what is allowed."""

    path: str
    found: str
    allowed: str

    def __str__(self) -> str:
        return f"{self.path}: found {self.found}, allowed: {self.allowed}"


class InvalidSpec(InvalidInput):
    """`serinus.yaml` breaks its schema; `problems` holds all of them."""

    def __init__(self, origin: str, problems: list[Problem]) -> None:
        lines = "\n".join(f"  - {problem}" for problem in problems)
        noun = "problem" if len(problems) == 1 else "problems"
        super().__init__(f"{origin} has {len(problems)} {noun}:\n{lines}")
        self.problems = problems


class InvalidData(InvalidInput):
    """Ingested data or a dataset breaks its contract."""


class NotFound(SerinusError):
    """Something that is named does not exist."""

    exit_code = 3


class Conflict(SerinusError):
    """Something else holds what is needed."""

    exit_code = 4


class IntegrityError(SerinusError):
    """Bytes do not match the digest they were registered under."""

    exit_code = 5


class EngineError(SerinusError):
    """An engine failed; the cause is chained."""

    exit_code = 6

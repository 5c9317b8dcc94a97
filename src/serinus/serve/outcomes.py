"""Outcomes as applications report them: checked row by row, on the disk before they are acknowledged.

An outcome that is posted again changes nothing; one with another label is a correction, and the later one holds. Posts
are compared with the newest outcomes, which covers an application that tries again; whoever reads the log compares all
(see `engines.prediction_log`), so a repetition that slips through is stored twice and counts once.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from serinus.core.errors import EngineError, InvalidInput, Problem, SerinusError
from serinus.core.outcomes import OUTCOME_FIELDS, parse_outcome
from serinus.core.prediction import Outcome
from serinus.core.serving import ServingConfig
from serinus.engines.prediction_log import OUTCOMES, outcome_columns
from serinus.serve.log import Segments, epoch, new_writer
from serinus.serve.log_segment import Label

MAXIMUM_ROWS = 10_000
_REMEMBERED = 100_000
_LISTED_ERRORS = 100


@dataclass(slots=True)
class Posted:
    """What became of a post's rows: how many of each kind, and why some are invalid, by row."""

    new: int = 0
    repeated: int = 0
    corrected: int = 0
    errors: dict[int, str] = field(default_factory=dict)

    @property
    def status(self) -> int:
        """HTTP status: 422 where no row was valid."""
        return 200 if self.new or self.repeated or self.corrected else 422

    def content(self) -> dict[str, Any]:
        """The answer's body; of very many errors the first ones are listed."""
        listed = [{"row": row, "error": text} for row, text in list(self.errors.items())[:_LISTED_ERRORS]]
        counts = {"new": self.new, "repeated": self.repeated, "corrected": self.corrected, "invalid": len(self.errors)}
        if self.status != 200:
            return {"error": next(iter(self.errors.values())), **counts, "errors": listed}
        return {**counts, "errors": listed}


class Intake:
    """Takes outcomes for one predictor. Any thread may post."""

    def __init__(self, config: ServingConfig, spool: Path, now: Callable[[], datetime] = lambda: datetime.now(UTC)):
        label = Label(
            stream="outcomes",
            model=config.deployment.model.name,
            version="",
            epoch=epoch(config.metrics_dir),
            writer=new_writer(),
            day="",
            schema_digest="",
        )
        self._totals = dict.fromkeys(("new", "repeated", "corrected", "invalid"), 0)
        self._now = now
        self._segments = Segments(spool, label, config.deployment.log, OUTCOMES)
        self._lock = threading.Lock()
        self._known: dict[bytes, int] = {}

    def post(self, body: bytes) -> Posted:
        """Keep a post's valid rows; they are on the disk when this returns.

        Raises:
            InvalidInput: the body is not a list of rows.
            EngineError: they cannot be kept; nothing of the post is, and it may be sent again.
        """
        rows = _rows(body)
        received = self._now()
        posted = Posted()
        outcomes = []
        for position, row in enumerate(rows):
            try:
                outcomes.append(parse_outcome(row, f"[{position}]", received))
            except InvalidInput as error:
                posted.errors[position] = str(error)
        with self._lock:
            self._keep(outcomes, received, posted)
            self._count(posted)
        return posted

    def counts(self) -> dict[str, int]:
        """Rows posted so far by what became of them."""
        with self._lock:
            return dict(self._totals)

    def close_if_due(self) -> None:
        """Close the segment that has waited long enough, so that it is shipped."""
        with self._lock:
            if self._segments.seconds_left() == 0.0:
                self._segments.close()

    def close(self) -> None:
        with self._lock:
            self._segments.close()

    def _keep(self, outcomes: Sequence[Outcome], received: datetime, posted: Posted) -> None:
        fresh: dict[bytes, int] = {}
        kept = []
        for outcome in outcomes:
            key = _key(outcome)
            before = fresh.get(key, self._known.get(key))
            if before == outcome.label:
                posted.repeated += 1
                continue
            posted.new += before is None
            posted.corrected += before is not None
            fresh[key] = outcome.label
            kept.append(outcome)
        if not kept:
            return
        batch = outcome_columns(kept, received)
        try:
            self._segments.append(batch, received.astimezone(UTC).date().isoformat(), durable=True)
        except OSError as error:
            raise EngineError(
                f"outcomes cannot be kept at present: {error.strerror}", hint="send them again later"
            ) from error
        self._remember(fresh)

    def _remember(self, fresh: dict[bytes, int]) -> None:
        for key, label in fresh.items():
            self._known.pop(key, None)
            self._known[key] = label
        for key in list(self._known)[: max(0, len(self._known) - _REMEMBERED)]:
            del self._known[key]

    def _count(self, posted: Posted) -> None:
        counts = {"new": posted.new, "repeated": posted.repeated, "corrected": posted.corrected}
        for result, rows in (counts | {"invalid": len(posted.errors)}).items():
            self._totals[result] += rows


def _rows(body: bytes) -> list[Any]:
    try:
        rows = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _bad(f"text that is not JSON ({error})") from error
    if not isinstance(rows, list):
        raise _bad("an object" if isinstance(rows, dict) else repr(rows)[:60])
    if not 1 <= len(rows) <= MAXIMUM_ROWS:
        raise _bad(f"{len(rows)} rows")
    return rows


def _bad(found: str) -> SerinusError:
    allowed = f"a list of 1 to {MAXIMUM_ROWS} objects with {', '.join(OUTCOME_FIELDS)}"
    return InvalidInput(str(Problem(path="body", found=found, allowed=allowed)))


def _key(outcome: Outcome) -> bytes:
    kind, name = (b"p", outcome.prediction_id) if outcome.prediction_id is not None else (b"i", outcome.id)
    return hashlib.blake2b(kind + str(name).encode(), digest_size=16).digest()

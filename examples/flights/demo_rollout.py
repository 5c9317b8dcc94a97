"""The demo's second part: a version earns its traffic, and one with a bug that no offline test sees does not.

Both go through the rollout of `serinus.yaml` on real flights of September, by the data's clock: looked at once an hour
of theirs, which is a fraction of a second of ours. What is registered and decided here is put back at the end, so that
the demo shows the same when it is run again.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serinus.cli.place import served
from serinus.core.signature import Signature
from serinus.core.version import CHALLENGER, CHAMPION, RunRecord
from serinus.engines.archive import HANDLER, PROFILE, SIGNATURE, read_archive
from serinus.engines.archive import MODEL as PROGRAM
from serinus.engines.exported import save_exported
from serinus.engines.mlflow import Registry
from serinus.training.package import Parts, package

HERE = Path(__file__).resolve().parent
SINCE = "2013-09-02T12:00:00+00:00"  # where the replay of August ended, and the challenger was trained
UNTIL = "2013-09-20T12:00:00+00:00"
AFTERWARDS = "2013-09-21T12:00:00+00:00"
AFTERWARDS_UNTIL = "2013-09-25T12:00:00+00:00"
MODEL = "flights"
MINUTES_AN_HOUR = 60.0
BUG = "duration-in-hours"

Serinus = Callable[..., dict[str, Any]]
"""Runs a command as a user would, and gives the object that `--json` printed."""


@dataclass(frozen=True)
class Rollout:
    """How one version's rollout ended: `result` is None where it has not."""

    version: int
    result: str | None
    why: str
    requests: int
    answered: int
    page: str


def show(serinus: Serinus, port: str, reports: Path) -> dict[str, Any]:
    """Roll out the challenger, then the version with the bug; gives the figures of both."""
    started = time.monotonic()
    good = _challenger(serinus)
    with _as_before():
        serinus("up", "--as-of", SINCE, "--port", port, "--wait", "600")
        try:
            promoted = _roll_out(serinus, good, (SINCE, UNTIL), reports)
            bad = _register_with_a_bug(good)
            rolled_back = _roll_out(serinus, bad, (AFTERWARDS, AFTERWARDS_UNTIL), reports)
            verified, replayed = serinus("ledger", "verify"), serinus("ledger", "replay")
        finally:
            serinus("down")
    return {
        "rollout_seconds": round(time.monotonic() - started, 1),
        "rollout_promoted": promoted.version if promoted.result == "promoted" else None,
        "rollout_promoted_why": promoted.why,
        "rollout_rolled_back": rolled_back.version if rolled_back.result == "rolled back" else None,
        "rollout_rolled_back_why": rolled_back.why,
        "rollout_requests": [promoted.requests, rolled_back.requests],
        "rollout_answered_by_canary": [promoted.answered, rolled_back.answered],
        "rollout_decisions": verified["entries"],
        "rollout_ledger_whole": verified["broken"] is None and replayed["broken"] is None,
        "rollout_pages": [promoted.page, rolled_back.page],
    }


def _roll_out(serinus: Serinus, version: int, times: tuple[str, str], reports: Path) -> Rollout:
    """Replay flights until the version's rollout has ended, and write a page on it."""
    since, until = times
    folder = reports / f"rollout-{version}"
    page = folder / "rollout.html"
    # 1: a served value differed, which the table tells.
    asked = serinus("replay", "--since", since, "--until", until, "--rollout", "--report", str(folder), accept=(0, 1))
    status = serinus("rollout", "status", "--page", str(page), accept=(0, 1))
    ended = next((each for each in status["ended"] if each["version"] == version), None)
    return Rollout(
        version=version,
        result=ended["result"] if ended else None,
        why=ended["why"] if ended else "; ".join(status["waits"]),
        requests=asked["rows_replayed"],
        answered=asked["rows_by_version"].get(str(version), 0),
        page=str(page),
    )


def _challenger(serinus: Serinus) -> int:
    """The version that the scheduled run of September trained, whatever an interrupted demo left as the challenger."""
    for version in serinus("models")["versions"]:  # the newest first
        if version["lineage"]["pipeline_run"] != BUG and "champion" not in version["aliases"]:
            _registry().set_alias(MODEL, CHALLENGER, version["version"])
            return int(version["version"])
    raise SystemExit("no challenger was registered: there is nothing to roll out")


def _register_with_a_bug(good: int) -> int:
    """Package the challenger's model behind one line that its author added last: he believed that applications send a
    flight's duration in hours. His tests sent hours too, so they passed, and its held-out scores are the real ones."""
    registry = _registry()
    version = registry.get(MODEL, good)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with read_archive(registry.fetch(version, folder), version.digest) as archive:
            archive.extract(folder)
        signature = Signature.model_validate_json((folder / SIGNATURE).read_bytes())
        _take_hours(folder / PROGRAM, signature)
        parts = Parts(folder / PROGRAM, folder / SIGNATURE, folder / PROFILE, folder / HANDLER)
        packaged = package(MODEL, parts, folder / "package")
        lineage = version.lineage.model_copy(update={"pipeline_run": BUG, "code_digest": "by hand"})
        card = "# flights\n\nTakes the duration in hours.\n"
        record = RunRecord(name=MODEL, lineage=lineage, accepted=True, metrics=version.metrics, card=card)
        registered = registry.register(record, packaged.path, packaged.digest)
    registry.set_alias(MODEL, CHALLENGER, registered.version)
    return registered.version


def _take_hours(program: Path, signature: Signature) -> None:
    """Put the line before an exported model."""
    import torch

    place = [column.name for column in signature.numbers].index("duration")
    factors = torch.ones(len(signature.numbers))
    factors[place] = MINUTES_AN_HOUR

    class InHours(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.export.load(program).module()
            self.register_buffer("factors", factors)

        def forward(self, numbers: torch.Tensor, categories: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.inner(numbers * self.factors, categories)
            return logits

    rows = torch.export.Dim("rows", min=1)
    example = (torch.zeros(3, len(signature.numbers)), torch.zeros(3, len(signature.categories), dtype=torch.int64))
    save_exported(torch.export.export(InHours(), example, dynamic_shapes=({0: rows}, {0: rows})), program)


@contextmanager
def _as_before() -> Iterator[None]:
    """Begin with an empty ledger, and give the aliases back at the end."""
    shutil.rmtree(HERE / ".serinus" / "rollout", ignore_errors=True)
    registry = _registry()
    held = {alias: registry.find(MODEL, alias) for alias in (CHAMPION, CHALLENGER)}
    try:
        yield
    finally:
        for alias, version in held.items():
            if version is not None:
                registry.set_alias(MODEL, alias, version.version)


def _registry() -> Registry:
    return served(HERE)[1]

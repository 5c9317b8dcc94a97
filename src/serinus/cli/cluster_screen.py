"""How a model service on a cluster looks on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from serinus.control.status_cluster import ClusterStatus
    from serinus.core.status import Condition


def show(found: ClusterStatus) -> None:
    """Print it."""
    from rich.console import Console

    out = Console(highlight=False)
    status = found.deployment
    place = f"{found.namespace}/{found.deployment_name}"
    if not found.current:
        out.print(f"{place}: the operator has not seen the newest spec yet")
    versions = f"version {status.stable}" if status.stable is not None else "no version yet"
    if status.canary is not None:
        share = f"copies of {status.shadow:g} %" if status.shadow else f"{status.weight or 0:g} %"
        versions += f", canary {status.canary} with {share}"
    out.print(f"[bold]{place}[/bold]: {status.phase or 'starting'}, {versions}")
    _conditions(out, status.conditions)
    for guard in status.evidence:
        out.print(f"  {guard.verdict:9} {guard.text}", markup=False)
    for decision in status.decisions[:5]:
        out.print(f"  {decision.at:%m-%d %H:%M:%S} {decision.action}: {'; '.join(decision.reasons)}", markup=False)
    if found.training is not None:
        _training(out, found)


def _conditions(out: Console, conditions: tuple[Condition, ...]) -> None:
    for each in conditions:
        out.print(f"  {each.type} {each.status}: {each.reason}: {each.message}", markup=False)


def _training(out: Console, found: ClusterStatus) -> None:
    training = found.training
    assert training is not None
    run = training.last_run
    words = f"last run {run.id}: {run.result}, as of {run.as_of:%Y-%m-%d %H:%M}" if run else "no run yet"
    due = f", next at {training.next_run:%Y-%m-%d %H:%M}" if training.next_run else ""
    out.print(f"training: {words}{due}")
    _conditions(out, training.conditions)

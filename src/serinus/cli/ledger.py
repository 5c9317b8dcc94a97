"""Verbs on the ledger of decisions: is it as it was written, does each decision come out again, what does it say."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from serinus.cli.place import platform_of

if TYPE_CHECKING:
    from serinus.core.ledger import Checked, Entry
    from serinus.engines.ledger import Ledger
    from serinus.engines.ledger_sql import SqlLedger

File = Annotated[Path, typer.Option("--file", "-f", help="The spec, or the folder that holds it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]

Deployment = Annotated[
    str | None,
    typer.Option(help="A cluster's ModelDeployment, in the database of SERINUS_PLATFORM.", metavar="NAMESPACE/NAME"),
]
AnyLedger: TypeAlias = "Ledger | SqlLedger"

_SPEC = Path("serinus.yaml")
_BROKEN = 5


def register(app: typer.Typer) -> None:
    """Add this module's verbs."""
    verbs = typer.Typer(help="Every decision about rollouts, with what it was made on.", no_args_is_help=True)
    verbs.command(epilog="Example: serinus ledger verify")(verify)
    verbs.command(epilog="Example: serinus ledger replay --json")(replay)
    verbs.command(epilog="Example: serinus ledger show --last 5")(show)
    app.add_typer(verbs, name="ledger")


def verify(
    file: File = _SPEC,
    holds: Annotated[
        str | None, typer.Option(help="A digest that was noted elsewhere: an entry must have it.", metavar="DIGEST")
    ] = None,
    deployment: Deployment = None,
    as_json: AsJson = False,
) -> None:
    """Check that no entry was changed, added or taken away, and name the first one that was.

    Who can write the ledger can write all of it anew. To find that too, keep the last digest elsewhere now and then,
    and give it to --holds later.

    Exit codes: 3 there is no ledger, 5 it is broken, or does not hold the digest.
    """
    ledger = _ledger(file, deployment)
    with _progress("verify", ledger) as told:
        checked = ledger.verify(told)
    found = holds is None or any(each.digest == holds for each in ledger.entries() if checked.broken is None)
    if as_json:
        _json({**_plain(checked), **({} if holds is None else {"holds": found})})
    else:
        _say(_words(checked, "are as they were written"))
        if not found and checked.broken is None:
            _say(f"none of them has the digest {holds}: the ledger was written anew")
    if checked.broken is not None or not found:
        raise typer.Exit(_BROKEN)


def replay(file: File = _SPEC, deployment: Deployment = None, as_json: AsJson = False) -> None:
    """Make every decision again from its evidence, and name the first one that does not come out as it was written.

    Exit codes: 3 there is no ledger, 5 it is broken, or a decision comes out otherwise.
    """
    ledger = _ledger(file, deployment)
    with _progress("replay", ledger) as told:
        checked = ledger.replay(told)
    if as_json:
        _json(_plain(checked))
    else:
        _say(_words(checked, "come out again as they were decided"))
    if checked.broken is not None:
        raise typer.Exit(_BROKEN)


def show(
    number: Annotated[int | None, typer.Argument(min=1, help="One entry, with its evidence.")] = None,
    last: Annotated[int, typer.Option(min=1, help="Without a number: that many of the newest entries.")] = 10,
    file: File = _SPEC,
    deployment: Deployment = None,
    as_json: AsJson = False,
) -> None:
    """Show decisions with their reasons, or one with all that it was made on.

    Exit codes: 3 there is no ledger or no such entry, 5 an entry is broken.
    """
    ledger = _ledger(file, deployment)
    if number is not None:
        entry = ledger.entry(number)
        _json(_full(entry), None if as_json else 2)
        return
    entries = list(islice(ledger.newest_first(), last))[::-1]
    if as_json:
        _json({"entries": [_full(each) for each in entries]})
    else:
        _show(entries)


def _ledger(file: Path, deployment: str | None) -> AnyLedger:
    from serinus.control.rollout_laptop import RolloutFolder
    from serinus.core.errors import NotFound

    if deployment is not None:
        return _in_database(deployment)
    ledger = RolloutFolder(platform_of(file)).ledger
    if not ledger.path.exists() and ledger.verify().broken is None:
        raise NotFound(f"there is no ledger {ledger.path}", hint="it begins with the first decision about a rollout")
    return ledger


def _in_database(deployment: str) -> SqlLedger:
    from serinus.core.errors import InvalidInput, NotFound
    from serinus.engines.ledger_sql import LedgerDatabase
    from serinus.engines.platformfile import VARIABLE, platform_from_environment

    platform = platform_from_environment()
    if platform is None or platform.ledger_uri is None:
        raise InvalidInput(f"{VARIABLE} names no ledger_uri", hint="it says where a cluster's engines are, as YAML")
    ledger = LedgerDatabase(platform.ledger_uri).ledger(deployment)
    if ledger.head().number == 0:
        raise NotFound(f"there is no ledger of {deployment}", hint="it begins with the first decision about a rollout")
    return ledger


@contextmanager
def _progress(name: str, ledger: AnyLedger) -> Iterator[Callable[[int], None]]:
    """A bar on standard error, where a person is watching."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        task = shown.add_task(name, total=ledger.count())
        yield lambda done: shown.update(task, completed=done)


def _words(checked: Checked, good: str) -> str:
    if checked.broken is not None:
        before = f"; the {checked.entries:,} before it are good" if checked.entries else ""
        return f"entry {checked.broken.number:,} is the first that is wrong: {checked.broken.why}{before}"
    return f"all {checked.entries:,} entries {good}; the last digest is {checked.digest}"


def _plain(checked: Checked) -> dict[str, Any]:
    broken = checked.broken.model_dump() if checked.broken is not None else None
    return {"entries": checked.entries, "digest": checked.digest, "broken": broken}


def _full(entry: Entry) -> dict[str, Any]:
    return entry.model_dump(mode="json", by_alias=True)


def _show(entries: list[Entry]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("entry", "UTC", "decision", "by", "canary", "why", box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for each in entries:
        share = f"{each.shares.weight:g} %" if each.shares.canary is not None else "-"
        share = f"copies {each.shares.shadow:g} %" if each.shares.shadow else share
        why = Text("\n".join(each.reasons))
        table.add_row(str(each.number), f"{each.at:%m-%d %H:%M:%S}", each.action, Text(each.who), share, why)
    Console(highlight=False).print(table)


def _json(value: dict[str, Any], indent: int | None = None) -> None:
    _say(json.dumps(value, indent=indent, ensure_ascii=False))


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")

"""Verbs on rollouts: how the present one stands, what people may ask of it, and the process that decides."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serinus.cli.place import platform_of, served

if TYPE_CHECKING:
    from serinus.control.rollout import Controller
    from serinus.core.rollout import Command, Verb

File = Annotated[Path, typer.Option("--file", "-f", help="The spec, or the folder that holds it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Why = Annotated[str, typer.Option("--why", help="The reason, for the ledger.")]
OnCluster = Annotated[
    bool, typer.Option("--cluster", help="Ask the operator of KUBECONFIG's cluster instead of this machine.")
]
Who = Annotated[str | None, typer.Option("--who", help="Who asks.", show_default="the user's name")]

_SPEC = Path("serinus.yaml")
_ANSWER_SECONDS = 60.0


def register(app: typer.Typer) -> None:
    """Add this module's verbs."""
    verbs = typer.Typer(help="See and steer how a new version earns its traffic.", no_args_is_help=True)
    verbs.command(epilog="Example: serinus rollout status --page build/rollout.html")(status)
    verbs.command(epilog="Example: serinus rollout start 7 --why 'fixed, try again'")(start)
    verbs.command(epilog="Example: serinus rollout approve 100 --why 'looked at the plots'")(approve)
    verbs.command(epilog="Example: serinus rollout pause --why 'sale today'")(pause)
    verbs.command(epilog="Example: serinus rollout resume --why 'sale is over'")(resume)
    verbs.command(epilog="Example: serinus rollout promote --why 'hot fix'")(promote)
    verbs.command(epilog="Example: serinus rollout rollback --why 'customers complain'")(rollback)
    verbs.command(epilog="Example: serinus rollout run")(run)
    app.add_typer(verbs, name="rollout")


def status(
    file: File = _SPEC,
    page: Annotated[Path | None, typer.Option(help="Also write a page with plots to this file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say where the rollout stands: phase, shares, each guard's interval and verdict, the last decisions.

    Exit codes: 0 no rollout or one under way, 1 paused, 3 nothing was decided yet.
    """
    from datetime import UTC, datetime

    from serinus.cli.rollout_screen import show
    from serinus.control.rollout_laptop import RolloutFolder
    from serinus.control.rollout_view import view
    from serinus.control.state import RunFolder
    from serinus.core.errors import NotFound

    ledger = RolloutFolder(platform_of(file)).ledger
    found = view(ledger)
    if found is None:
        raise NotFound("nothing was decided yet", hint="`serinus up` starts deciding where the spec has a rollout")
    if page is not None:
        from serinus.control.rollout_page import write_page

        write_page(page, found, ledger)
    if as_json:
        _json(found.model_dump(mode="json"))
    else:
        # A replay looks by the data's clock, and nobody looks when it is over.
        up = RunFolder(platform_of(file)).read()
        show(found, page, datetime.now(UTC) if up is None or up.as_of is None else found.looked)
    raise typer.Exit(1 if found.paused else 0)


def start(
    version: Annotated[str, typer.Argument(help="Version, or the alias champion or challenger.")],
    why: Why,
    file: File = _SPEC,
    who: Who = None,
    cluster: OnCluster = False,
    as_json: AsJson = False,
) -> None:
    """Roll out a version, even one that was taken back before."""
    from serinus.control.rollout_versions import RegistryVersions
    from serinus.core.errors import InvalidInput
    from serinus.core.rollout import Candidate

    if cluster:
        if not version.isdigit():
            raise InvalidInput(f"{version} is no version's number", hint="the operator looks versions up by number")
        _ask(file, "start", (why, who), as_json, candidate=Candidate(version=int(version), digest=""), cluster=True)
        return
    serving, registry = served(file)
    model = serving.deployment.model
    which = int(version) if version.isdigit() else version
    candidate = RegistryVersions(registry, model).candidate(registry.get(model.name, which))
    _ask(file, "start", (why, who), as_json, candidate=candidate)


def approve(
    weight: Annotated[float, typer.Argument(min=0, max=100, help="The step, by its weight; 100 is the promotion.")],
    why: Why,
    file: File = _SPEC,
    who: Who = None,
    cluster: OnCluster = False,
    as_json: AsJson = False,
) -> None:
    """Approve a step that waits for it."""
    _ask(file, "approve", (why, who), as_json, weight=weight, cluster=cluster)


def pause(why: Why, file: File = _SPEC, who: Who = None, cluster: OnCluster = False, as_json: AsJson = False) -> None:
    """Stop a rollout where it is; what is harmful is taken back all the same."""
    _ask(file, "pause", (why, who), as_json, cluster=cluster)


def resume(why: Why, file: File = _SPEC, who: Who = None, cluster: OnCluster = False, as_json: AsJson = False) -> None:
    """Let a paused rollout go on."""
    _ask(file, "resume", (why, who), as_json, cluster=cluster)


def promote(why: Why, file: File = _SPEC, who: Who = None, cluster: OnCluster = False, as_json: AsJson = False) -> None:
    """Give the canary everything now, without waiting for evidence; a provisional one is confirmed."""
    _ask(file, "promote", (why, who), as_json, cluster=cluster)


def rollback(
    why: Why, file: File = _SPEC, who: Who = None, cluster: OnCluster = False, as_json: AsJson = False
) -> None:
    """Take the canary back now."""
    _ask(file, "rollback", (why, who), as_json, cluster=cluster)


def run(file: File = _SPEC) -> None:
    """Decide about rollouts until told to stop. `serinus up` keeps this running where the spec has a rollout.

    Exit code 4: another process does so already.
    """
    import logging
    import signal
    import threading
    from datetime import UTC, datetime

    from serinus.control.rollout import run as decide_on
    from serinus.control.rollout_laptop import RolloutFolder

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # two lines a look, of what the look asked
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with RolloutFolder(platform_of(file)).lease():
        decide_on(_controller(file), lambda: datetime.now(UTC), stop)


def _ask(
    file: Path, verb: Verb, said: tuple[str, str | None], as_json: bool, *, cluster: bool = False, **details: Any
) -> None:
    """Post a command and say what came of it."""
    import getpass
    from datetime import UTC, datetime
    from uuid import uuid4

    from serinus.control.rollout_laptop import RolloutFolder, answered
    from serinus.core.rollout import Command

    why, who = said
    command = Command(id=uuid4().hex, verb=verb, who=who or getpass.getuser(), why=why, at=datetime.now(UTC), **details)
    if cluster:
        _ask_cluster(file, command, as_json)
        return
    folder = RolloutFolder(platform_of(file))
    folder.commands.post(command)
    entry = answered(folder, command, lambda: _controller(file), _ANSWER_SECONDS)
    if as_json:
        _json({"action": entry.action, "reasons": entry.reasons, "shares": entry.shares.model_dump()})
    else:
        sys.stdout.write(f"{entry.action}: {'; '.join(entry.reasons)}\n")


def _ask_cluster(file: Path, command: Command, as_json: bool) -> None:
    from serinus.control.commands_cluster import AnnotationCommands, answered
    from serinus.engines.kubernetes import connected
    from serinus.engines.specfile import read_service

    metadata = read_service(file).deployment.metadata
    with connected() as there:
        commands = AnnotationCommands(there, metadata.namespace, metadata.name)
        commands.post(command)
        found = answered(commands, command, _ANSWER_SECONDS)
    if as_json:
        _json({"action": found.action, "reasons": found.reasons})
    else:
        sys.stdout.write(f"{found.action}: {'; '.join(found.reasons)}\n")


def _controller(file: Path) -> Controller:
    from serinus.control.rollout_build import controller

    serving, registry = served(file)
    return controller(serving, registry)


def _json(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value, default=str) + "\n")

"""`serinus simulate`: a rollout policy against imagined canaries."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from serinus.control.simulate import Case, Simulated, SimulationReport
    from serinus.core.simulation_traffic import Workload

_PER = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def register(app: typer.Typer) -> None:
    """Add this module's verbs."""
    app.command(epilog="Example: serinus simulate --rate 50/s --label-delay 6h --report simulation")(simulate)


def simulate(
    file: Annotated[Path, typer.Option("--file", "-f", help="The spec, or its folder.")] = Path("serinus.yaml"),
    rate: Annotated[
        str | None,
        typer.Option(help="Requests, such as 50/s, 3000/m or 900/h; measured where the stack is up, else 10/s."),
    ] = None,
    daily: Annotated[float | None, typer.Option(min=0, max=0.99, help="How far hours differ, as a share.")] = None,
    errors: Annotated[float | None, typer.Option(min=0, max=0.99, help="The stable version's share of errors.")] = None,
    p50: Annotated[str | None, typer.Option(help="Its median latency, such as 20ms.")] = None,
    p99: Annotated[str | None, typer.Option(help="Its 99th percentile of latency, such as 80ms.")] = None,
    label_delay: Annotated[
        str | None, typer.Option(help="When outcomes are known; the training's where given.")
    ] = None,
    rollouts: Annotated[int, typer.Option(min=10, max=1_000_000, help="Rollouts a case.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same figures.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    report: Annotated[Path | None, typer.Option(help="Folder for report.html and simulation.json.")] = None,
) -> None:
    """Say what the rollout policy of a spec would do: how often it takes back a healthy canary, how soon a bad one.

    Thousands of rollouts at this service's traffic, judged by the guards that will judge real ones. Warns where the
    policy can never decide. Nothing needs to be up; where a stack is, its metrics say what its traffic is.
    """
    import sys

    from serinus.control.simulate_page import write_page

    options = {"daily": daily, "errors": errors, "latency_median": _seconds(p50), "latency_p99": _seconds(p99)}
    if rate is not None:
        options["rate"] = _rate(rate)
    case, source = _case(file, options, label_delay)
    simulated = _run(case._replace(rollouts=rollouts, seed=seed))
    page = write_page(report, simulated) if report is not None else None
    if as_json:
        sys.stdout.write(simulated.report.model_dump_json(by_alias=True) + "\n")
    else:
        _show(simulated.report, source, page)


def _case(file: Path, options: dict[str, float | None], label_delay: str | None) -> tuple[Case, str]:
    """What to simulate, and where its traffic is known from."""
    from serinus.control.simulate import Case
    from serinus.core.simulation_traffic import Scenario, Workload
    from serinus.core.spec.rollout import Rollout
    from serinus.engines.specfile import read_service

    service = read_service(file)
    delay = _duration("--label-delay", label_delay) if label_delay else service.training.spec.windows.label_delay
    base, source = _traffic(file, Workload(label_delay=delay))
    given = {name: value for name, value in options.items() if value is not None}
    workload = _valid(Workload, {**base.model_dump(), **given})
    policy = service.deployment.spec.rollout or Rollout()
    return Case(policy, workload, Scenario(name="healthy"), 0, 0), "as given" if "rate" in given else source


def _traffic(file: Path, assumed: Workload) -> tuple[Workload, str]:
    """The running stack's traffic, where one is up; what is assumed otherwise."""
    from datetime import UTC, datetime

    from serinus.control.simulate import measured
    from serinus.control.state import RunFolder
    from serinus.core.platform import Platform

    folder = file if file.is_dir() else file.parent
    state = RunFolder(Platform.local(folder.resolve() / ".serinus")).read()
    if state is None:
        return assumed, "assumed; give --rate"
    found = measured(state, datetime.now(UTC), assumed)
    return found, "as measured on the running stack" if found != assumed else "assumed: no requests were counted yet"


def _valid(model: type[Workload], values: dict[str, Any]) -> Workload:
    from pydantic import ValidationError

    from serinus.core.errors import InvalidInput

    try:
        workload = model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidInput(f"the traffic's {first['loc'][0]}: {first['msg']}", hint="see --help") from error
    if not workload.latency_p99 > workload.latency_median:
        raise InvalidInput("the 99th percentile of latency is not above the median", hint="give --p50 and --p99")
    return workload


def _rate(text: str) -> float:
    from serinus.core.errors import InvalidInput

    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(?:/([smhd]))?", text)
    if match is None or not float(match[1]):
        raise InvalidInput(f"--rate {text} is no rate", hint="write 50/s, 3000/m, 900/h or 2000/d")
    return float(match[1]) / _PER[match[2] or "s"]


def _seconds(text: str | None) -> float | None:
    return None if text is None else _duration("a latency", text).total_seconds()


def _duration(what: str, text: str) -> timedelta:
    from serinus.core.errors import InvalidInput
    from serinus.core.times import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise InvalidInput(f"{what}: {text} is not {error}") from error


def _run(case: Case) -> Simulated:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from serinus.control.simulate import simulate_all
    from serinus.core.simulation_summary import default_scenarios

    scenarios = default_scenarios()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"{case.rollouts:,} rollouts a case", total=len(scenarios))
        return simulate_all(case, scenarios, lambda _: bar.advance(task))


def _show(report: SimulationReport, source: str, page: Path | None) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from serinus.control.simulate_page import guards, usual

    console = Console(highlight=False)
    load = report.workload
    title = f"{report.rollouts:,} rollouts a case at {load.rate:.4g} requests/s ({source})"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("case", "caught", "promoted", "open", "requests", "time", "by"):
        table.add_column(column, justify="left" if column in ("case", "by") else "right", no_wrap=column != "by")
    for each in report.scenarios:
        shares = (f"{share:.1%}" for share in (each.caught, each.promoted, each.inconclusive))
        table.add_row(each.scenario, *shares, *usual(each), guards(each, 1))
    console.print(table)
    console.print(
        "requests: that the canary answered until it was caught; time: until it was caught, or promoted and confirmed; "
        "the median, and in brackets what 90 % stay below"
    )
    for warning in report.warnings:
        console.print(f"[bold yellow]![/] {warning}", soft_wrap=True)
    if page is not None:
        console.print(f"Report: {page}", soft_wrap=True)

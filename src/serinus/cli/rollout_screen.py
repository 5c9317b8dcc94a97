"""How a rollout looks on a terminal of 80 columns: a sentence, the guards' intervals, what it waits for, decisions."""

from __future__ import annotations

from datetime import datetime, timedelta
from math import asinh
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from serinus.control.rollout_view import Change, RolloutView, Stage
from serinus.core.guards.reading import Reading
from serinus.core.guards.words import percent, plain, seconds
from serinus.core.times import format_duration

_WIDTH = 25
# How far an axis goes, in halves of the distance between the thresholds.
_REACH = 40
_SHOWN = 8
_LONGEST = 200
# Looks that may be late before somebody should wonder.
_LATE = 3
_STYLES = {"safe": "green", "undecided": "yellow", "harm": "bold red"}


class Signs(NamedTuple):
    """What a bar is drawn with: where encodings allow it, lines."""

    axis: str = "·"
    line: str = "━"
    harm: str = "┃"
    safe: str = "╎"
    left: str = "◂"
    right: str = "▸"


PLAIN = Signs(".", "-", "|", ":", "<", ">")


def show(found: RolloutView, page: Path | None, now: datetime, console: Console | None = None) -> None:
    """Print how the rollout stands."""
    console = console or Console(highlight=False)
    signs = PLAIN if console.options.ascii_only else Signs()
    console.print(Text(f"{found.model}: {found.headline}", style="bold"))
    console.print(Text(_times(found), style="dim"))
    if found.stage is not None and found.phase != "starting":
        console.print(Text(_stage(found.stage), style="dim"))
    if found.canary is not None and now - found.looked > _LATE * timedelta(seconds=found.interval):
        late = format_duration(timedelta(seconds=int((now - found.looked).total_seconds())))
        console.print(Text(f"nobody has looked for {late}: is `serinus up` running?", style="bold red"))
    if found.guards:
        console.print()
        console.print(_guards(found, signs))
        console.print(Text(_legend(found, signs), style="dim"))
    _list(console, "waits for", found.waits)
    _list(console, "how rollouts ended", tuple(_ended(found)))
    console.print(_decisions(found.decisions))
    if page is not None:
        console.print(f"Page: {page}", soft_wrap=True, markup=False)


def bar(reading: Reading, signs: Signs, width: int = _WIDTH) -> str:
    """The interval on an axis that holds the thresholds; an arrow where it goes on, or is not bounded."""
    marks = [each for each in (reading.harm_above, reading.safe_below) if each is not None]
    if not marks or (reading.low is None and reading.high is None):
        return ""
    begin, end = (None if each is None else _cell(each, marks, width) for each in (reading.low, reading.high))
    first = 0 if begin is None else min(max(begin, 0), width - 1)
    last = width - 1 if end is None else min(max(end, 0), width - 1)
    cells = [signs.axis] * width
    cells[first : last + 1] = [signs.line] * (last + 1 - first)
    if begin is None or begin < 0:
        cells[0] = signs.left
    if end is None or end > width - 1:
        cells[-1] = signs.right
    for value, sign in ((reading.safe_below, signs.safe), (reading.harm_above, signs.harm)):
        if value is not None:
            cells[_cell(value, marks, width)] = sign
    return "".join(cells)


def _cell(value: float, marks: list[float], width: int) -> int:
    """Where a value stands: thresholds around the middle, the scale growing outwards, as intervals begin very wide."""
    unit = (max(marks) - min(marks)) / 2 or abs(marks[0]) / 2 or 1.0
    place = asinh((value - sum(marks) / len(marks)) / unit) / asinh(_REACH)
    return round((1 + place) / 2 * (width - 1))


def _guards(found: RolloutView, signs: Signs) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, title=_title(found), title_justify="left")
    table.title_style = "bold"
    table.add_column("guard", no_wrap=True, max_width=14, overflow="ellipsis")
    table.add_column("canary", justify="right", no_wrap=True)
    table.add_column("stable", justify="right", no_wrap=True)
    table.add_column("interval", no_wrap=True, width=_WIDTH)
    table.add_column("verdict", no_wrap=True, overflow="ellipsis")
    for each in found.guards:
        style = _STYLES[each.verdict]
        name = f"{each.guard} *" if each.blocking else each.guard
        values = (_value(each.value, each.unit), _value(each.reference, each.unit))
        table.add_row(name, *values, Text(bar(each, signs), style=style), Text(_verdict(each), style=style))
    return table


def _title(found: RolloutView) -> str:
    given = found.guards_shares
    if given is None or given.canary is None:
        return "Guards"
    what = f"a copy of {given.shadow:g} %" if given.shadow else f"{given.weight:g} % of the requests"
    when = "" if found.current else " (at the end)" if found.canary is None else " (the stage before)"
    return f"Guards, canary at {what}{when}"


def _legend(found: RolloutView, signs: Signs) -> str:
    waiting = "* a step waits until these are safe; " if any(each.blocking for each in found.guards) else ""
    return f"{waiting}wholly left of {signs.safe} is safe, right of {signs.harm} harm"


def _value(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    if unit.startswith("share of"):
        return percent(value)
    return seconds(value) if unit == "seconds" else plain(value)


def _verdict(reading: Reading) -> str:
    """The verdict and, while there is none, how far the evidence is on its way to the nearer one."""
    if reading.verdict != "undecided":
        return reading.verdict
    if not reading.canary and not reading.stable:
        return "no evidence yet"
    if reading.safe_below is None and not reading.safe_evidence:
        return "no harm found"  # all that this guard can say
    word, share = max((("safe", reading.safe_evidence), ("harm", reading.harm_evidence)), key=lambda each: each[1])
    return f"undecided, {word} {min(share, 0.99):.0%}" if share >= 0.01 else "undecided"


def _times(found: RolloutView) -> str:
    began = f"began {_time(found.started)}, " if found.started is not None else ""
    return f"{began}last decision {_time(found.looked)}, entry {found.number:,} of the ledger"


def _stage(stage: Stage) -> str:
    watched = format_duration(timedelta(seconds=int(stage.watched)))
    least, most = (
        format_duration(timedelta(seconds=each)) for each in (stage.minimum_duration, stage.maximum_duration)
    )
    if stage.following is None:
        return f"this stage: watched {watched}, {most} at most"
    following = "everything, to be confirmed" if stage.following == 100 else f"{stage.following:g} %"
    return (
        f"this stage: watched {watched} ({least} to {most}), {stage.requests:,.0f} canary requests "
        f"({stage.minimum_requests:,} at least); next: {following}"
    )


def _ended(found: RolloutView) -> list[str]:
    return [
        f"version {each.version} was {each.result} {_time(each.at)}: {_short(each.why)}" for each in found.ended[:3]
    ]


def _list(console: Console, title: str, lines: tuple[str, ...]) -> None:
    if not lines:
        return
    console.print()
    console.print(Text(title[0].upper() + title[1:], style="bold"))
    for line in lines:
        console.print(Padding(Text(line), (0, 0, 0, 2)))


def _decisions(decisions: tuple[Change, ...]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, title="\nLast decisions", title_justify="left")
    table.title_style = "bold"
    for name in ("UTC", "what", "by"):
        table.add_column(name, no_wrap=True)
    table.add_column("why")
    for each in decisions[:_SHOWN]:
        table.add_row(f"{each.at:%m-%d %H:%M}", each.action, Text(each.who), Text(_short(each.brief)))
    return table


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1].rstrip() + "…"


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"

"""One page on a rollout, without links to anything else: where it stands, its traffic, its guards, its decisions."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import timedelta
from html import escape
from pathlib import Path

from serinus.control import rollout_plots as plots
from serinus.control.rollout_plots import Look
from serinus.control.rollout_view import Change, RolloutView, change, rollout_entries, tells
from serinus.core.guards.reading import Reading
from serinus.core.ledger import Entry
from serinus.core.times import format_duration
from serinus.engines.files import write_text
from serinus.engines.ledger import Ledger
from serinus.training.report import page

_POINTS = 400
_DECISIONS = 500
_STYLE = """
.paused { border-color: #d9730d; background: #fdf6ee; }
.guards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1rem; }
.guard { border: 1px solid #e3e3e3; border-radius: 6px; padding: .6rem .9rem; }
.guard h3 { font-size: 1rem; margin: 0; display: flex; gap: .6rem; align-items: baseline; flex-wrap: wrap; }
.guard p { margin: .3rem 0; font-size: .85rem; color: #444; } .guard figure { margin: .3rem 0 0; }
.word { border-radius: 1rem; padding: 0 .6rem; font-size: .85rem; color: #fff; background: #767676; }
.word.safe { background: #2d8a4e; } .word.harm { background: #c0392b; }
.note { font-weight: 400; font-size: .85rem; color: #666; }
.decisions td { text-align: left; vertical-align: top; } .decisions th { text-align: left; }
.decisions td.when { white-space: nowrap; } summary { cursor: pointer; }
.traffic img { min-width: 36rem; width: 100%; }
ul { margin: .3rem 0; padding-left: 1.2rem; } code { overflow-wrap: anywhere; }
@media (max-width: 40rem) {
  .decisions tr { display: block; border-bottom: 1px solid #e3e3e3; padding: .4rem 0; }
  .decisions td { display: inline-block; border: 0; padding: .1rem .6rem .1rem 0; }
  .decisions tr.head { display: none; }
  .decisions td.why { display: block; }
}
"""


def write_page(path: Path, found: RolloutView, ledger: Ledger) -> None:
    """Write the page on the rollout that `found` is the view of."""
    looks, decisions = _read(ledger, found.number)
    title = f"{found.model}: rollout"
    body = "\n".join(
        (
            f"<h1>{escape(title)}</h1>",
            *_facts(found),
            *_state(found),
            "<h2>Traffic</h2>",
            '<div class="wide traffic">',
            _figure(plots.weights(looks), "percent of the requests that the canary answered, over time"),
            "</div>",
            *_guards(found, looks),
            *_decisions(decisions),
            *_ended(found),
        )
    )
    write_text(path, page(title, body, _STYLE))


def _read(ledger: Ledger, number: int) -> tuple[list[Look], list[Change]]:
    """What to draw, oldest first, and what to tell, newest first."""
    decisions: list[Change] = []

    def looks() -> Iterator[Look]:
        newer: Entry | None = None
        for entry in rollout_entries(ledger, number):
            if newer is not None and tells(newer, entry) and len(decisions) < _DECISIONS:
                decisions.append(change(newer))
            yield Look(entry.at, entry.action, entry.shares, entry.readings)
            newer = entry
        if newer is not None:
            decisions.append(change(newer))

    kept = plots.thinned(looks(), _POINTS)
    return kept[::-1], decisions


def _facts(found: RolloutView) -> Iterator[str]:
    began = f"Began {found.started:%Y-%m-%d %H:%M} UTC. " if found.started is not None else ""
    yield f'<p class="facts">{began}Last decision {found.looked:%Y-%m-%d %H:%M:%S} UTC: entry {found.number:,} of the '
    yield f"ledger, <code>{escape(found.digest)}</code>.</p>"


def _state(found: RolloutView) -> Iterator[str]:
    harmful = found.canary is None and found.ended and found.ended[0].result in ("rolled back", "undone")
    kind = "paused" if found.paused else "refused" if harmful else "passed"
    yield f'<div class="verdict {kind}"><strong>{escape(_sentence(found.headline))}</strong>'
    stage = found.stage
    if stage is not None and found.phase in ("shadow", "step"):
        following = "everything, to be confirmed" if stage.following == 100 else f"{stage.following:g} %"
        yield f"<p>This stage has been watched for {_seconds(stage.watched)} ({_seconds(stage.minimum_duration)} to "
        yield f"{_seconds(stage.maximum_duration)}) and {stage.requests:,.0f} requests of the canary "
        yield f"({stage.minimum_requests:,} at least). Next: {following}.</p>"
    if found.waits:
        yield f"<p>It waits for:</p>{_list(found.waits)}"
    if found.canary is None and found.ended:
        yield f"<p>{escape(found.ended[0].why)}</p>"
    yield "</div>"


def _guards(found: RolloutView, looks: list[Look]) -> Iterator[str]:
    latest = {each.guard: each for look in looks for each in look.readings}
    now = [each for each in found.guards if found.current]
    earlier = [each for name, each in latest.items() if name not in {guard.guard for guard in now}]
    if not latest:
        return
    yield '<h2>Guards</h2><p class="facts">An interval that lies wholly above the red line is harm, one below the '
    yield "green line is safe. With each stage the tests of traffic begin afresh.</p>"
    for title, guards in (("", now), ("As they were last read", earlier)):
        if guards:
            yield f"<h3>{title}</h3>" if title else ""
            yield '<div class="guards">'
            yield from (_guard(each, looks) for each in sorted(guards, key=_urgency))
            yield "</div>"


def _guard(reading: Reading, looks: list[Look]) -> str:
    picture = plots.guard(looks, reading.guard)
    return (
        f'<section class="guard"><h3>{escape(reading.guard)} <span class="word {reading.verdict}">{reading.verdict}'
        f'</span><span class="note">{_role(reading)}</span></h3>'
        f"{_figure(picture, reading.text) if picture else ''}<p>{escape(reading.text)}</p></section>"
    )


def _urgency(reading: Reading) -> tuple[int, bool]:
    return ("harm", "undecided", "safe").index(reading.verdict), not reading.blocking


def _role(reading: Reading) -> str:
    harm = "takes the canary back" if reading.on_harm == "rollback" else "pauses the rollout"
    return f"a step waits until it is safe; harm {harm}" if reading.blocking else f"harm {harm}"


def _decisions(decisions: list[Change]) -> Iterator[str]:
    yield '<h2>Decisions that changed something, or gave new reasons</h2><table class="decisions">'
    yield '<tr class="head"><th>UTC</th><th>decision</th><th>by</th><th>canary</th><th>why</th></tr>'
    for each in decisions:
        share = f"{each.shares.weight:g} %" if each.shares.canary is not None else "none"
        share = f"copies of {each.shares.shadow:g} %" if each.shares.shadow else share
        why = escape(each.brief)
        if each.reasons != (each.brief,):
            why = f"<details><summary>{why}</summary>{_list(each.reasons)}</details>"
        yield f'<tr><td class="when">{each.at:%Y-%m-%d %H:%M:%S}</td><td><strong>{each.action}</strong></td>'
        yield f'<td>{escape(each.who)}</td><td>{share}</td><td class="why">{why}</td></tr>'
    yield "</table>"


def _ended(found: RolloutView) -> Iterator[str]:
    if not found.ended:
        return
    yield '<h2>How rollouts ended</h2><table class="decisions">'
    yield '<tr class="head"><th>UTC</th><th>version</th><th>result</th><th>why</th></tr>'
    for each in found.ended:
        yield f'<tr><td class="when">{each.at:%Y-%m-%d %H:%M:%S}</td><td>version {each.version}</td>'
        yield f'<td><strong>{each.result}</strong></td><td class="why">{escape(each.why)}</td></tr>'
    yield "</table>"


def _figure(svg: str, words: str) -> str:
    data = base64.b64encode(svg.encode()).decode()
    return f'<figure><img alt="{escape(words)}" src="data:image/svg+xml;base64,{data}"></figure>'


def _list(lines: tuple[str, ...]) -> str:
    return "<ul>" + "".join(f"<li>{escape(each)}</li>" for each in lines) + "</ul>"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _seconds(value: float) -> str:
    return format_duration(timedelta(seconds=round(value)))

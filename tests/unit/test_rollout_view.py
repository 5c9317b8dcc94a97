"""How rollouts are shown: the view, the screen of 80 columns, the page; and the verbs on their ledger."""

from __future__ import annotations

import io
import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from serinus.cli import app
from serinus.cli.rollout_screen import PLAIN, Signs, bar, show
from serinus.control import rollout_plots as plots
from serinus.control.rollout_page import write_page
from serinus.control.rollout_view import RolloutView, glance, view
from serinus.core.errors import IntegrityError, NotFound
from serinus.core.guards.reading import Reading
from serinus.core.rollout import Shares
from serinus.core.spec.rollout import Pace, Rollout, Shadow
from serinus.engines.ledger import Ledger
from tests.support_ledger import BAD, Recorded, recorded
from tests.support_rollout import MINUTE, START, labelled

PACE = Pace(minimum_duration=2 * MINUTE, minimum_requests=50)


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """A rollout that has come as far as its confirmation, which waits for outcomes."""
    policy = Rollout(steps=[30], pace=PACE, shadow=Shadow(), approvals=[100])
    one = recorded(tmp_path_factory.mktemp("healthy"), policy, rate=3000)
    one.until("advance")
    one.until("advance")
    while "waits for `serinus rollout approve 100`" not in one.minute().reasons[0]:
        assert one.world.state.watched < timedelta(hours=3)
    one.ask("approve", "looked at it", weight=100.0)
    one.until("promote")
    one.minutes(2)
    return one


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """One that errs, was paused for a while, and was rolled back."""
    folder = tmp_path_factory.mktemp("bad") / ".serinus" / "rollout"
    one = recorded(folder, Rollout(pace=PACE), canary=BAD)
    one.minutes(4)
    one.ask("pause", "lunch <now>")
    one.minutes(2)
    one.ask("resume", "back")
    one.until("rollback")
    return one


def seen(one: Recorded) -> RolloutView:
    found = view(one.ledger)
    assert found is not None
    return found


def screen(found: RolloutView, width: int = 80, encoding: str = "utf-8", late: timedelta = MINUTE) -> str:
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding=encoding) as file:
        show(found, None, found.looked + late, Console(file=file, width=width, highlight=False))
        file.flush()
        return raw.getvalue().decode(encoding)


def serinus(one: Recorded, *arguments: str) -> Result:
    return CliRunner().invoke(app(), [*arguments, "--file", str(one.ledger.path.parents[2])])


def test_before_any_decision_there_is_nothing_to_see(tmp_path: Path) -> None:
    assert view(Ledger(tmp_path)) is None
    assert glance(Ledger(tmp_path)) is None
    assert list(tmp_path.iterdir()) == []


def test_a_stable_version_without_a_rollout(tmp_path: Path) -> None:
    one = recorded(tmp_path, target=recorded(tmp_path).world.target.model_copy(update={"version": 1}))
    one.minutes(2)
    found = seen(one)
    assert found.headline == "version 1 is stable, and there was no rollout yet"
    assert (found.guards, found.waits, found.stage, found.started) == ((), (), None, None)
    assert [each.action for each in found.decisions] == ["adopt"]
    assert "Guards" not in screen(found)
    write_page(tmp_path / "page.html", found, one.ledger)


def test_a_rollout_under_way(healthy: Recorded) -> None:
    found = seen(healthy)
    assert found.headline == "version 2 answers all requests until outcomes confirm it, version 1 is kept warm"
    assert (found.phase, found.stable, found.canary) == ("provisional", 1, 2)
    assert found.shares == Shares(stable=1, canary=2, weight=100)
    assert found.current
    assert [each.guard for each in found.guards] == ["quality", "estimate"]
    assert found.waits[0] == "version 2 is to be confirmed: 0 of 1,000 outcomes are known"
    assert found.started == START + MINUTE
    assert [each.action for each in found.decisions if each.action != "hold"][:3] == ["promote", "approve", "advance"]
    assert json.loads(found.model_dump_json())["headline"] == found.headline


def test_a_view_equals_what_was_written(bad: Recorded) -> None:
    found, state = seen(bad), bad.world.state
    head = bad.ledger.seen()
    assert (found.number, found.digest, found.looked) == (head.number, head.digest, bad.world.now)
    assert found.ended == state.ended
    assert found.headline == f"version 1 is stable, version 2 was rolled back {bad.world.now:%Y-%m-%d %H:%M} UTC"
    assert found.headline == glance(bad.ledger).headline  # type: ignore[union-attr]
    errors = next(each for each in found.guards if each.guard == "errors")
    assert errors.verdict == "harm"
    assert found.guards == bad.world.decisions[-1].readings
    assert found.guards_shares == Shares(stable=1, canary=2, weight=5)
    assert not found.current


def test_decisions_are_told_when_something_changed(bad: Recorded) -> None:
    found = seen(bad)
    actions = [each.action for each in found.decisions]
    assert actions[0] == "rollback"
    assert [each for each in actions if each != "hold"] == ["rollback", "resume", "pause", "advance", "start"]
    assert len(actions) < len(bad.world.decisions), "looks that only found other figures are not told"
    paused = next(each for each in found.decisions if each.action == "pause")
    assert (paused.who, paused.reasons) == ("ana", ("ana: lunch <now>",))
    assert re.fullmatch(r"errors: .* of .* requests against .*: harm", found.decisions[0].brief)
    holds = [each.brief for each in found.decisions if each.action == "hold"]
    assert any("paused by ana" in each for each in holds)
    assert any("undecided: errors" in each for each in holds)


def test_a_paused_rollout_says_so(tmp_path: Path) -> None:
    one = recorded(tmp_path)
    one.minutes(3)
    one.ask("pause", "sale today", who="ben")
    found = seen(one)
    assert found.paused is not None
    assert found.headline.endswith(f"; paused by ben since {one.world.now:%Y-%m-%d %H:%M} UTC: sale today")
    assert found.waits == ("the next look, within 1m",)
    one.minute()
    assert seen(one).waits == (f"paused by ben since {found.looked:%Y-%m-%d %H:%M} UTC: sale today",)


def test_only_the_end_of_a_long_ledger_is_read(tmp_path: Path) -> None:
    one = recorded(tmp_path, Rollout(pace=PACE), canary=BAD)
    one.until("rollback")
    before = one.ledger.path.read_bytes().splitlines(keepends=True)
    one.ask("start", "again", candidate=one.world.target)
    one.minutes(3)
    assert [each.action for each in seen(one).decisions][-1] == "start"
    lines = one.ledger.path.read_bytes()
    one.ledger.path.write_bytes(b"#" * len(b"".join(before[:-1])) + b"\n" + lines[len(b"".join(before[:-1])) :])
    assert seen(one).phase == "step", "what lies before the rollout is not looked at"


def test_a_broken_ledger_is_not_shown(tmp_path: Path) -> None:
    one = recorded(tmp_path)
    one.minutes(3)
    lines = one.ledger.path.read_bytes()
    one.ledger.path.write_bytes(lines.replace(b'"action":"advance"', b'"action":"confirm"'))
    with pytest.raises(IntegrityError, match="ledger verify"):
        view(one.ledger)
    one.ledger.path.write_bytes(lines[:-3] + b"0}\n")
    with pytest.raises(IntegrityError):
        glance(one.ledger)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_the_screen_fits_80_columns(healthy: Recorded, bad: Recorded, encoding: str) -> None:
    for one in (healthy, bad):
        text = screen(seen(one), encoding=encoding)
        assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
        assert "flights: version" in text
        assert "Last decisions" in text
        assert "nobody has looked" not in text


def test_the_screen_says_what_matters(bad: Recorded) -> None:
    text = screen(seen(bad))
    assert re.search(r"errors \* +[0-9.]+ % +[0-9.]+ % ·+┃.*harm", text)
    assert re.search(r"sample-ratio .* no harm found", text)
    assert re.search(r"quality +- +- +no evidence yet", text)
    assert "rollback" in text
    assert "ana: lunch <now>" in text, "what people say is no markup"


def test_the_screen_wonders_where_the_looks_are(tmp_path: Path) -> None:
    one = recorded(tmp_path)
    one.minutes(3)
    assert "nobody has looked for 2h" in screen(seen(one), late=timedelta(hours=2))
    assert "nobody has looked" not in screen(seen(one), late=2 * MINUTE)


def reading(low: float | None, high: float | None, **more: object) -> Reading:
    values = {"guard": "g", "verdict": "undecided", "blocking": True, "unit": "share of rows", "text": "t"}
    return Reading.model_validate({**values, "low": low, "high": high, "harm_above": 0, "safe_below": 0.01, **more})


@pytest.mark.parametrize(
    ("low", "high", "drawn"),
    [
        (-0.002, 0.002, ".......-|-..:........"),
        (0.012, 0.03, "........|...:---....."),
        (-0.03, -0.012, "....---.|...:........"),
        (-9, 9, "<-------|---:------->"),
        (None, 0.005, "<-------|--.:........"),
        (0.005, None, "........|.--:------->"),
    ],
)
def test_a_bar_shows_the_interval_between_thresholds(low: float | None, high: float | None, drawn: str) -> None:
    assert bar(reading(low, high), PLAIN, 21) == drawn


def test_a_bar_of_nothing_is_empty_and_every_bar_has_its_width() -> None:
    assert bar(reading(None, None), Signs()) == ""
    assert bar(reading(0, 1, harm_above=None, safe_below=None), Signs()) == ""
    for marks in ({"harm_above": 0}, {"safe_below": None}, {"harm_above": 0.01}, {"harm_above": 0.02}):
        for low, high in ((-1e9, 1e9), (0, 0), (0.01, 0.02), (5, 6), (-6, -5)):
            assert len(bar(reading(low, high, **marks), Signs(), 25)) == 25


def test_the_page_stands_alone_and_tells_everything(healthy: Recorded, bad: Recorded, tmp_path: Path) -> None:
    for name, one in (("healthy", healthy), ("bad", bad)):
        found = seen(one)
        write_page(tmp_path / f"{name}.html", found, one.ledger)
        text = (tmp_path / f"{name}.html").read_text(encoding="utf-8")
        assert re.findall(r'(?:src|href)="(?!data:)', text) == []
        assert "<script" not in text
        for each in ("errors", "slow", "features", "predictions", "latency", "sample-ratio"):
            assert f"<h3>{each} <span" in text, "guards of earlier stages, too"
        assert found.digest in text
        for each in found.decisions:
            assert f"{each.at:%Y-%m-%d %H:%M:%S}" in text
    assert "lunch &lt;now&gt;" in text
    assert "<now>" not in text


def test_the_page_is_the_same_again(bad: Recorded, tmp_path: Path) -> None:
    pages = []
    for name in ("one", "two"):
        write_page(tmp_path / name, seen(bad), bad.ledger)
        pages.append(re.sub(r"base64,[^\"]*", "", (tmp_path / name).read_text(encoding="utf-8")))
    assert pages[0] == pages[1]


def test_pictures_take_few_points_of_many_looks() -> None:
    shares = Shares(stable=1, canary=2, weight=5)
    looks = [plots.Look(START + n * MINUTE, "pause" if n == 4321 else "hold", shares, ()) for n in range(10_000)]
    kept = plots.thinned(iter(looks), 100)
    assert 100 <= len(kept) <= 200
    assert any(each.action == "pause" for each in kept)
    assert kept[0] == looks[0]
    assert [each.at for each in kept] == sorted(each.at for each in kept)


def test_a_picture_needs_evidence(bad: Recorded) -> None:
    looks = [plots.Look(each.at, each.action, each.shares, each.readings) for each in bad.world.decisions]
    assert plots.guard(looks, "quality") is None
    picture = plots.guard(looks, "errors")
    assert picture is not None
    assert picture.startswith("<?xml")


def test_outcomes_confirm_and_the_view_follows(tmp_path: Path) -> None:
    policy = Rollout(steps=[50], pace=PACE)
    one = recorded(tmp_path, policy, rate=3000)
    one.until("advance")
    one.ask("promote", "hot fix")
    one.world.quality = labelled(5000, -0.01)
    one.until("confirm", most=5)
    found = seen(one)
    assert found.headline == f"version 2 is stable since {one.world.now:%Y-%m-%d %H:%M} UTC"
    assert found.stage is None
    assert "promoted" in screen(found)


def test_verbs_on_a_good_ledger(bad: Recorded) -> None:
    head = bad.ledger.seen()
    told = serinus(bad, "ledger", "verify")
    assert (told.exit_code, told.stdout) == (
        0,
        f"all {head.number} entries are as they were written; the last digest is {head.digest}\n",
    )
    found = serinus(bad, "ledger", "replay", "--json")
    assert found.exit_code == 0
    assert json.loads(found.stdout) == {"entries": head.number, "digest": head.digest, "broken": None}
    shown = json.loads(serinus(bad, "ledger", "show", "--last", "3", "--json").stdout)["entries"]
    assert [each["number"] for each in shown] == [head.number - 2, head.number - 1, head.number]
    whole = json.loads(serinus(bad, "ledger", "show", "2").stdout)
    assert (whole["number"], whole["action"]) == (2, "start")
    assert "rollback" in serinus(bad, "ledger", "show").stdout


def test_a_digest_kept_elsewhere(bad: Recorded) -> None:
    noted = bad.ledger.entry(5).digest
    assert serinus(bad, "ledger", "verify", "--holds", noted).exit_code == 0
    other = serinus(bad, "ledger", "verify", "--holds", noted[:-1] + "x", "--json")
    assert (other.exit_code, json.loads(other.stdout)["holds"]) == (5, False)


def test_verbs_on_a_broken_ledger(bad: Recorded, tmp_path: Path) -> None:
    one = Recorded(bad.world, Ledger(tmp_path / ".serinus" / "rollout"))
    one.ledger.path.parent.mkdir(parents=True)
    one.ledger.path.write_bytes(bad.ledger.path.read_bytes().replace(b"lunch", b"munch", 1))
    number = next(each.number for each in bad.ledger.entries() if each.action == "pause")
    for verb in ("verify", "replay"):
        told = serinus(one, "ledger", verb)
        assert told.exit_code == 5
        assert told.stdout.startswith(f"entry {number} is the first that is wrong: it was changed")
        found = serinus(one, "ledger", verb, "--json")
        assert (found.exit_code, json.loads(found.stdout)["broken"]["number"]) == (5, number)


def test_verbs_without_a_ledger(tmp_path: Path) -> None:
    one = recorded(tmp_path / ".serinus" / "rollout")
    for verb in ("verify", "replay", "show"):
        assert isinstance(serinus(one, "ledger", verb).exception, NotFound)


def test_the_status_verb(bad: Recorded, healthy: Recorded, tmp_path: Path) -> None:
    told = serinus(bad, "rollout", "status", "--page", str(tmp_path / "page.html"))
    assert told.exit_code == 0
    assert "version 2 was rolled back" in told.stdout
    assert (tmp_path / "page.html").exists()
    found = json.loads(serinus(bad, "rollout", "status", "--json").stdout)
    assert RolloutView.model_validate(found) == seen(bad)


def test_the_status_of_the_stack_has_a_line_on_the_rollout(bad: Recorded, capsys: pytest.CaptureFixture[str]) -> None:
    from serinus.cli.serving import _show
    from serinus.control.status import Status

    line = glance(bad.ledger)
    assert line is not None
    found = Status(condition="healthy", address="here", model="flights", version=1, rollout=line)
    _show(found)
    assert f"\nrollout: {line.headline}\n" in capsys.readouterr().out
    assert json.loads(found.model_dump_json())["rollout"]["headline"] == line.headline


def test_who_looks_on_sees_whole_rollouts_and_disturbs_nothing(tmp_path: Path) -> None:
    one = recorded(tmp_path, Rollout(pace=PACE), canary=BAD)
    stop, numbers = threading.Event(), []

    def watch() -> None:
        while not stop.is_set():
            found = view(one.ledger)
            numbers.append(found.number if found is not None else 0)

    with ThreadPoolExecutor() as pool:
        watching = [pool.submit(watch) for _ in range(2)]
        try:
            one.until("rollback")
        finally:
            stop.set()
        for each in watching:
            each.result()
    assert len(set(numbers)) > 2
    assert one.ledger.replay().broken is None
    assert not one.ledger.path.with_name("ledger.torn").exists()

"""Evidence on quality from a real log: the worse version is found, and what is not whole is no evidence."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from serinus.core.evidence import LossSums, QualityEvidence
from serinus.core.quality import differences, losses, sum_up, together
from serinus.core.signature import Column, Signature
from serinus.core.spec.log import PredictionLog
from serinus.core.spec.rollout import Quality
from serinus.core.times import Interval
from serinus.engines.prediction_log import join, read_outcomes, read_predictions
from tests.support_quality import AS_OF, BEGAN, CANARY, NAME, STABLE, TINY, Columns, LogSite, draw

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
ROWS = 2000


@pytest.fixture
def site(tmp_path: Path) -> Iterator[LogSite]:
    found = LogSite(tmp_path)
    yield found
    found.close()


def picked(columns: Columns, rows: np.ndarray) -> Columns:
    return {name: values[rows] for name, values in columns.items()}


def traffic(
    site: LogSite, since: datetime = BEGAN, share: float = 0.01, seed: int = 1, rows: int = ROWS
) -> list[tuple[str, int]]:
    """Requests over an hour in four segments a version, a share of them to the canary; gives ids and outcomes."""
    columns, labels = draw(rows, seed)
    callers = [f"c{seed}-{row}" for row in range(rows)]
    to_canary = np.random.default_rng(seed).random(rows) < share
    part = np.arange(rows) * 4 // rows
    for quarter in range(4):
        for version, own in ((CANARY, to_canary), (STABLE, ~to_canary)):
            held = np.flatnonzero(own & (part == quarter))
            if len(held):
                at = since + (15 * quarter + 1) * MINUTE
                site.serve(at, version, (picked(columns, held), [callers[row] for row in held]))
    return list(zip(callers, labels.tolist(), strict=True))


def by_hand(site: LogSite, now: datetime) -> LossSums:
    """The paired sums by the plain readers of the log and both models."""
    table = read_predictions(site.store, NAME, Interval(since=BEGAN, until=now))
    rows = join(table, read_outcomes(site.store, NAME, known_by=now))
    given = {name: rows[name].to_numpy() for name in (column.name for column in TINY.columns)}
    ours, theirs = (site.models[version].probabilities(*TINY.encode(given)) for version in (CANARY, STABLE))
    return sum_up(differences(rows["label"].to_numpy(), ours, theirs, "log_loss"))


def sure(sums: LossSums) -> float:
    """The mean in standard errors."""
    mean = sums.total / sums.rows
    return float(mean / np.sqrt((sums.squares / sums.rows - mean**2) / sums.rows))


def test_the_worse_version_is_found_by_all_traffic_at_one_percent(site: LogSite) -> None:
    source = site.source()
    first = site.evidence(source, BEGAN)
    assert first == QualityEvidence(at=BEGAN, metric="log_loss")
    outcomes = traffic(site)
    site.report(BEGAN + HOUR, outcomes)
    site.ship()
    found = site.evidence(source, BEGAN + 2 * HOUR)
    assert found.missing == ()
    assert found.labelled.rows == ROWS
    assert sure(found.labelled) > 4
    assert found.labelled == by_hand(site, BEGAN + 2 * HOUR)
    (arms,) = found.arms
    assert (arms.since, arms.until) == (BEGAN, BEGAN + HOUR)
    assert 5 < arms.canary.rows < 60
    assert arms.canary.rows + arms.stable.rows == ROWS
    swapped = source.evidence(site.versions[STABLE], site.versions[CANARY], BEGAN, BEGAN + 2 * HOUR)
    assert (swapped.labelled.total, swapped.labelled.squares) == (-found.labelled.total, found.labelled.squares)
    assert (swapped.arms[0].canary, swapped.arms[0].stable) == (arms.stable, arms.canary)


def test_arms_are_the_losses_of_the_answers_that_were_given(site: LogSite) -> None:
    source = site.source(quality=Quality(predictions_change_outcomes=True, metric="brier"))
    outcomes = traffic(site, share=0.5)
    site.report(BEGAN + HOUR, outcomes)
    site.ship()
    found = site.evidence(source, BEGAN + 2 * HOUR)
    assert (found.labelled, found.estimated, found.missing) == (LossSums(), LossSums(), ())
    rows = join(
        read_predictions(site.store, NAME, Interval(since=BEGAN, until=BEGAN + HOUR)), read_outcomes(site.store, NAME)
    )
    lost = losses(rows["label"].to_numpy(), rows["probability"].to_numpy(), "brier")
    version = rows["version"].to_numpy()
    (arms,) = found.arms
    assert (arms.canary, arms.stable) == (sum_up(lost[version == CANARY]), sum_up(lost[version == STABLE]))
    assert arms.canary.total / arms.canary.rows > arms.stable.total / arms.stable.rows


def test_looks_take_in_what_is_new_and_come_to_what_one_look_at_the_end_comes_to(site: LogSite) -> None:
    source = site.source()
    for hour in range(4):
        outcomes = traffic(site, BEGAN + hour * HOUR, seed=hour, rows=400)
        site.report(BEGAN + (hour + 0.9) * HOUR, outcomes[:250])
        site.ship()
        now = BEGAN + (hour + 1) * HOUR
        found = site.evidence(source, now)
        assert found == site.evidence(source, now)
        assert (found.labelled.rows, found.labelled) == ((hour + 1) * 250 + hour * 150, by_hand(site, now))
        site.report(now + 5 * MINUTE, outcomes[250:])  # the rest comes later
    site.ship()
    now = BEGAN + 6 * HOUR
    found = site.evidence(source, now)
    assert found.labelled.rows == 1600
    assert [each.since for each in found.arms] == [BEGAN + hour * HOUR for hour in range(5)]
    # After a crash: from what was kept; with nothing kept; with half of it damaged.
    assert site.evidence(site.source(), now) == found
    assert site.evidence(site.source("elsewhere"), now) == found
    kept = sorted((site.folder / "quality").rglob("*.parquet"))
    assert [path.name for path in kept] == sorted(
        path.name for path in (site.folder / "store/predictions").rglob("*.parquet")
    )
    for path in kept[::2]:
        path.write_bytes(path.read_bytes()[:100])
    assert site.evidence(site.source(), now) == found
    assert all(path.stat().st_size > 100 for path in kept)


def test_segments_are_scored_once(site: LogSite) -> None:
    traffic(site, rows=400)
    site.ship()
    source = site.source()
    found = site.evidence(source, BEGAN + HOUR)
    for path in (site.folder / "store").rglob("date=*/**/*.parquet"):
        path.write_bytes(b"nobody reads this again")
    again = site.evidence(source, BEGAN + HOUR)
    assert again == found


def test_corrected_outcomes_count_as_corrected_but_a_closed_stretch_stays(site: LogSite) -> None:
    source = site.source()
    outcomes = traffic(site, share=0.5, rows=400)
    site.report(BEGAN + HOUR, outcomes)
    site.ship()
    now = BEGAN + 2 * HOUR
    before = site.evidence(source, now)
    site.report(now, [(name, 1 - label) for name, label in outcomes[:40]])
    site.ship()
    after = site.evidence(source, now + MINUTE)
    assert after.labelled.rows == 400
    assert after.labelled != before.labelled
    assert after.labelled == by_hand(site, now + MINUTE)
    assert after.arms[:1] == before.arms
    assert site.evidence(site.source("elsewhere"), now + MINUTE) == after
    site.report(now + HOUR, outcomes[:40])
    site.ship()
    assert site.evidence(source, now + HOUR).labelled == before.labelled


def test_outcomes_known_later_are_not_looked_at_before(site: LogSite) -> None:
    ids = site.serve(BEGAN + MINUTE, STABLE, (draw(20, 1)[0], [None] * 20))
    site.report(BEGAN + 3 * HOUR, [(name, 1) for name in ids[:5]], by="prediction_id")
    site.ship()
    source = site.source()
    assert site.evidence(source, BEGAN + 2 * HOUR).labelled.rows == 0
    assert site.evidence(source, BEGAN + 4 * HOUR).labelled.rows == 5


def test_whole_cohorts_wait_until_every_outcome_is_due(site: LogSite) -> None:
    outcomes = traffic(site, rows=400)
    site.report(BEGAN + HOUR, outcomes)
    site.ship()
    source = site.source(whole_cohorts=True, label_delay=2 * HOUR)
    found = [site.evidence(source, BEGAN + hours * HOUR).labelled.rows for hours in (1, 2, 2.5, 3)]
    assert found == [0, 0, 200, 400]
    assert site.evidence(site.source(label_delay=2 * HOUR), BEGAN + HOUR).labelled.rows == 400


def test_copies_and_repeated_requests_tell_nothing_new(site: LogSite) -> None:
    columns, labels = draw(100, 1)
    callers = [f"c{row}" for row in range(100)]
    site.serve(BEGAN + 20 * MINUTE, CANARY, (columns, callers))  # the application asks again
    site.serve(BEGAN + 5 * MINUTE, CANARY, (columns, callers), shadow=True)
    site.ship()
    source = site.source()
    assert site.evidence(source, BEGAN + HOUR).missing == ()
    site.report(BEGAN + HOUR, list(zip(callers, labels.tolist(), strict=True)))
    site.serve(BEGAN + 10 * MINUTE, STABLE, (columns, callers))  # the first to be served comes last
    site.ship()
    found = site.evidence(source, BEGAN + 2 * HOUR)
    assert (found.labelled.rows, found.missing) == (100, ())
    assert (found.arms[0].canary.rows, found.arms[0].stable.rows) == (0, 100)
    assert found == site.evidence(site.source("elsewhere"), BEGAN + 2 * HOUR)
    # The same segment, restored a second time.
    (path,) = (site.folder / "store").rglob("version=1/*.parquet")
    other = path.parents[3] / "date=2024-05-03" / f"model={NAME}" / "version=1" / path.name
    other.parent.mkdir(parents=True)
    other.write_bytes(path.read_bytes())
    assert site.evidence(site.source("third"), BEGAN + 2 * HOUR) == found


def past_traffic(site: LogSite, rows: int, at: datetime = BEGAN - 5 * HOUR) -> None:
    columns, labels = draw(rows, 77)
    callers = [f"past-{row}" for row in range(rows)]
    site.serve(at, STABLE, (columns, callers))
    site.report(at + HOUR, list(zip(callers, labels.tolist(), strict=True)))


def test_the_worse_version_is_expected_before_any_outcome_is_known(site: LogSite) -> None:
    past_traffic(site, 3000)
    source = site.source()
    outcomes = traffic(site)
    site.ship()
    assert site.evidence(source, BEGAN + MINUTE / 2).estimated == LossSums()
    found = site.evidence(source, BEGAN + HOUR)
    assert (found.labelled.rows, found.estimated.rows, found.missing) == (0, ROWS, ())
    assert sure(found.estimated) > 4
    assert site.evidence(site.source(), BEGAN + HOUR) == found
    assert site.evidence(site.source("elsewhere"), BEGAN + HOUR) == found
    site.report(BEGAN + HOUR, outcomes)
    site.ship()
    later = site.evidence(source, BEGAN + 2 * HOUR)
    # What is known since does not move the estimate, and outcomes bear it out.
    assert later.estimated == found.estimated == site.evidence(site.source("third"), BEGAN + 2 * HOUR).estimated
    mean = later.labelled.total / ROWS
    assert found.estimated.total / ROWS == pytest.approx(mean, abs=0.5 * mean)
    assert site.evidence(site.source("fourth", quality=Quality(estimated=False)), BEGAN + HOUR).estimated.rows == 0


@pytest.mark.parametrize(
    ("rows", "at", "holdout"),
    [
        (900, BEGAN - 5 * HOUR, None),  # too few
        (1500, AS_OF - HOUR, None),  # the versions may have been fitted on them
        (1500, AS_OF - 24 * HOUR, timedelta(hours=10)),
        (1500, BEGAN - HOUR / 2, None),  # outcomes came after the rollout began
    ],
)
def test_without_enough_of_the_past_nothing_is_expected(
    site: LogSite, rows: int, at: datetime, holdout: timedelta | None
) -> None:
    past_traffic(site, rows, at)
    traffic(site, rows=400)
    site.ship()
    found = site.evidence(site.source(holdout=holdout), BEGAN + HOUR)
    assert (found.estimated, found.missing) == (LossSums(), ())


def test_the_held_out_period_may_calibrate(site: LogSite) -> None:
    past_traffic(site, 1500, AS_OF - 5 * HOUR)
    traffic(site, rows=400)
    site.ship()
    assert site.evidence(site.source(holdout=10 * HOUR), BEGAN + HOUR).estimated.rows == 400


def test_rows_lost_on_the_way_are_missing(site: LogSite) -> None:
    source = site.source()
    assert site.evidence(source, BEGAN).missing == ()
    traffic(site, rows=400)
    lost = sorted((site.folder / "spool" / "predictions").glob("*.arrows"))[0]
    rows = int(lost.stem.rpartition("-")[2])
    lost.unlink()
    site.ship()
    found = site.evidence(source, BEGAN + HOUR)
    assert found.missing == (f"{rows} of 400 answered rows never came to the prediction log",)
    assert found.labelled.rows == 0


def test_a_segment_that_is_gone_from_the_destination_is_missing(site: LogSite) -> None:
    source = site.source()
    assert site.evidence(source, BEGAN).missing == ()
    outcomes = traffic(site, rows=400)
    site.report(BEGAN + HOUR, outcomes)
    site.ship()
    assert site.evidence(source, BEGAN + HOUR).missing == ()
    gone = sorted((site.folder / "store" / "predictions").rglob("version=1/*.parquet"))[0]
    gone.unlink()
    for each in (source, site.source()):
        (words,) = site.evidence(each, BEGAN + 2 * HOUR).missing
        assert "not at the prediction log's destination" in words


def test_rows_that_are_not_shipped_in_time_are_missing_until_they_are(site: LogSite) -> None:
    source = site.source()
    assert site.evidence(source, BEGAN).missing == ()
    outcomes = traffic(site, rows=400)
    assert site.evidence(source, BEGAN + HOUR).missing == ()
    late = site.evidence(source, BEGAN + HOUR + 2 * MINUTE)
    assert late.missing == ("400 rows have waited for more than 60 s to be shipped",)
    site.report(BEGAN + HOUR, outcomes)
    site.ship()
    found = site.evidence(source, BEGAN + HOUR + 3 * MINUTE)
    assert (found.missing, found.labelled.rows) == ((), 400)


def test_a_column_that_was_not_logged_is_missing_by_name(tmp_path: Path) -> None:
    weight = Column(name="weight", kind="number", dtype="Float64")
    wider = Signature(**{**dict(TINY), "columns": (*TINY.columns, weight)})
    site = LogSite(tmp_path, canary=wider)
    columns, labels = draw(300, 1)
    columns["weight"] = np.ones(300)
    callers = [f"c{row}" for row in range(300)]
    for version, held in ((STABLE, np.arange(200)), (CANARY, np.arange(200, 300))):
        site.serve(BEGAN + MINUTE, version, (picked(columns, held), [callers[row] for row in held]))
    site.report(BEGAN + HOUR, list(zip(callers, labels.tolist(), strict=True)))
    site.ship()
    found = site.evidence(site.source(), BEGAN + 2 * HOUR)
    assert found.missing == ("the prediction log has rows without weight, which version 2 needs",)
    assert found.labelled.rows == 100
    # Answers that were given need no column.
    arms = site.evidence(site.source(quality=Quality(predictions_change_outcomes=True)), BEGAN + 2 * HOUR)
    assert (arms.missing, arms.arms[0].canary.rows, arms.arms[0].stable.rows) == ((), 100, 200)
    site.close()


def test_rows_that_were_answered_by_another_model_are_no_evidence(site: LogSite) -> None:
    site.models[CANARY] = site.models[STABLE]
    traffic(site, share=0.5, rows=100)
    site.ship()
    (words,) = site.evidence(site.source(), BEGAN + HOUR).missing
    assert "were answered otherwise than the same version scores them now" in words


def test_what_cannot_be_had_is_named_and_raises_nothing(site: LogSite) -> None:
    outcomes = traffic(site, rows=100)
    site.report(BEGAN + HOUR, outcomes)
    site.ship()
    source, now = site.source(), BEGAN + 2 * HOUR
    store = site.folder / "store"
    store.rename(site.folder / "away")
    store.write_text("no folder")
    assert "cannot" in site.evidence(source, now).missing[0]
    store.unlink()
    (site.folder / "away").rename(store)
    assert site.evidence(source, now).labelled.rows == 100
    damaged = sorted((store / "predictions").rglob("*.parquet"))[0]
    content = damaged.read_bytes()
    damaged.write_bytes(b"PAR1")
    assert f"cannot read {damaged}" in site.evidence(site.source("elsewhere"), now).missing[0]
    damaged.write_bytes(content)
    forged = site.versions[CANARY].model_copy(update={"digest": "sha256:0"})
    assert "expected sha256:0" in source.evidence(forged, site.versions[STABLE], BEGAN, now).missing[0]
    assert site.evidence(source, now).labelled.rows == 100


def test_the_sampled_log_is_whole(tmp_path: Path) -> None:
    site = LogSite(tmp_path, log={"sample": 0.5})
    source = site.source()
    assert site.evidence(source, BEGAN).missing == ()
    outcomes = traffic(site)
    site.report(BEGAN + HOUR, outcomes)
    site.ship()
    found = site.evidence(source, BEGAN + 2 * HOUR)
    assert found.missing == ()
    assert 800 < found.labelled.rows < 1200
    site.close()


def test_a_stretch_waits_for_its_outcomes(site: LogSite) -> None:
    outcomes = traffic(site, share=0.5, rows=400)
    site.report(BEGAN + 2 * HOUR, outcomes)
    site.ship()
    source = site.source(label_delay=3 * HOUR, log=PredictionLog(segment_age=10 * MINUTE))
    assert site.evidence(source, BEGAN + 4 * HOUR + 9 * MINUTE).arms == ()
    (found,) = site.evidence(source, BEGAN + 4 * HOUR + 10 * MINUTE).arms
    assert together([found.canary, found.stable]).rows == 400

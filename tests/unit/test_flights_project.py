"""The flights project on its real files: times, labels, and no value that was not known at the time."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serinus.core.errors import InvalidData, NotFound
from serinus.training.project import load_project

FLIGHTS = Path(__file__).parents[2] / "examples" / "flights"
YEAR = (datetime(2013, 1, 1, tzinfo=UTC), datetime(2014, 1, 2, tzinfo=UTC))
WEEK = datetime(2013, 7, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def flights() -> Any:
    return load_project(FLIGHTS).project


@pytest.fixture(scope="module")
def raw(flights: Any) -> pd.DataFrame:
    """The flights with UTC times, NaT where they did not happen."""
    table = flights._raw.flights.copy()
    for name in ("scheduled", "departed", "arrived"):
        known = table[name] < np.iinfo(np.int64).max
        table[name] = pd.to_datetime(table[name].where(known), unit="m", utc=True)
    return table


@pytest.fixture(scope="module")
def said(flights: Any) -> pd.DataFrame:
    """The raw file as it is, of flights that arrived."""
    columns = ["year", "month", "day", "carrier", "flight", "origin", "dest", "arr_time", "arr_delay"]
    return pd.read_csv(flights._directory / "flights.csv.zip", usecols=columns).dropna()


@pytest.fixture
def files(flights: Any, tmp_path: Path) -> Path:
    """A copy of the raw files, to be damaged."""
    return Path(shutil.copytree(flights._directory, tmp_path / "data"))


def test_requests_are_asked_two_hours_before_departure(flights: Any) -> None:
    asked = flights.requests(*YEAR).set_index("id")
    assert len(asked) == 336_776
    assert asked.index.is_unique
    # Scheduled at 05:15 in New York, which is 10:15 UTC in winter.
    first = asked.loc["20130101-UA1545-EWR"]
    assert first["event_timestamp"] == pd.Timestamp("2013-01-01 08:15", tz="UTC")
    assert (first["hour"], first["weekday"], first["dest"], first["tailnum"]) == (5, "Tue", "IAH", "N14228")


def test_requests_keep_to_their_interval(flights: Any) -> None:
    asked = flights.requests(WEEK, WEEK + timedelta(days=1))["event_timestamp"]
    assert (asked.min() >= WEEK, asked.max() < WEEK + timedelta(days=1)) == (True, True)


def test_flights_that_never_arrived_have_no_label(flights: Any) -> None:
    labels = flights.labels(YEAR[1])
    assert len(labels) == 336_776 - 9_430
    asked = flights.requests(*YEAR)
    july = asked.merge(labels, on="id")
    july = july[(july["event_timestamp"] >= WEEK) & (july["event_timestamp"] < WEEK + timedelta(days=31))]
    assert july["label"].mean() == pytest.approx(0.315, abs=0.001)


def test_labels_are_known_hours_after_the_question_and_not_before(flights: Any) -> None:
    rows = flights.requests(*YEAR).merge(flights.labels(YEAR[1]), on="id")
    lag = (rows["label_timestamp"] - rows["event_timestamp"]) / pd.Timedelta(hours=1)
    assert lag.min() > 2
    assert lag.median() == pytest.approx(4.8, abs=0.1)
    assert lag.max() == pytest.approx(34.7, abs=0.1)
    assert flights.labels(WEEK)["label_timestamp"].max() < WEEK


@pytest.mark.parametrize("zone", ["America/Puerto_Rico", "Pacific/Honolulu", "America/Chicago"])
def test_arrivals_agree_with_the_clock_at_the_destination(flights: Any, said: pd.DataFrame, zone: str) -> None:
    dest = {"America/Puerto_Rico": "SJU", "Pacific/Honolulu": "HNL", "America/Chicago": "ORD"}[zone]
    said = said[said["dest"] == dest]
    date = (said["year"] * 10_000 + said["month"] * 100 + said["day"]).astype(str)
    said.index = pd.Index(date + "-" + said["carrier"] + said["flight"].astype(str) + "-" + said["origin"])
    known = flights.labels(YEAR[1]).set_index("id")["label_timestamp"].loc[said.index].dt.tz_convert(zone)
    clock = known.dt.hour * 100 + known.dt.minute
    assert (clock == said["arr_time"].astype(int) % 2400).all()


@settings(max_examples=15)
@given(cuts=st.lists(st.integers(0, 3 * 24 * 60), max_size=4))
def test_rows_of_adjoining_intervals_are_the_rows_of_the_whole(flights: Any, cuts: list[int]) -> None:
    bounds = [WEEK, *(WEEK + timedelta(minutes=cut) for cut in sorted(cuts)), WEEK + timedelta(days=3)]
    whole = flights.ingest(bounds[0], bounds[-1])
    parts = [flights.ingest(since, until) for since, until in pairwise(bounds)]
    assert whole["origin_hourly"].shape[0] == 3 * 72
    for source, rows in whole.items():
        joined = pd.concat([part[source] for part in parts], ignore_index=True)
        pd.testing.assert_frame_equal(joined, rows, check_exact=True)


def test_every_row_was_true_before_it_was_known(flights: Any) -> None:
    for source, rows in flights.ingest(datetime(1970, 1, 1, tzinfo=UTC), YEAR[1]).items():
        assert (rows["happened_at"] <= rows["known_at"]).all(), source
        key = [name for name in ("origin", "dest", "carrier", "tailnum") if name in rows.columns]
        assert not rows.duplicated([*key, "known_at"]).any(), source


def _mean(values: pd.Series) -> float:  # type: ignore[type-arg]
    return values.sum() / len(values) if len(values) else np.nan


def _delays(rows: pd.DataFrame, kind: str, window: str, now: pd.Timestamp) -> dict[str, float]:
    """Mean delay and share of late ones among what departed or arrived in the window, from what was known then."""
    event, delay = {"departure": ("departed", "departure_delay"), "arrival": ("arrived", "arrival_delay")}[kind]
    known = rows[(rows[event] < now) & (rows[event] >= now - pd.Timedelta(window))]
    return {f"{kind}_delay_{window}": _mean(known[delay]), f"{kind}_late_{window}": _mean(known[delay] > 15)}


def _waiting(rows: pd.DataFrame, now: pd.Timestamp) -> dict[str, float]:
    due = rows[(rows["scheduled"] >= now - pd.Timedelta("3h")) & (rows["scheduled"] < now)]
    gone = due["departed"] < now
    so_far = (due["departed"].where(gone, now) - due["scheduled"]).dt.total_seconds() // 60
    return {"waiting_3h": _mean(~gone), "delay_so_far_3h": _mean(so_far)}


def _naive(source: str, rows: pd.DataFrame, now: pd.Timestamp) -> dict[str, float]:
    """A row's values, from the events of its key alone."""
    if source == "origin_hourly":
        ahead = (rows["scheduled"] >= now + pd.Timedelta("2h")) & (rows["scheduled"] < now + pd.Timedelta("4h"))
        departed = (rows["departed"] < now) & (rows["departed"] >= now - pd.Timedelta("3h"))
        return {
            "departures_3h": departed.sum(),
            **{k: v for each in ("1h", "3h", "24h") for k, v in _delays(rows, "departure", each, now).items()},
            **_waiting(rows, now),
            **_delays(rows, "arrival", "6h", now),
            "scheduled_ahead": ahead.sum(),
        }
    if source == "carrier_hourly":
        departed = (rows["departed"] < now) & (rows["departed"] >= now - pd.Timedelta("24h"))
        return {
            "departures_24h": departed.sum(),
            **{k: v for each in ("3h", "24h") for k, v in _delays(rows, "departure", each, now).items()},
            **_waiting(rows, now),
            **_delays(rows, "arrival", "24h", now),
        }
    arrived = (rows["arrived"] < now) & (rows["arrived"] >= now - pd.Timedelta("7d"))
    return {
        "arrivals_7d": arrived.sum(),
        **_delays(rows, "arrival", "24h", now),
        **_delays(rows, "arrival", "7d", now),
    }


@pytest.mark.parametrize("source", ["origin_hourly", "carrier_hourly", "route_sixhourly"])
def test_values_are_what_could_be_known(flights: Any, raw: pd.DataFrame, source: str) -> None:
    """What was unknown at a row's time is blotted out of the raw events; the values must come out all the same."""
    key = {"origin_hourly": ["origin"], "carrier_hourly": ["carrier"], "route_sixhourly": ["origin", "dest"]}[source]
    rows = flights.ingest(datetime(2013, 1, 1, tzinfo=UTC), YEAR[1])[source].sample(30, random_state=7)
    for row in rows.to_dict("records"):
        now = row["known_at"]
        events = raw[np.logical_and.reduce([raw[name] == row[name] for name in key])]
        events = events[
            (events["scheduled"] > now - timedelta(days=10)) & (events["scheduled"] < now + timedelta(days=1))
        ]
        for event, delay in (("departed", "departure_delay"), ("arrived", "arrival_delay")):
            unknown = ~(events[event] < now)
            events = events.assign(**{event: events[event].mask(unknown), delay: events[delay].mask(unknown)})
        found = {name: value for name, value in row.items() if name not in (*key, "known_at", "happened_at")}
        np.testing.assert_equal(found, _naive(source, events, now))


def test_weather_is_readable_when_its_hour_has_ended(flights: Any) -> None:
    rows = flights.ingest(WEEK, WEEK + timedelta(hours=1))["weather"]
    assert sorted(rows["origin"]) == ["EWR", "JFK", "LGA"]
    assert set(rows["known_at"]) == {pd.Timestamp(WEEK)}
    assert set(rows["happened_at"]) == {pd.Timestamp(WEEK) - pd.Timedelta("1h")}


@pytest.mark.parametrize("name", ["weather.csv", "planes.csv", "flights.csv.zip"])
def test_a_file_cut_short_is_told(flights: Any, files: Path, name: str) -> None:
    path = files / name
    data = path.read_bytes()
    path.write_bytes(data[: data.rindex(b"\n", 0, len(data) // 2) + 1])  # after a whole line: nothing looks broken
    with pytest.raises(InvalidData, match=name) as raised:
        type(flights)(files).requests(*YEAR)
    assert "reinstall" in str(raised.value.hint)


def test_an_absent_file_is_told(flights: Any, files: Path) -> None:
    (files / "planes.csv").unlink()
    with pytest.raises(NotFound, match=r"planes\.csv"):
        type(flights)(files).labels(WEEK)


def test_the_fingerprint_changes_with_data_and_time(flights: Any, files: Path) -> None:
    before = type(flights)(files).fingerprint(WEEK)
    assert before == flights.fingerprint(WEEK)
    assert before != flights.fingerprint(WEEK + timedelta(days=1))
    with (files / "weather.csv").open("a") as file:
        file.write("\n")
    assert type(flights)(files).fingerprint(WEEK) != before

"""Which rows a dataset may hold, and what its digest and categories are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serinus.core.dataset import Split
from serinus.core.errors import InvalidData
from serinus.core.project import Project
from serinus.core.signature import Column, Signature
from serinus.core.times import Interval
from serinus.training.dataset import canonical, content_digest, labelled_requests, with_categories

DAY = timedelta(days=1)
START = datetime(2024, 1, 1, tzinfo=UTC)
AS_OF = START + 10 * DAY
SPLIT = Split(
    train=Interval(since=START, until=START + 4 * DAY),
    validation=Interval(since=START + 4 * DAY, until=START + 6 * DAY),
    holdout=Interval(since=START + 6 * DAY, until=START + 8 * DAY),
)


class Asked(Project):
    """Four requests a day; the outcome of each is known after the hours that it says."""

    def __init__(self, change: Callable[[pd.DataFrame], pd.DataFrame] = lambda rows: rows, lag: float = 30) -> None:
        times = pd.date_range(START, periods=40, freq="6h", unit="us")
        rows = pd.DataFrame({"id": [f"r{n:02}" for n in range(40)], "event_timestamp": times, "shop": "a"})
        self.rows = change(rows.assign(label=rows.index % 2, label_timestamp=times + pd.Timedelta(hours=lag)))

    def requests(self, since: datetime, until: datetime) -> pd.DataFrame:
        rows = self.rows[(self.rows["event_timestamp"] >= since) & (self.rows["event_timestamp"] < until)]
        return rows.drop(columns=["label", "label_timestamp"], errors="ignore")

    def labels(self, until: datetime) -> pd.DataFrame:
        rows = self.rows
        if isinstance(rows["label_timestamp"].dtype, pd.DatetimeTZDtype):
            rows = rows[~(rows["label_timestamp"] >= until)]
        return rows[["id", "label", "label_timestamp"]]

    def ingest(self, since: datetime, until: datetime) -> Mapping[str, pd.DataFrame]:
        raise AssertionError("not asked for here")

    def model(self, params: Mapping[str, Any], signature: Signature) -> Any:
        raise AssertionError("not asked for here")

    def fingerprint(self, until: datetime) -> str:
        return "same"


def test_only_labels_known_before_the_held_out_period_may_teach() -> None:
    rows = labelled_requests(Asked(), SPLIT, AS_OF)
    judged_from = SPLIT.holdout.since
    taught = rows[rows["event_timestamp"] < judged_from]
    assert taught["label_timestamp"].max() < judged_from
    # 30 hours before the held-out period, outcomes stop being known in time; held-out requests all have theirs.
    assert taught["event_timestamp"].max() == judged_from - timedelta(hours=36)
    assert (rows["event_timestamp"] >= judged_from).sum() == 8
    assert rows["event_timestamp"].is_monotonic_increasing


def test_outcomes_not_known_yet_are_not_there() -> None:
    rows = labelled_requests(Asked(lag=100), SPLIT, AS_OF)
    assert rows["label_timestamp"].max() < AS_OF
    assert rows["event_timestamp"].max() < AS_OF - timedelta(hours=100)


@pytest.mark.parametrize("lag", [-1, 0])
def test_a_label_that_does_not_follow_its_request_is_refused(lag: float) -> None:
    with pytest.raises(InvalidData, match=r"labels that were known before the request, such as r00"):
        labelled_requests(Asked(lag=lag), SPLIT, AS_OF)


def _set(column: str, value: Any) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def change(rows: pd.DataFrame) -> pd.DataFrame:
        rows = rows.astype({column: object}) if value is None else rows
        rows.loc[3, column] = value
        return rows

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.drop(columns="id"), "requests lack the column id"),
        (_set("id", "r01"), "requests have 1 ids again, such as r01"),
        (_set("id", None), "requests have 1 rows without id"),
        (_set("label", 2), "1 rows have labels other than 0 and 1, such as r03"),
        (
            lambda rows: rows.assign(event_timestamp=rows["event_timestamp"].dt.tz_localize(None).astype(str)),
            "event_timestamp is object",
        ),
    ],
)
def test_rows_that_break_their_contract_are_refused(
    change: Callable[[pd.DataFrame], pd.DataFrame], message: str
) -> None:
    project = Asked(change)
    project.requests = lambda since, until: project.rows.drop(columns=["label", "label_timestamp"])[:32]  # type: ignore[method-assign]
    with pytest.raises(InvalidData, match=message):
        labelled_requests(project, SPLIT, AS_OF)


def test_requests_outside_the_interval_and_labels_from_the_future_are_refused() -> None:
    project = Asked()
    everything = project.rows.drop(columns=["label", "label_timestamp"])
    project.requests = lambda since, until: everything  # type: ignore[method-assign]
    with pytest.raises(InvalidData, match=r"8 rows were asked outside .*, such as r32"):
        labelled_requests(project, SPLIT, AS_OF)
    project = Asked()
    project.labels = lambda until: project.rows[["id", "label", "label_timestamp"]]  # type: ignore[method-assign]
    with pytest.raises(InvalidData, match="labels not known before"):
        labelled_requests(project, SPLIT, AS_OF)


def test_no_labelled_request_at_all_is_refused() -> None:
    with pytest.raises(InvalidData, match="no request"):
        labelled_requests(Asked(lag=10_000), SPLIT, AS_OF)


SIGNATURE = Signature(
    model="m",
    feature_service="s",
    join_keys={"shop": "String"},
    views=(),
    columns=(
        Column(name="shop", kind="category", dtype="String"),
        Column(name="length", kind="number", dtype="Float64"),
        Column(name="staff", kind="number", dtype="Int64"),
    ),
)


def _table(values: list[tuple[str | None, float | None, int | None]]) -> pa.Table:
    count = len(values)
    stamp = pa.array([START] * count, pa.timestamp("us", tz="UTC"))
    return pa.table(
        {
            "id": [str(n) for n in range(count)],
            "event_timestamp": stamp,
            "label_timestamp": stamp,
            "label": pa.array([0] * count, pa.int64()),
            "shop": pa.array([value[0] for value in values], pa.string()),
            "length": pa.array([value[1] for value in values], pa.float64()),
            "staff": pa.array([value[2] for value in values], pa.int64()),
            "unused": ["x"] * count,
        }
    )


def test_columns_have_one_order_and_missing_is_missing() -> None:
    table = canonical(_table([("a", float("nan"), 1), (None, None, None)]), SIGNATURE)
    assert table.column_names == ["id", "event_timestamp", "shop", "length", "staff", "label", "label_timestamp"]
    assert table["length"].null_count == 2
    words = _table([("a", 1.0, 1)]).drop_columns("length").append_column("length", pa.array(["much"]))
    with pytest.raises(InvalidData, match="column length holds string, not double"):
        canonical(words, SIGNATURE)


row = st.tuples(
    st.none() | st.text("äb\0c", max_size=3),
    st.none() | st.floats(allow_nan=False, allow_infinity=False),
    st.none() | st.integers(-(2**53), 2**53),
)


@given(values=st.lists(row, min_size=1, max_size=20), cut=st.integers(0, 20), change=st.integers(0, 19))
def test_the_digest_is_of_content_alone(
    tmp_path_factory: pytest.TempPathFactory, values: list[Any], cut: int, change: int
) -> None:
    table = canonical(_table(values), SIGNATURE)
    digest = content_digest(table)
    assert content_digest(pa.concat_tables([table.slice(0, cut), table.slice(min(cut, len(values)))])) == digest
    path = tmp_path_factory.mktemp("digest") / "rows.parquet"
    pq.write_table(table, path, row_group_size=3, compression="none")
    assert content_digest(pq.read_table(path)) == digest
    position = change % len(values)
    other = [*values]
    other[position] = (f"{values[position][0]}x", *values[position][1:])
    assert content_digest(canonical(_table(other), SIGNATURE)) != digest
    assert content_digest(table.rename_columns([*table.column_names[:-1], "renamed"])) != digest


def test_values_that_move_between_rows_change_the_digest() -> None:
    first, second = (
        canonical(_table(rows), SIGNATURE) for rows in ([("ab", 1, 1), ("c", 1, 1)], [("a", 1, 1), ("bc", 1, 1)])
    )
    assert content_digest(first) != content_digest(second)


def test_rare_values_are_not_learned() -> None:
    rows = [("often", 1.0, 1)] * 25 + [("again", 1.0, 1)] * 20 + [("rare", 1.0, 1)] * 19 + [(None, 1.0, 1)] * 50
    learned = with_categories(SIGNATURE, _table(rows))
    assert learned.categories[0].categories == ("again", "often")
    assert learned.schema_digest == SIGNATURE.schema_digest


def test_the_files_of_a_dataset_are_told_when_absent_or_damaged(tmp_path: Path) -> None:
    from serinus.core.errors import NotFound
    from serinus.training.dataset import read_rows

    with pytest.raises(NotFound, match=r"rows\.parquet"):
        read_rows(tmp_path)
    (tmp_path / "rows.parquet").write_bytes(b"PAR1 cut short")
    with pytest.raises(InvalidData, match="cannot be read"):
        read_rows(tmp_path)

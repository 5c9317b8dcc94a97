"""`serinus outcomes`: a table of outcomes, valid rows kept, twice as good as once."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from serinus.cli import app
from serinus.control.outcomes import load_outcomes
from serinus.core.errors import InvalidInput, NotFound
from serinus.engines.prediction_log import read_outcomes
from serinus.engines.prediction_store import PredictionStore

NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)
ROWS = [
    {"prediction_id": "p1", "label": 1, "label_timestamp": NOW},
    {"prediction_id": "p2", "label": 0, "label_timestamp": NOW + timedelta(days=1)},
    {"prediction_id": "p2", "label": 7, "label_timestamp": NOW},
]


@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl"])
def test_every_form_of_table_is_read(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"labels.{form}"
    table = pa.Table.from_pylist(ROWS)
    if form == "parquet":
        pq.write_table(table, path)
    elif form == "csv":
        pyarrow.csv.write_csv(table, path)
    else:
        path.write_text("\n".join(json.dumps({**row, "label_timestamp": str(row["label_timestamp"])}) for row in ROWS))
    store = PredictionStore(str(tmp_path / "store"))
    for _ in range(2):
        loaded = load_outcomes(path, store, "delays", NOW)
        assert (loaded.kept, list(loaded.errors)) == (2, [2])
        assert loaded.errors[2] == "row 2.label: found 7, allowed: 0 or 1"
    found = read_outcomes(store, "delays")
    assert found["prediction_id"].to_pylist() == ["p1", "p2"]
    assert found["label_timestamp"].to_pylist() == [NOW, NOW + timedelta(days=1)]
    assert len(store.files("outcomes")) == 1
    assert read_outcomes(store, "delays", known_by=NOW).num_rows == 1


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    store = PredictionStore(str(tmp_path / "store"))
    with pytest.raises(NotFound, match="there is no file"):
        load_outcomes(tmp_path / "none.csv", store, "delays", NOW)
    (tmp_path / "a.xls").write_text("")
    with pytest.raises(InvalidInput, match=r"use one of \.parquet, \.csv"):
        load_outcomes(tmp_path / "a.xls", store, "delays", NOW)
    (tmp_path / "a.parquet").write_text("no")
    with pytest.raises(InvalidInput, match="cannot be read"):
        load_outcomes(tmp_path / "a.parquet", store, "delays", NOW)


def test_the_command_says_what_it_kept(tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    assert CliRunner().invoke(app(), ["init", "shop", "--directory", str(folder)]).exit_code == 0
    pq.write_table(pa.Table.from_pylist(ROWS[:2]), tmp_path / "labels.parquet")
    arguments = ["outcomes", "--input", str(tmp_path / "labels.parquet"), "--file", str(folder)]
    told: Any = CliRunner().invoke(app(), [*arguments, "--json"])
    assert told.exit_code == 0, told.output
    assert json.loads(told.stdout) == {"kept": 2, "invalid": 0, "errors": []}
    assert len(list((folder / ".serinus" / "predictions" / "outcomes").rglob("*.parquet"))) == 1
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "labels.parquet")
    told = CliRunner().invoke(app(), arguments)
    assert told.exit_code == 1
    assert "2 outcomes kept, 1 rows invalid." in told.stdout

"""Training stops, repeats from its seed, learns, and tells what is wrong with its data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from serinus.core.errors import InvalidData, NotFound
from serinus.core.spec.training import Training
from serinus.training.evaluate import predict
from serinus.training.fit import CURVE_FILE, FIT_FILE, MODEL_FILE, Epoch, FitReport, fit
from serinus.training.rows import DatasetFolder
from tests.support_dataset import Toy, frame, split, write_dataset

TRAINING = Training(epochs=4, batch_size=256, learning_rate=0.02, parameters={"width": 8})


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("dataset"))


def test_fit_learns_reports_and_exports(dataset: Path, tmp_path: Path) -> None:
    seen: list[Epoch] = []
    report = fit(Toy(), TRAINING, dataset, tmp_path, seen.append)
    assert tuple(seen) == report.epochs
    assert report == FitReport.model_validate_json((tmp_path / FIT_FILE).read_text())
    assert (tmp_path / CURVE_FILE).read_bytes().startswith(b"\x89PNG")
    rows = DatasetFolder.read(dataset)
    assert report.train_rows == len(rows.part("train"))
    found = predict(tmp_path / MODEL_FILE, rows.signature, rows.part("holdout"))
    assert roc_auc_score(rows.part("holdout").labels, found) > 0.72
    best = min(report.epochs, key=lambda epoch: epoch.validation_loss)
    assert (best.number, best.validation_loss) == (report.best_epoch, report.validation_loss)


def test_same_seed_same_bytes_whatever_the_state_and_threads(dataset: Path, tmp_path: Path) -> None:
    training = TRAINING.model_copy(update={"epochs": 2})
    first = fit(Toy(), training, dataset, tmp_path / "a")
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        torch.rand(7)
        state = torch.get_rng_state()
        second = fit(Toy(), training, dataset, tmp_path / "b")
        assert torch.equal(state, torch.get_rng_state())
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    other = fit(Toy(), training.model_copy(update={"seed": 1}), dataset, tmp_path / "c")
    assert (tmp_path / "a" / MODEL_FILE).read_bytes() == (tmp_path / "b" / MODEL_FILE).read_bytes()
    assert first.digest == second.digest != other.digest
    assert not torch.are_deterministic_algorithms_enabled()


def test_training_stops_when_validation_gets_worse(tmp_path: Path) -> None:
    rows = frame(1500)
    rng = np.random.default_rng(0)
    rows["label"] = rng.integers(0, 2, len(rows))
    folder = write_dataset(tmp_path / "noise", rows)
    training = TRAINING.model_copy(update={"epochs": 60, "patience": 2, "learning_rate": 0.05})
    report = fit(Toy(), training, folder, tmp_path / "out")
    assert report.stopped_early
    assert len(report.epochs) == report.best_epoch + 2


def test_holdout_rows_do_not_touch_the_model(dataset: Path, tmp_path: Path) -> None:
    rows = frame()
    late = rows["event_timestamp"] >= split().holdout.since
    rows.loc[late, "label"] = 1 - rows.loc[late, "label"]
    rows.loc[late, "load__mean"] = 1e6
    changed = write_dataset(tmp_path / "changed", rows)
    training = TRAINING.model_copy(update={"epochs": 1})
    assert fit(Toy(), training, dataset, tmp_path / "a").digest == fit(Toy(), training, changed, tmp_path / "b").digest


class _Diverges(Toy):
    def model(self, params: Mapping[str, Any], signature: Any) -> torch.nn.Module:
        module = super().model({}, signature)
        with torch.no_grad():
            module.get_parameter("out.weight").fill_(float("inf"))
        return module


def test_a_loss_that_is_not_a_number_is_told(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="the loss became"):
        fit(_Diverges(), TRAINING, dataset, tmp_path)
    assert not (tmp_path / MODEL_FILE).exists()


def _truncated(folder: Path) -> None:
    path = folder / "rows.parquet"
    path.write_bytes(path.read_bytes()[:-200])


def _shorter(folder: Path) -> None:
    frame().head(100).to_parquet(folder / "rows.parquet", index=False)


def _without_column(folder: Path) -> None:
    frame().drop(columns="load__count").to_parquet(folder / "rows.parquet", index=False)


def _one_label(folder: Path) -> None:
    frame().assign(label=1).to_parquet(folder / "rows.parquet", index=False)


def _bad_manifest(folder: Path) -> None:
    manifest = json.loads((folder / "dataset.json").read_text())
    del manifest["split"]
    (folder / "dataset.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (_truncated, InvalidData, "cannot be read"),
        (_shorter, InvalidData, "its manifest says 6000"),
        (_without_column, InvalidData, "no column load__count"),
        (_one_label, InvalidData, "all with label"),
        (_bad_manifest, InvalidData, "dataset.json is not a Dataset"),
        (lambda folder: (folder / "rows.parquet").unlink(), NotFound, "no rows.parquet"),
        (lambda folder: (folder / "signature.json").unlink(), NotFound, "no signature.json"),
    ],
)
def test_bad_datasets_are_told(tmp_path: Path, spoil: Any, error: type[Exception], words: str) -> None:
    folder = write_dataset(tmp_path / "dataset")
    spoil(folder)
    with pytest.raises(error, match=words):
        fit(Toy(), TRAINING, folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()

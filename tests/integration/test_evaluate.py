"""All models are judged on the same held-out rows, each through its own signature."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from serinus.core.errors import InvalidData
from serinus.core.evaluation import Scorecard
from serinus.core.gate import judge
from serinus.core.profile import Profile
from serinus.core.signature import Column, Signature
from serinus.core.spec.training import ContinuousTrainingSpec
from serinus.engines.exported import NamedColumns, export_module, save_exported
from serinus.training.evaluate import PREDICTIONS_FILE, REPORT_FILE, SCORECARD_FILE, Champion, evaluate
from serinus.training.fit import fit
from serinus.training.rows import DatasetFolder
from tests.support_dataset import Toy, ToyModule, frame, signature, split, write_dataset


def _spec(**evaluation: object) -> ContinuousTrainingSpec:
    chosen = {"baseline": ["carrier"], "slices": ["carrier", "place"], "minimumSliceRows": 50} | evaluation
    return ContinuousTrainingSpec.model_validate(
        {
            "project": {"entryPoint": "project:Toy"},
            "featureService": "toy",
            "windows": {"start": "2020-01-01T00:00:00Z"},
            "training": {"epochs": 4, "batchSize": 256, "learningRate": 0.02, "parameters": {"width": 8}},
            "evaluation": chosen,
            "gate": {"resamples": 300},
            "deployment": "toy",
        }
    )


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("dataset"))


@pytest.fixture(scope="module")
def candidate(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("candidate")
    fit(Toy(), _spec().training, dataset, folder)
    return folder


def _champion(folder: Path, agreed: Signature) -> Champion:
    """An untrained model: a champion that is easily beaten."""
    folder.mkdir(parents=True, exist_ok=True)
    save_exported(export_module(NamedColumns(ToyModule(agreed, 4), agreed)), folder / "model.pt2")
    (folder / "signature.json").write_text(agreed.model_dump_json())
    return Champion(7, folder / "model.pt2", folder / "signature.json")


def test_evaluate_writes_what_the_gate_and_people_read(dataset: Path, candidate: Path, tmp_path: Path) -> None:
    champion = _champion(tmp_path / "champion", signature(("UA", "AA")))
    card = evaluate(dataset, candidate, tmp_path, _spec(), champion)
    assert Scorecard.model_validate_json((tmp_path / SCORECARD_FILE).read_text()) == card
    assert card.champion is not None
    assert card.champion_version == 7
    assert card.candidate.overall.rows == card.champion.overall.rows == card.baseline.overall.rows
    assert (card.candidate.overall.roc_auc or 0) > 0.72
    assert judge(card, _spec().gate).passed
    gap = card.candidate.overall.log_loss - card.champion.overall.log_loss
    against = card.against("champion")
    assert against is not None
    assert against.value == pytest.approx(gap)
    assert against.low < against.value < against.high < 0
    assert against.days == 20
    assert {(part.column, part.value) for part in card.candidate.slices} == {
        ("carrier", "AA"), ("carrier", "B6"), ("carrier", "UA"), ("place", "north"), ("place", "south"),
    }  # fmt: skip


def test_predictions_and_profile_are_of_the_held_out_rows(dataset: Path, candidate: Path, tmp_path: Path) -> None:
    card = evaluate(dataset, candidate, tmp_path, _spec())
    predictions = pd.read_parquet(tmp_path / PREDICTIONS_FILE)
    held = DatasetFolder.read(dataset).part("holdout")
    assert predictions["id"].tolist() == held.ids.tolist()
    assert predictions["label"].tolist() == held.labels.tolist()
    profile = Profile.model_validate_json((tmp_path / "profile.json").read_text())
    assert profile.prediction is not None
    assert sum(profile.prediction.counts) == len(predictions) == card.candidate.overall.rows
    assert card.champion is None
    assert [difference.against for difference in card.differences] == ["baseline"]


def test_report_is_one_page_with_its_pictures_inside(dataset: Path, candidate: Path, tmp_path: Path) -> None:
    evaluate(dataset, candidate, tmp_path, _spec(), _champion(tmp_path / "champion", signature()))
    page = (tmp_path / REPORT_FILE).read_text()
    assert page.count("data:image/png;base64,") == 5
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert "The gate passed the candidate." in page
    assert "champion (version 7)" in page
    for name in ("curves", "calibration", "by-day", "by-slice", "differences"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_evaluation_repeats(dataset: Path, candidate: Path, tmp_path: Path) -> None:
    first = evaluate(dataset, candidate, tmp_path / "a", _spec())
    assert first == evaluate(dataset, candidate, tmp_path / "b", _spec())
    for name in (SCORECARD_FILE, REPORT_FILE, "curves.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_candidate_that_learned_noise_is_refused(dataset: Path, tmp_path: Path) -> None:
    _champion(tmp_path / "noise", signature())
    card = evaluate(dataset, tmp_path / "noise", tmp_path / "out", _spec())
    assert not judge(card, _spec().gate).passed
    assert "The gate refused the candidate." in (tmp_path / "out" / REPORT_FILE).read_text()


def test_without_slices_or_baseline_columns(dataset: Path, candidate: Path, tmp_path: Path) -> None:
    card = evaluate(dataset, candidate, tmp_path, _spec(slices=[], baseline=[]))
    assert card.candidate.slices == ()
    assert card.baseline.overall.roc_auc == pytest.approx(0.5)


@pytest.mark.parametrize("field", ["slices", "baseline"])
def test_unknown_columns_in_the_spec_are_told(dataset: Path, candidate: Path, tmp_path: Path, field: str) -> None:
    with pytest.raises(InvalidData, match=f"no column colour, needed by evaluation.{field}"):
        evaluate(dataset, candidate, tmp_path, _spec(**{field: ["colour"]}))


def test_a_champion_that_needs_other_columns_is_told(dataset: Path, candidate: Path, tmp_path: Path) -> None:
    agreed = signature()
    more = agreed.model_copy(update={"columns": (*agreed.columns, Column(name="gone", kind="number", dtype="Float64"))})
    with pytest.raises(InvalidData, match=r"the champion, version 7, needs columns .*: gone"):
        evaluate(dataset, candidate, tmp_path, _spec(), _champion(tmp_path / "champion", more))


def test_a_holdout_of_few_days_is_told(candidate: Path, tmp_path: Path) -> None:
    rows = frame()
    since = split().holdout.since
    few = rows[rows["event_timestamp"] < since + pd.Timedelta(days=3)].reset_index(drop=True)
    folder = write_dataset(tmp_path / "few", few)
    with pytest.raises(InvalidData, match="too few days"):
        evaluate(folder, candidate, tmp_path / "out", _spec())


def test_missing_categories_are_encoded_as_missing(dataset: Path) -> None:
    rows = DatasetFolder.read(dataset).rows
    _, codes = rows.encode(signature())
    carrier = rows.values("carrier")
    assert ((codes[:, 0] == 0) == np.array([value is None for value in carrier])).all()
    assert json.loads((dataset / "dataset.json").read_text())["rows"] == len(rows)

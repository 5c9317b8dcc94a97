"""The demo's path on a month of real flights: train, serve, replay with a scheduled run, deploy, down."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from serinus.core.times import Interval, utc
from serinus.engines.prediction_log import join, read_outcomes, read_predictions
from serinus.engines.prediction_store import PredictionStore

FLIGHTS = Path(__file__).parents[2] / "examples" / "flights"
TRAINED_AS_OF = "2013-02-02T12:00:00+00:00"
REPLAYED_UNTIL = "2013-02-03T18:00:00+00:00"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The flights project with windows that fit a month, and a schedule that fires within the replay."""
    folder = tmp_path_factory.mktemp("flights")
    for path in FLIGHTS.glob("*.py"):
        shutil.copy(path, folder)
    documents = list(yaml.safe_load_all((FLIGHTS / "serinus.yaml").read_text()))
    training = documents[0]["spec"]
    training["windows"] = {
        "start": "2013-01-01T00:00:00Z",
        "validation": "4d",
        "holdout": "10d",
        "labelDelay": "36h",
    }
    training["training"]["epochs"] = 3
    training["triggers"] = {"schedule": {"cron": "0 12 * * *"}}
    # Ten days cannot show what a month can: this test is of the way through, not of the gate.
    training["gate"] |= {"confidence": 0.6, "championTolerance": 0.1}
    (folder / "serinus.yaml").write_text(yaml.safe_dump_all(documents))
    yield folder
    run(folder, "down")


def run(folder, *arguments, expect=0):
    """One command as a user would type it, and the JSON object that it printed."""
    command = [sys.executable, "-P", "-m", "serinus", *arguments, "--json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == expect, done.stderr + done.stdout
    return json.loads(done.stdout)


def labelled_log(folder):
    """How many predictions the log holds, and how many of them have an outcome."""
    store = PredictionStore(str(folder / ".serinus" / "predictions"))
    interval = Interval(since=utc(TRAINED_AS_OF), until=utc(REPLAYED_UNTIL))
    predictions = read_predictions(store, "flights", interval, by="event_timestamp")
    return predictions.num_rows, join(predictions, read_outcomes(store, "flights")).num_rows


@pytest.mark.timeout(600)
def test_trains_serves_replays_trains_again_and_deploys(project, free_port):
    trained = run(project, "train", "--as-of", TRAINED_AS_OF)
    assert trained["accepted"]
    assert trained["version"] == 1
    assert trained["metrics"]["candidate"]["roc_auc"] > trained["metrics"]["baseline"]["roc_auc"]

    up = run(project, "up", "--as-of", TRAINED_AS_OF, "--port", str(free_port))
    assert (up["version"], up["already"]) == (1, False)
    assert run(project, "up", "--as-of", TRAINED_AS_OF)["already"]

    replayed = run(project, "replay", "--since", TRAINED_AS_OF, "--until", REPLAYED_UNTIL)
    assert replayed["errors"] == 0
    assert replayed["rows_replayed"] > 800
    assert replayed["features_different"] == 0
    assert replayed["features_equal"] > 20 * replayed["rows_replayed"]
    assert replayed["auc_online"] == pytest.approx(replayed["auc_offline"], abs=1e-9)
    assert replayed["pipeline_runs"] >= 1
    assert (replayed["log_rows"], replayed["log_gap"]) == (replayed["rows_replayed"], 0)
    assert replayed["outcomes_reported"] > 400
    assert Path(replayed["report"]).exists()

    versions = run(project, "models")["versions"]
    assert {alias for version in versions for alias in version["aliases"]} == {"champion", "challenger"}
    deployed = run(project, "deploy", "challenger")
    assert (deployed["previous"], deployed["changed"]) == (1, True)
    status = run(project, "status")
    assert (status["condition"], status["version"]) == ("healthy", deployed["version"])
    assert (status["loop"]["last_failure"], utc(status["loop"]["last_run"])) == (None, utc("2013-02-03T18:00:00Z"))
    # The schedule says noon, and the limit a day after the last start.
    assert utc(status["loop"]["next_run"]) == utc("2013-02-04T18:00:00Z")

    down = run(project, "down")
    assert down["was_up"]
    assert labelled_log(project) == (replayed["rows_replayed"], replayed["rows_labelled"])
    assert run(project, "status", expect=3)["condition"] == "down"

"""Served batches and settings for tests of the prediction log; run as a module it is a worker, made to be killed."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from serinus.core.platform import Platform
from serinus.core.prediction import RANDOM_BYTES, prediction_ids
from serinus.core.serving import ServingConfig
from serinus.core.signature import Column, Signature, View
from serinus.core.spec import ModelDeploymentSpec
from serinus.serve.freshness import ABSENT_TIME, State
from serinus.serve.served import Origins, Served

NOON = 1_714_564_800_000_000
"""2024-05-01T12:00Z in microseconds."""
DAY = 86_400_000_000
MODEL = "delays"

SIGNATURE = Signature(
    model=MODEL,
    feature_service="delays",
    join_keys={"origin": "String", "plane": "Int64"},
    views=(
        View(name="hourly", join_keys=("origin",), ttl_seconds=7200),
        View(name="planes", join_keys=("plane",)),
    ),
    columns=(
        Column(name="hourly__delay", kind="number", dtype="Float64", view="hourly"),
        Column(name="hourly__flights", kind="number", dtype="Int64", view="hourly"),
        Column(name="planes__maker", kind="category", dtype="String", view="planes", categories=("AIRBUS",)),
        Column(name="distance", kind="number", dtype="Float64"),
        Column(name="terminal", kind="category", dtype="String", categories=("A",)),
    ),
)


def settings(folder: Path, log: Mapping[str, Any] | None = None, **fields: Any) -> ServingConfig:
    """A predictor whose counters, spool and destination are below a folder."""
    spec = {"model": {"name": MODEL, "version": 3}, "log": {"destination": str(folder / "store"), **(log or {})}}
    usual = {
        "version": 3,
        "digest": "sha256:0",
        "deployment": ModelDeploymentSpec.model_validate(spec, by_alias=True),
        "platform": Platform.local(folder),
        "feature_project": "served",
        "metrics_dir": folder / "metrics",
        "spool_dir": folder / "spool",
    }
    return ServingConfig.model_validate(usual | fields)


def served(rows: int, seed: int = 0, at: int = NOON) -> Served:
    """A batch of one-row requests with values of every kind, missing ones included."""
    random = np.random.default_rng(seed)
    delay = random.normal(size=rows)
    delay[::7] = np.nan
    known_at = np.full(rows, at - 1_000_000, dtype=np.int64)
    states = np.zeros(rows, dtype=np.int8)
    known_at[::5], states[::5] = ABSENT_TIME, State.ABSENT
    maker = np.array([None if row % 3 == 0 else "AIRBUS" for row in range(rows)], dtype=object)
    return Served(
        served_at=at,
        ids=prediction_ids(at // 1000, random.bytes(RANDOM_BYTES * rows)),
        probabilities=random.random(rows),
        moments=np.full(rows, at, dtype=np.int64),
        origins=Origins([f"r{row}" for row in range(rows)], [False] * rows),
        request_rows=[1] * rows,
        fields={
            "id": [None if row % 4 == 0 else f"c{seed}-{row}" for row in range(rows)],
            "origin": ["JFK"] * rows,
            "plane": [None if row % 9 == 0 else row for row in range(rows)],
        },
        columns={
            "hourly__delay": delay,
            "hourly__flights": np.arange(rows, dtype=np.float64),
            "planes__maker": maker,
            "distance": random.random(rows) * 1000,
            "terminal": np.array(["Å"] * rows, dtype=object),
        },
        known_at={"hourly": known_at, "planes": known_at},
        states={"hourly": states, "planes": states},
    )


class Counted:
    """Counters in memory, by name and labels."""

    def __init__(self) -> None:
        self.values: Counter[tuple[str, ...]] = Counter()
        self._lock = threading.Lock()

    def count(self, name: str, amount: int, *labels: str) -> None:
        with self._lock:
            short = name.removeprefix("serinus_log_")
            self.values[short.removesuffix("_rows_total"), *labels] += amount

    def __getitem__(self, key: str | tuple[str, ...]) -> int:
        return self.values[(key,) if isinstance(key, str) else key]


def main() -> None:
    """Log 16 rows every so many seconds, so many times or until standard input ends; counts as a worker does."""
    from serinus.core.profile import build_profile, profile_predictions
    from serinus.serve import telemetry

    config = ServingConfig.model_validate_json(Path(sys.argv[1]).read_bytes())
    telemetry.configure(config.metrics_dir)
    from prometheus_client import CollectorRegistry

    from serinus.serve.log import LogWriter

    profile = profile_predictions(
        build_profile(SIGNATURE, np.zeros((9, 3), np.float32), np.zeros((9, 2), np.int64)), np.zeros(9)
    )
    counts = telemetry.Telemetry(config, SIGNATURE, profile, CollectorRegistry())
    assert config.spool_dir is not None
    writer = LogWriter(config, SIGNATURE, config.spool_dir, counts)
    pause = float(sys.argv[2])
    batches = int(sys.argv[3])
    told_to_end = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), told_to_end.set()), daemon=True).start()
    template = served(16)
    for seed in range(batches):
        now = time.time_ns() // 1000
        ids = prediction_ids(now // 1000, np.random.default_rng().bytes(RANDOM_BYTES * 16))
        fields = {**template.fields, "id": [f"c{seed}-{row}" for row in range(16)]}
        batch = Served(
            now, ids, template.probabilities, template.moments, template.origins, template.request_rows, fields,
            template.columns, template.known_at, template.states,
        )  # fmt: skip
        writer.add(batch)
        counts.rows(16, 0)
        if seed == 0:
            sys.stdout.write(f"{datetime.now(UTC).isoformat()}\n")
            sys.stdout.flush()
        if told_to_end.wait(pause):
            break
    writer.close()
    counts.close()


if __name__ == "__main__":
    main()

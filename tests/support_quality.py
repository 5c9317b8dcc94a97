"""A rollout's log for tests: two exported models of different quality, rows that the real writer logs and the real
shipper ships, outcomes that the real intake takes. Time is told, not waited for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
from numpy.typing import NDArray

from serinus.control.quality import QualitySettings, QualitySource
from serinus.core.evidence import QualityEvidence
from serinus.core.platform import Platform
from serinus.core.prediction import RANDOM_BYTES, prediction_ids
from serinus.core.prediction_log import LogCounts
from serinus.core.serving import ServingConfig
from serinus.core.signature import Column, Signature, View
from serinus.core.spec import ModelDeploymentSpec
from serinus.core.spec.log import PredictionLog
from serinus.core.spec.rollout import Quality
from serinus.core.version import Lineage, ModelVersion
from serinus.engines.archive import HANDLER, MODEL, PROFILE, SIGNATURE, write_archive
from serinus.engines.exported import NamedColumns, export_module, load_exported, save_exported
from serinus.engines.prediction_store import PredictionStore
from serinus.serve.log import LogWriter, epoch
from serinus.serve.outcomes import Intake
from serinus.serve.served import Origins, Served
from serinus.serve.ship import Shipper
from tests.projects.tiny.model import Network
from tests.support_log import Counted

NAME = "tiny"
BEGAN = datetime(2024, 5, 2, 12, tzinfo=UTC)
AS_OF = BEGAN - timedelta(days=3)
STABLE, CANARY = 1, 2
TINY = Signature(
    model=NAME,
    feature_service=NAME,
    join_keys={"shop": "String"},
    views=(View(name="shop_hourly", join_keys=("shop",), ttl_seconds=7200),),
    columns=(
        Column(name="shop_hourly__queue", kind="number", dtype="Float64", view="shop_hourly"),
        Column(name="shop_hourly__staff", kind="number", dtype="Int64", view="shop_hourly"),
        Column(name="amount", kind="number", dtype="Float64"),
        Column(name="channel", kind="category", dtype="String", categories=("desk", "phone", "web")),
    ),
)
Columns = dict[str, NDArray[np.generic]]


def draw(rows: int, seed: int) -> tuple[Columns, NDArray[np.int64]]:
    """Orders and whether they are returned; some values are missing."""
    random = np.random.default_rng(seed)
    queue, amount = random.gamma(2.0, 3.0, rows), random.exponential(40, rows)
    channel = random.integers(0, 3, rows)
    logit = -2.2 + 0.25 * queue + 0.01 * amount + np.array([-0.6, 0.0, 0.6])[channel]
    columns: Columns = {
        "shop_hourly__queue": np.where(random.random(rows) < 0.05, np.nan, queue),
        "shop_hourly__staff": random.integers(1, 6, rows).astype(np.float64),
        "amount": amount,
        "channel": np.array(["desk", "phone", "web"], dtype=object)[channel],
    }
    return columns, (random.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.int64)


_EXPORTED: dict[tuple[bool, str], bytes] = {}


def exported(blind: bool, signature: Signature, folder: Path) -> bytes:
    """A model's exported program; made once."""
    key = (blind, signature.schema_digest)
    if key not in _EXPORTED:
        save_exported(export_module(NamedColumns(fitted(blind, signature), signature)), folder / MODEL)
        _EXPORTED[key] = (folder / MODEL).read_bytes()
    return _EXPORTED[key]


def fitted(blind: bool, signature: Signature) -> Network:
    """The tiny project's network, trained on 4,000 orders; a blind one saw queues of other orders."""
    torch.manual_seed(0)
    columns, labels = draw(4000, seed=99)
    if blind:
        columns["shop_hourly__queue"] = columns["shop_hourly__queue"][::-1].copy()
    numbers, categories = signature.encode(
        {column.name: columns.get(column.name, columns["amount"]) for column in signature.columns}
    )
    module = NamedColumns(Network(signature, hidden=8), signature)
    named = module.columns(torch.from_numpy(numbers), torch.from_numpy(categories))
    module.module.prepare(named)
    optimiser = torch.optim.Adam(module.parameters(), lr=0.02)
    wanted = torch.from_numpy(labels).float()
    for _ in range(150):
        optimiser.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(module.module(named), wanted).backward()
        optimiser.step()
    return module.module.eval()


def packaged(folder: Path, version: int, blind: bool, signature: Signature = TINY) -> ModelVersion:
    """A version's real archive in a folder, as the registry would have it."""
    parts = {name: folder / f"parts-{version}" / name for name in (MODEL, SIGNATURE, PROFILE, HANDLER)}
    parts[MODEL].parent.mkdir(parents=True)
    parts[MODEL].write_bytes(exported(blind, signature, parts[MODEL].parent))
    parts[SIGNATURE].write_text(signature.model_dump_json())
    parts[PROFILE].write_text("{}")
    parts[HANDLER].write_text("handle = None\n")
    digest = write_archive(folder / f"{NAME}-{version}.mar", NAME, parts)
    lineage = Lineage(
        as_of=AS_OF, data_digest="", code_digest="", schema_digest="", parameters={}, pipeline_run=f"run-{version}"
    )
    return ModelVersion(
        name=NAME, version=version, archive=f"{NAME}-{version}.mar", digest=digest, run="", lineage=lineage
    )


class LogSite:
    """One predictor's log with two versions, of which the canary is the worse one."""

    def __init__(self, folder: Path, *, canary: Signature = TINY, log: dict[str, Any] | None = None) -> None:
        self.folder = folder
        self.log = {"destination": str(folder / "store"), **(log or {})}
        self.registry = folder / "registry"
        self.signatures = {STABLE: TINY, CANARY: canary}
        self.versions = {
            STABLE: packaged(self.registry, STABLE, blind=False),
            CANARY: packaged(self.registry, CANARY, blind=True, signature=canary),
        }
        self.models = {number: load_exported(self.registry / f"parts-{number}" / MODEL) for number in (STABLE, CANARY)}
        self.store = PredictionStore(str(folder / "store"))
        self.clock = BEGAN
        self.counted = Counted()
        self.answered = 0
        self._batches = 0
        spool = folder / "spool"
        self._shipper = Shipper(spool, self.store, 10**9, folder, epoch(folder / "metrics"))
        self._intake = Intake(self._config(STABLE), spool, lambda: self.clock)

    def close(self) -> None:
        self._shipper.close()

    def _config(self, version: int) -> ServingConfig:
        spec = {"model": {"name": NAME, "version": version}, "log": self.log}
        return ServingConfig(
            version=version, digest="", deployment=ModelDeploymentSpec.model_validate(spec, by_alias=True),
            platform=Platform.local(self.folder), feature_project=NAME, metrics_dir=self.folder / "metrics",
            spool_dir=self.folder / "spool",
        )  # fmt: skip

    def serve(
        self, at: datetime, version: int, asked: tuple[Columns, Sequence[str | None]], *, shadow: bool = False
    ) -> list[str]:
        """Answer rows at a time, each under the caller's id, and write a closed segment of them; gives their ids."""
        columns, callers = asked
        rows = len(callers)
        self._batches += 1
        moment = int(at.timestamp() * 1_000_000)
        random = np.random.default_rng(self._batches)
        signature = self.signatures[version]
        ids = prediction_ids(moment // 1000, random.bytes(RANDOM_BYTES * rows))
        served = Served(
            moment, ids, self.models[version].probabilities(*signature.encode(columns)),
            np.full(rows, moment, dtype=np.int64), Origins([None] * rows, [shadow] * rows), [1] * rows,
            {"id": list(callers), "shop": ["north"] * rows},
            {column.name: columns[column.name] for column in signature.columns},
            {"shop_hourly": np.full(rows, moment, dtype=np.int64)}, {"shop_hourly": np.zeros(rows, dtype=np.int8)},
        )  # fmt: skip
        writer = LogWriter(self._config(version), signature, self.folder / "spool", self.counted)
        writer.add(served)
        writer.close()
        self.answered += rows
        return ids

    def report(self, at: datetime, rows: Sequence[tuple[str, int]], by: str = "id") -> None:
        """Outcomes that an application posts, by the caller's id or the prediction's."""
        self.clock = at
        posted = self._intake.post(orjson.dumps([{by: name, "label": int(label)} for name, label in rows]))
        assert not posted.errors

    def ship(self) -> None:
        self._intake.close()
        assert self._shipper.step()

    def counts(self) -> LogCounts:
        """The stations of the log, as a sidecar's metrics show them."""
        shipped = spooled = 0
        for (stream, _, _), (totals, waiting) in self._shipper.balance().items():
            if stream == "predictions":
                shipped, spooled = shipped + totals.rows, spooled + waiting.rows
        dropped: Counter[str] = Counter()
        for (name, *labels), amount in self.counted.values.items():
            if name == "dropped":
                dropped[labels[0]] += amount
        return LogCounts(
            answered=self.answered, logged=self.counted["rows_total"], dropped=dict(dropped), shipped=shipped,
            spooled=spooled,
        )  # fmt: skip

    def fetch(self, version: ModelVersion, folder: Path) -> Path:
        return self.registry / version.archive

    def source(self, cache: str = "quality", **settings: object) -> QualitySource:
        """A new source of evidence, as after a restart."""
        usual = {"quality": Quality(), "log": PredictionLog(), "grace": timedelta(0)}
        return QualitySource(
            self.store,
            self.folder / cache,
            self.fetch,
            self.counts,
            QualitySettings(**(usual | settings)),  # type: ignore[arg-type]
        )

    def evidence(self, source: QualitySource, now: datetime) -> QualityEvidence:
        return source.evidence(self.versions[CANARY], self.versions[STABLE], BEGAN, now)

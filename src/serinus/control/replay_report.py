"""What a replay showed: the same rows scored offline, compared value by value and metric by metric."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from serinus.control.replay import Replayed, World
from serinus.core.dataset import EVENT_TIMESTAMP, ID, LABEL
from serinus.core.parity import Parity, compare
from serinus.core.prediction_log import Completeness
from serinus.core.signature import Signature
from serinus.engines.archive import MODEL, SIGNATURE, read_archive

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from numpy.typing import NDArray

    from serinus.control.traffic import Answer


class ReplaySummary(BaseModel):
    """The figures of a replay. Latencies are an application's, in milliseconds, connection reuse included.

    `log_rows` are in the prediction log, and `log_gap` is how many of the answered ones are not. What outcomes are
    needed for is None where they are too few, as they are in the first hours.
    """

    model_config = ConfigDict(frozen=True)

    rows_replayed: int
    rows_labelled: int
    errors: int
    features_equal: int
    features_different: int
    rows_different: int
    auc_online: float | None
    auc_offline: float | None
    log_loss_online: float | None
    log_loss_offline: float | None
    latency_p50_ms: float
    latency_p99_ms: float
    requests_per_second: float
    pipeline_runs: int
    outcomes_reported: int
    log_rows: int | None
    log_gap: int | None
    first_error: str | None
    rows_by_version: dict[str, int]


@dataclass(frozen=True)
class Judged:
    """A replay's figures and the arrays behind them: one entry a row that was answered and whose outcome is known."""

    summary: ReplaySummary
    parity: Parity
    label: NDArray[np.int64]
    online: NDArray[np.float64]
    offline: NDArray[np.float64]
    day: NDArray[Any]


def judge_replay(world: World, replayed: Replayed) -> Judged:
    """Compare what was served with the same rows joined point in time and scored offline by the same version.

    Where several versions answered, each row is compared with the version that answered it.
    """
    service = world.loaded.training.spec.feature_service
    table = world.store.historical(service, replayed.requests)
    answered = np.array([answer.error is None for answer in replayed.answers])
    expected, views = _expected(world, replayed.answers, table)
    parity = _parity([answer for answer in replayed.answers if answer.error is None], table.filter(answered), views)
    label = _labels(replayed)
    judged = answered & ~np.isnan(label)
    online = np.array([np.nan if answer.probability is None else answer.probability for answer in replayed.answers])
    truth = label[judged].astype(np.int64)
    summary = _summary(replayed, parity, truth, (online[judged], expected[judged]))
    day = replayed.requests[EVENT_TIMESTAMP].dt.floor("D").dt.tz_localize(None).to_numpy()[judged]
    return Judged(summary, parity, truth, online[judged], expected[judged], day)


def _expected(
    world: World, answers: Sequence[Answer], table: pa.Table
) -> tuple[NDArray[np.float64], dict[str, frozenset[str]]]:
    """What the version that answered each row gives offline, NaN where none did; and each version's columns of views.

    Raises:
        IntegrityError: an archive is not the one that was registered.
    """
    from serinus.training.evaluate import predict
    from serinus.training.rows import Rows

    by = np.array([answer.version or "" for answer in answers])
    expected = np.full(len(answers), np.nan)
    views: dict[str, frozenset[str]] = {}
    for version in sorted({*by.tolist()} - {""}):
        file, digest = (world.archive, world.digest) if world.others is None else world.others(int(version))
        with read_archive(file, digest) as archive, tempfile.TemporaryDirectory() as scratch:
            signature = Signature.model_validate_json(archive.read(SIGNATURE))
            archive.extract(Path(scratch))
            own = by == version
            expected[own] = predict(Path(scratch) / MODEL, signature, Rows(table.filter(own)))
        views[version] = frozenset(column.name for column in signature.columns if column.view is not None)
    return expected, views


def _summary(
    replayed: Replayed, parity: Parity, label: NDArray[np.int64], scored: tuple[NDArray[Any], NDArray[Any]]
) -> ReplaySummary:
    from sklearn.metrics import log_loss, roc_auc_score

    online, offline = scored
    both = 0 < label.sum() < len(label)
    failures = [answer.error for answer in replayed.answers if answer.error is not None]
    milliseconds = np.array([answer.seconds for answer in replayed.answers]) * 1000
    return ReplaySummary(
        rows_replayed=len(replayed.answers),
        rows_labelled=len(label),
        errors=len(failures),
        features_equal=parity.equal,
        features_different=parity.different,
        rows_different=parity.rows_different,
        auc_online=roc_auc_score(label, online) if both else None,
        auc_offline=roc_auc_score(label, offline) if both else None,
        log_loss_online=log_loss(label, online) if both else None,
        log_loss_offline=log_loss(label, offline) if both else None,
        latency_p50_ms=float(np.quantile(milliseconds, 0.5)),
        latency_p99_ms=float(np.quantile(milliseconds, 0.99)),
        requests_per_second=len(replayed.answers) / replayed.seconds_asking,
        pipeline_runs=replayed.runs,
        outcomes_reported=replayed.reported,
        log_rows=replayed.log.kept if replayed.log else None,
        log_gap=_gap(replayed.log, len(replayed.answers) - len(failures)) if replayed.log else None,
        first_error=failures[0] if failures else None,
        rows_by_version=dict(sorted(Counter(each.version for each in replayed.answers if each.version).items())),
    )


def _gap(log: Completeness, answered: int) -> int:
    """Rows that were answered and are not in the log. Copies for a canary's shadow are answered too, but to nobody."""
    return max(answered, log.answered) - log.kept


def _labels(replayed: Replayed) -> NDArray[np.float64]:
    known: pd.Series = replayed.outcomes.set_index(ID)[LABEL]
    labels: NDArray[np.float64] = replayed.requests[ID].map(known).to_numpy(dtype=np.float64)
    return labels


def _parity(answers: Sequence[Answer], offline: pa.Table, views: Mapping[str, frozenset[str]]) -> Parity:
    """Served values against offline ones; a row has no value of a column that its version does not read."""
    served, expected = {}, {}
    for name in offline.column_names:
        readers = {version for version, columns in views.items() if name in columns}
        if not readers:
            continue
        reads = [answer.version in readers for answer in answers]
        values = offline.column(name).to_pandas().astype(object).to_numpy()
        expected[name] = np.asarray(np.where(reads, values, None), dtype=object)
        served[name] = np.array(
            [None if answer.served is None else answer.served.get(name) for answer in answers], dtype=object
        )
    return compare(served, expected)

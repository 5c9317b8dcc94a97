"""The stations of the prediction log as a running predictor's metrics show them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from serinus.core.errors import EngineError
from serinus.core.prediction_log import Completeness, LogCounts, completeness
from serinus.engines.waiting import wait_until

_STREAM = ("stream", "predictions")
_SPOOL_FULL = "spool_full"
Sample = tuple[str, frozenset[tuple[str, str]], float]


def read_counts(address: str, version: int | None = None) -> LogCounts:
    """Rows at each station, of one version or of all, since the predictor began to count.

    Args:
        address: the front door, such as `http://127.0.0.1:8080`.
        version: of the model.

    Raises:
        EngineError: the metrics cannot be read.
    """
    import httpx

    try:
        answer = httpx.get(f"{address}/metrics", timeout=20.0)
        answer.raise_for_status()
    except httpx.HTTPError as error:
        raise EngineError(
            f"cannot read {address}/metrics: {error}", hint="`serinus status` tells what is up"
        ) from error
    return parse_counts(answer.text, version)


def parse_counts(text: str, version: int | None = None) -> LogCounts:
    """The counts in a page of metrics, in Prometheus' text format."""
    wanted = set() if version is None else {("version", str(version))}
    return counts_of([each for each in _samples(text) if wanted <= each[1]])


def counts_of(samples: Sequence[Sample]) -> LogCounts:
    """The counts in samples: name, labels and value each. Others than the log's are ignored."""

    def total(name: str, *labels: tuple[str, str]) -> int:
        return int(sum(value for key, own, value in samples if key == name and set(labels) <= own))

    dropped: Counter[str] = Counter()
    for name, labels, value in samples:
        if name == "serinus_log_dropped_rows_total":
            dropped[dict(labels)["reason"]] += int(value)
    dropped[_SPOOL_FULL] += total("serinus_log_discarded_rows_total", _STREAM)
    return LogCounts(
        answered=total("serinus_rows_total", ("result", "ok")),
        logged=total("serinus_log_rows_total"),
        dropped=dict(dropped),
        shipped=total("serinus_log_shipped_rows_total", _STREAM),
        spooled=total("serinus_log_spool_rows", _STREAM),
    )


def settled(address: str, since: LogCounts, seconds: float) -> Completeness:
    """The balance of what happened since an earlier look; waits for rows that are on their way to a file.

    Raises:
        EngineError: the metrics cannot be read.
    """
    found: list[Completeness] = []

    def balanced() -> bool:
        found.append(completeness(read_counts(address) - since))
        return found[-1].gap == 0 and found[-1].unlogged == 0

    wait_until(balanced, seconds, every=0.2)
    return found[-1]


def _samples(text: str) -> Iterator[Sample]:
    from prometheus_client.parser import text_string_to_metric_families

    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            yield sample.name, frozenset(sample.labels.items()), sample.value

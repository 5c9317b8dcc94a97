"""Where evidence about versions comes from: one interface for the laptop's own scrape and for Prometheus.

A source raises nothing when something is not to be had. It says so in `missing`, and leaves totals, and the moment that
they belong to, as they were: a later look then counts what happened meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, Protocol

from serinus.control.arms import COUNTING, DOOR_UP, Sample, arms
from serinus.core.evidence import Snapshot
from serinus.core.spec.rollout import QueryGuard

Source = Literal["prometheus", "scrape"]
_SCRAPE_SECONDS = 10.0


class EvidenceSource(Protocol):
    """Something that knows the totals of each version."""

    def snapshot(self, versions: Sequence[int], previous: Snapshot | None, now: datetime) -> Snapshot:
        """Totals of versions.

        Args:
            versions: which.
            previous: the last snapshot of this source, whether or not anything was missing in it.
            now: the time.

        Returns:
            Totals at most as late as `now`, and at no time less than those of `previous` with the same epoch.
        """
        ...


class ScrapeSource:
    """Reads the metrics that one front door shows, with all workers behind it added up.

    Args:
        address: the front door, such as `http://127.0.0.1:8080`.
        model: whose versions are judged.
        queries: the user's own guards, which need Prometheus: with any, evidence is incomplete.
        seconds: how long the answer may take.
    """

    def __init__(
        self, address: str, model: str, queries: Sequence[QueryGuard] = (), seconds: float = _SCRAPE_SECONDS
    ) -> None:
        self._url = f"{address}/metrics"
        self._model = model
        self._queries = [f"{each.name} is a query, which only Prometheus answers" for each in queries if each.enabled]
        self._seconds = seconds

    def snapshot(self, versions: Sequence[int], previous: Snapshot | None, now: datetime) -> Snapshot:
        """Totals since the stack was started; see `EvidenceSource`."""
        import httpx

        try:
            answer = httpx.get(self._url, timeout=self._seconds)
            answer.raise_for_status()
            samples = parse(answer.text)
            found = arms(samples, self._model, versions)
        except httpx.HTTPError as error:
            return held("scrape", previous, now, f"{self._url} cannot be read: {error or type(error).__name__}")
        except (ValueError, KeyError, IndexError) as error:
            return held("scrape", previous, now, f"{self._url} shows no metrics that can be read: {error!r}")
        missing = [*self._queries]
        if not any(each.name == DOOR_UP and each.value == 1 for each in samples):
            missing.append("the front door does not tell how many requests it sent to each version")
        epochs = sorted(each.labels.get("epoch", "") for each in samples if each.name == COUNTING)
        return Snapshot(
            at=now,
            source="scrape",
            epoch="+".join(epochs),
            live=found.live,
            shadow=found.shadow,
            missing=tuple(missing),
        )


def parse(text: str) -> list[Sample]:
    """The samples of a page in Prometheus' text format.

    Raises:
        ValueError: it is not in this format.
    """
    from prometheus_client.parser import text_string_to_metric_families

    return [
        Sample(sample.name, sample.labels, sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]


def held(source: Source, previous: Snapshot | None, now: datetime, *missing: str) -> Snapshot:
    """What the source knew before, with what could not be had now."""
    if previous is None or previous.source != source:
        return Snapshot(at=now, source=source, live={}, missing=missing)
    return previous.model_copy(update={"missing": missing})

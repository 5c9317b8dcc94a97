"""What a predictor counts: the table of metrics, values in the profile's bins, observations of a whole batch."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram

from serinus.core.platform import Platform
from serinus.core.prediction import TRAFFIC
from serinus.core.profile import build_profile, profile_predictions
from serinus.core.serving import ServingConfig
from serinus.core.signature import Column, Signature
from serinus.core.spec import ModelDeploymentSpec
from serinus.serve import telemetry
from serinus.serve.telemetry import METRICS, Rows, Telemetry, ValueCounts, series
from tests.support import eventually

SIGNATURE = Signature(
    model="toy",
    feature_service="toy",
    join_keys={},
    views=(),
    columns=(
        Column(name="x", kind="number", dtype="Float64"),
        Column(name="colour", kind="category", dtype="String", categories=tuple(f"c{at}" for at in range(60))),
        Column(name="y", kind="number", dtype="Float64"),
    ),
)
RANDOM = np.random.default_rng(3)
NUMBERS = RANDOM.normal(size=(400, 2)).astype(np.float32)
CODES = RANDOM.integers(0, 62, (400, 1))
PROFILE = profile_predictions(build_profile(SIGNATURE, NUMBERS, CODES), RANDOM.random(400))


@pytest.fixture
def counted(tmp_path: Path) -> Iterator[tuple[Telemetry, CollectorRegistry, dict[str, str]]]:
    # Feast may have put this process into multi-process mode, where counts outlive a registry: a model of its own.
    name = f"toy-{uuid.uuid4().hex[:8]}"
    spec = ModelDeploymentSpec.model_validate({"model": {"name": name, "version": 7}})
    config = ServingConfig(
        version=7,
        digest="sha256:d",
        deployment=spec,
        platform=Platform.local(tmp_path),
        feature_project="toy",
        metrics_dir=tmp_path,
    )
    registry = CollectorRegistry()
    counts = Telemetry(config, SIGNATURE, PROFILE, registry)
    yield counts, registry, {"model": name, "version": "7"}
    counts.close()


def test_names_follow_the_conventions_of_prometheus() -> None:
    for metric in METRICS.values():
        assert re.fullmatch(r"serinus_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert metric.help.endswith(".") or metric.kind == "gauge"
        assert not metric.unit or metric.unit in ("seconds", "requests")
        assert metric.unit != "seconds" or metric.name.endswith("_seconds")
        assert bool(metric.buckets) == (metric.kind == "histogram")


def test_values_are_counted_in_the_profiles_own_bins() -> None:
    counts = ValueCounts(SIGNATURE, PROFILE)
    probabilities = RANDOM.random(400)
    for start in range(0, 400, 37):
        rows = slice(start, start + 37)
        counts.add(Rows(NUMBERS[rows], CODES[rows], probabilities[rows]))
    found, predictions = counts.take()
    expected = profile_predictions(build_profile(SIGNATURE, NUMBERS, CODES), probabilities)
    assert {name: tuple(bins) for name, bins in found.items()} == {
        histogram.name: histogram.counts for histogram in expected.columns
    }
    assert expected.prediction is not None
    assert {traffic: tuple(bins) for traffic, bins in predictions.items()} == {"live": expected.prediction.counts}
    assert counts.take() == ({}, {})


def test_missing_and_unseen_values_have_bins_of_their_own() -> None:
    counts = ValueCounts(SIGNATURE, PROFILE)
    counts.add(Rows(np.full((2, 2), np.nan, np.float32), np.array([[0], [1]]), np.array([0.0, 1.0])))
    found, predictions = counts.take()
    assert found["x"][0] == 2
    assert found["colour"][:2].tolist() == [1, 1]
    assert predictions["live"][1] == predictions["live"][-1] == 1


def test_predictions_of_copies_are_counted_apart_and_their_features_are_not() -> None:
    counts = ValueCounts(SIGNATURE, PROFILE)
    nothing = np.full((3, 2), np.nan, np.float32)
    counts.add(Rows(nothing, np.zeros((3, 1), np.int64), np.array([0.0, 1.0, 1.0]), np.array([False, True, True])))
    counts.add(Rows(nothing, np.zeros((3, 1), np.int64), np.array([0.0, 0.0, 0.0])))
    found, predictions = counts.take()
    assert found["x"][0] == 6
    assert (predictions["live"][1], predictions["live"].sum()) == (4, 4)
    assert (predictions["shadow"][-1], predictions["shadow"].sum()) == (2, 2)


def test_pending_values_are_written_by_themselves(
    counted: tuple[Telemetry, CollectorRegistry, dict[str, str]],
) -> None:
    counts, registry, labels = counted
    counts.served(Rows(np.full((3, 2), np.nan, np.float32), np.zeros((3, 1), np.int64), np.full(3, 0.5)))
    missing = labels | {"feature": "x", "bin": "0"}
    assert eventually(lambda: registry.get_sample_value("serinus_feature_values_total", missing) == 3)
    live = labels | {"bin": "11", "traffic": "live"}
    assert registry.get_sample_value("serinus_prediction_values_total", live) == 3


def test_many_waiting_rows_are_written_at_once(
    counted: tuple[Telemetry, CollectorRegistry, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    counts, registry, labels = counted
    monkeypatch.setattr(telemetry, "_PENDING_ROWS", 10)
    counts.served(Rows(np.zeros((10, 2), np.float32), np.zeros((10, 1), np.int64), np.full(10, 0.5)))
    live = labels | {"bin": "11", "traffic": "live"}
    assert registry.get_sample_value("serinus_prediction_values_total", live) == 10


def test_a_batch_is_counted(counted: tuple[Telemetry, CollectorRegistry, dict[str, str]]) -> None:
    counts, registry, labels = counted

    def value(name: str, **more: str) -> Any:
        return registry.get_sample_value(name, labels | more)

    counts.answered([200, 422, 200], 0.02)
    counts.rows(5, 2)
    counts.looked_up(0.001, 3, 4, 1)
    counts.missing("view", "absent", 2)
    counts.stale("view", 1)
    live = {"traffic": "live"}
    assert value("serinus_requests_total", code="200", **live) == 2
    assert value("serinus_requests_total", code="422", **live) == 1
    assert value("serinus_request_duration_seconds_count", **live) == 3
    assert value("serinus_request_duration_seconds_sum", **live) == pytest.approx(0.06)
    assert value("serinus_request_duration_seconds_bucket", le="0.015", **live) == 0
    assert value("serinus_request_duration_seconds_bucket", le="0.022", **live) == 3
    assert value("serinus_batch_size_sum") == 3
    assert value("serinus_rows_total", result="ok", **live) == 5
    assert value("serinus_rows_total", result="failed", **live) == 2
    assert value("serinus_feature_lookup_seconds_count") == 1
    assert value("serinus_feature_lookup_failures_total") == 1
    assert value("serinus_feature_cache_hits_total") == 3
    assert value("serinus_feature_cache_misses_total") == 4
    assert value("serinus_feature_missing_total", view="view", reason="absent", **live) == 2
    assert value("serinus_feature_stale_total", view="view", **live) == 1
    assert value("serinus_model_info", digest="sha256:d", schema_digest=SIGNATURE.schema_digest) == 1


def test_copies_are_counted_apart(counted: tuple[Telemetry, CollectorRegistry, dict[str, str]]) -> None:
    counts, registry, labels = counted

    def value(name: str, **more: str) -> Any:
        return registry.get_sample_value(name, labels | more)

    counts.answered([200, 500, 200, 500, 200], 0.02, [False, True, False, True, True])
    assert [value("serinus_requests_total", code=code, traffic="live") for code in ("200", "500")] == [2, None]
    assert [value("serinus_requests_total", code=code, traffic="shadow") for code in ("200", "500")] == [1, 2]
    assert value("serinus_request_duration_seconds_count", traffic="live") == 2
    assert value("serinus_request_duration_seconds_count", traffic="shadow") == 3
    assert value("serinus_batch_size_sum") == 5


def test_slow_requests_can_be_counted_at_edges_that_are_close() -> None:
    edges = METRICS["serinus_request_duration_seconds"].buckets
    assert (edges[0], edges[-1], len(edges)) == (0.0005, 5.0, 25)
    assert max(high / low for low, high in pairwise(edges)) < 1.53


@given(st.floats(0, 10) | st.sampled_from([0.001, 0.005, 5.0]), st.integers(1, 5))
def test_one_observation_of_many_equals_many_observations(value: float, times: int) -> None:
    def histogram() -> Histogram:
        return Histogram(f"h{uuid.uuid4().hex}", "help", registry=None, buckets=(0.001, 0.005, 5.0))

    one, many = histogram(), histogram()
    telemetry._observe(one, value, times)
    for _ in range(times):
        many.observe(value)
    samples = [
        {(sample.name.rpartition("_")[2], tuple(sample.labels.values())): sample.value for sample in each.samples}
        for each in (*one.collect(), *many.collect())
    ]
    created = [{key: found for key, found in each.items() if key[0] != "created"} for each in samples]
    assert created[0] == pytest.approx(created[1])


def test_the_number_of_series_is_bounded(counted: tuple[Telemetry, CollectorRegistry, dict[str, str]]) -> None:
    counts, registry, _ = counted
    every_code = np.arange(62)[:, None].repeat(10, axis=0)
    wide = RANDOM.normal(0, 5, (len(every_code), 2)).astype(np.float32)
    wide[0] = np.nan
    copies = np.arange(len(every_code)) % 2 == 0
    counts.served(Rows(wide, every_code, np.linspace(0, 1, len(every_code)), copies))
    counts.served(Rows(wide, every_code, np.linspace(0, 1, len(every_code)), ~copies))
    counts.flush()
    codes = [200, 400, 404, 422, 500, 503, 504]
    counts.answered(codes * 2, 0.1, [False] * 7 + [True] * 7)
    counts.waited([0.001])
    counts.looked_up(0.1, 1, 1, 1)
    for traffic in TRAFFIC:
        counts.rows(1, 1, traffic)
        for reason in ("absent", "early", "unavailable"):
            counts.missing("view", reason, 1, traffic)
        counts.stale("view", 1, traffic)
    for name in ("rows", "appended_rows", "appended_bytes", "segments"):
        counts.count(f"serinus_log_{name}_total", 1)
    for reason in ("sampled", "queue_full", "disk_full", "disk_error", "invalid"):
        counts.count("serinus_log_dropped_rows_total", 1, reason)
    samples = [
        sample for family in registry.collect() for sample in family.samples if not sample.name.endswith("_created")
    ]
    assert len(samples) <= series(PROFILE, views=1) <= len(samples) + 10

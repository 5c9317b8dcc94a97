"""A question about quality stays the same question whenever it is asked, and nothing else does."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serinus.core.prediction_log import LogCounts
from serinus.core.question import Question
from serinus.core.spec.log import PredictionLog
from serinus.core.spec.rollout import Quality

times = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)).map(lambda each: each.replace(tzinfo=UTC))
rows = st.integers(0, 2**53)
delays = st.timedeltas(timedelta(0), timedelta(days=400))
counts = st.builds(
    LogCounts, answered=rows, logged=rows, shipped=rows, spooled=rows,
    dropped=st.dictionaries(st.sampled_from(["sampled", "spool_full", "disk_full"]), rows),
)  # fmt: skip
questions = st.builds(
    Question,
    model=st.from_regex(r"[a-z]{1,8}", fullmatch=True),
    canary=st.integers(1, 99),
    stable=st.integers(1, 99),
    since=times,
    quality=st.builds(Quality, margin=st.floats(0.001, 0.5), early_outcomes=st.booleans(), metric=st.just("brier")),
    log=st.builds(
        PredictionLog,
        segment_age=st.integers(1, 10**8).map(lambda each: timedelta(milliseconds=each)),
        destination=st.sampled_from([None, "s3://bucket/log", "/var/log"]),
    ),
    label_delay=delays,
    holdout=st.none() | delays,
    whole_cohorts=st.booleans(),
    lag=delays,
    counts=counts,
    asked=times,
)


@given(questions, counts, times)
def test_counts_and_time_make_no_other_question(question: Question, later: LogCounts, at: datetime) -> None:
    again = question.again(later, at)
    assert (again.counts, again.asked) == (later, at)
    assert again.identity == question.identity


@given(questions)
def test_it_is_the_same_after_it_was_written_and_read(question: Question) -> None:
    read = Question.model_validate_json(question.model_dump_json(by_alias=True))
    assert read == question
    assert read.identity == question.identity


@pytest.mark.parametrize(
    "change",
    [
        {"model": "trains"},
        {"canary": 9},
        {"stable": 9},
        {"since": datetime(2024, 1, 2, tzinfo=UTC)},
        {"quality": Quality(tolerance=0.001)},
        {"log": PredictionLog(destination="s3://other")},
        {"label_delay": timedelta(hours=2)},
        {"holdout": timedelta(days=1)},
        {"whole_cohorts": False},
        {"lag": timedelta(seconds=31)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_anything_else_makes_another_one(change: dict[str, Any]) -> None:
    question = Question(
        model="flights",
        canary=4,
        stable=3,
        since=datetime(2024, 1, 1, tzinfo=UTC),
        quality=Quality(),
        log=PredictionLog(destination="s3://bucket/log"),
        label_delay=timedelta(hours=1),
        holdout=None,
        whole_cohorts=True,
        lag=timedelta(seconds=30),
        counts=LogCounts(answered=0, logged=0, shipped=0, spooled=0),
        asked=datetime(2024, 1, 1, tzinfo=UTC),
    )
    assert question.model_copy(update=change).identity != question.identity

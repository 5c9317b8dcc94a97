"""How `serinus models` shows versions: whole, in 80 columns and without any."""

import io
from datetime import UTC, datetime

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from serinus.cli.models import show
from serinus.core.version import Lineage, ModelVersion

RUN = "scheduled-20130902-1200-20261126-201035-000761"


def version(number, *aliases):
    digest = "sha256:" + f"{number:x}" * 64
    lineage = Lineage(
        as_of=datetime(2013, 9, 2, 12, tzinfo=UTC),
        data_digest=digest,
        code_digest=digest,
        schema_digest=digest,
        parameters={},
        pipeline_run=RUN,
        compared_with=None,
    )
    return ModelVersion(
        name="flights",
        version=number,
        archive="flights.mar",
        digest=digest,
        run="r",
        aliases=aliases,
        lineage=lineage,
        metrics={"roc_auc": 0.7488},
    )


def shown(*versions, **how):
    written = io.StringIO()
    show(Console(file=written, **how), "flights", versions)
    return written.getvalue()


def test_a_terminal_of_80_columns_shows_one_line_a_version():
    text = shown(version(2, "challenger"), version(1, "champion"), force_terminal=True, width=80, no_color=True)
    assert all(cell_len(Text.from_ansi(line).plain) <= 80 for line in text.splitlines())
    (line,) = (line for line in text.splitlines() if "champion" in line)
    assert line.split() == ["1", "champion", "2013-09-02", "12:00", "0.7488", "-", "11111111", "11111111"]
    assert f"version 2: run {RUN}" in text


@pytest.mark.parametrize("how", [{}, {"force_terminal": True, "width": 40, "no_color": True}])
def test_nothing_is_cut(how):
    text = shown(version(12, "challenger", "champion", "a-very-long-alias-of-somebody"), **how)
    assert "…" not in text
    if not how:
        assert "challenger, champion, a-very-long-alias-of-somebody" in text
    assert RUN in text.replace("\n", "")

"""These tests need Kubeflow Pipelines, and are only collected where the testbed has it: `LEVEL=pipelines make
test-cluster` starts it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from tests.cluster.node.conftest import gateway  # noqa: F401 - models are trained here to be served
from tests.cluster.testbed import pipelines, storage
from tests.cluster.testbed.levels import expected
from tests.cluster.testbed.site import ADDRESS
from tests.support import eventually

# Imported where they are used, and seconds after: nothing of this is collected at other levels.
if TYPE_CHECKING:
    import kfp
    from kfp.dsl.base_component import BaseComponent
    from pyarrow.fs import S3FileSystem

AT_LEVEL = expected("pipelines")
ENDED = {"SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"}
SECONDS = 240

collect_ignore_glob = [] if AT_LEVEL else ["test_*.py"]

Submit = Callable[..., str]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say that there is more."""
    if not AT_LEVEL:
        terminalreporter.write_line(
            "not collected: tests/cluster/pipelines, which needs Kubeflow Pipelines: LEVEL=pipelines make test-cluster"
        )


@pytest.fixture(scope="session")
def pipelines_client() -> kfp.Client:
    """A client of the testbed's API server."""
    import kfp

    # It says of each server that there are older ones.
    with pytest.warns(FutureWarning, match="and later versions"):
        return kfp.Client(host=pipelines.URL)


@pytest.fixture(scope="session")
def objects() -> S3FileSystem:
    """The testbed's object store: paths start with a bucket."""
    from pyarrow.fs import S3FileSystem

    return S3FileSystem(
        access_key=storage.KEY,
        secret_key=storage.SECRET,
        endpoint_override=f"{ADDRESS}:{storage.S3}",
        scheme="http",
        region="us-east-1",
    )


@pytest.fixture
def submit(pipelines_client: kfp.Client) -> Submit:
    """Runs a pipeline, nothing of it taken from a cache; its id."""

    def run(pipeline: BaseComponent, **arguments: Any) -> str:
        made = pipelines_client.create_run_from_pipeline_func(pipeline, arguments=arguments, enable_caching=False)
        return str(made.run_id)

    return run


def outcome(client: kfp.Client, run: str) -> str:
    """How a run has ended, waited for."""

    def ended() -> str | None:
        state = client.get_run(run).state
        return str(state) if state in ENDED else None

    return str(eventually(ended, timeout=SECONDS, interval=0.5))

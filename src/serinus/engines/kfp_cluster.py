"""Kubeflow Pipelines on a cluster: its REST API, by the client that Kubeflow generates for it.

A run has no name that the server keeps unique. So a run is started by `start` only: it looks for one of that name in
its experiment first, and whoever died between asking and noting the answer finds what was made.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from serinus.core.errors import Conflict, EngineError, NotFound

State = Literal["pending", "running", "succeeded", "failed", "canceled"]

_STATES: dict[str, State] = {
    "PENDING": "pending",
    "RUNNING": "running",
    "PAUSED": "running",
    "SUCCEEDED": "succeeded",
    "SKIPPED": "succeeded",
    "FAILED": "failed",
    "CANCELING": "running",
    "CANCELED": "canceled",
}
_PAGE = 100
_TIMEOUT = (5, 30)  # seconds to connect, and to wait for an answer


@dataclass(frozen=True)
class PipelineServer:
    """Where Kubeflow Pipelines is, and who asks.

    Attributes:
        url: of its API, as `http://ml-pipeline.kubeflow:8888`.
        namespace: whose runs these are, where Kubeflow tells users apart; None where it does not.
        token: a bearer token.
        token_file: holds one, which may be renewed at any time.
        cookie: a session's, as a browser has it.
        ca_file: the authority that signed the server's certificate.
    """

    url: str
    namespace: str | None = None
    token: str | None = None
    token_file: Path | None = None
    cookie: str | None = None
    ca_file: Path | None = None


@dataclass(frozen=True)
class Asked:
    """A run to start: what of, how, as whom.

    Attributes:
        experiment: groups runs; it is made where it is missing.
        name: of the run, one in its experiment.
        pipeline: the compiled pipeline.
        parameters: the pipeline's.
        account: service account of its pods; the server's own choice where None.
    """

    experiment: str
    name: str
    pipeline: Path
    parameters: dict[str, Any]
    account: str | None = None


@dataclass(frozen=True)
class Task:
    """One step of a run. `seconds` is how long it took, where it is over."""

    name: str
    state: State
    seconds: float = 0.0


@dataclass(frozen=True)
class ClusterRun:
    """A run as the server tells it. `error` is why it failed, as far as the server knows."""

    id: str
    name: str
    state: State
    created: datetime
    finished: datetime | None
    error: str
    tasks: tuple[Task, ...] = ()

    @property
    def over(self) -> bool:
        """Whether nothing of it will change any more."""
        return self.state in ("succeeded", "failed", "canceled")


class Pipelines:
    """Runs and pipelines on one server."""

    def __init__(self, server: PipelineServer) -> None:
        self._server = server

    def check(self) -> str:
        """The server's version.

        Raises:
            EngineError: it does not answer, or wants to know who asks.
        """
        import kfp_server_api as api

        with self._translated("asked for its version"):
            found = api.HealthzServiceApi(self._client).healthz_service_get_healthz(_request_timeout=_TIMEOUT)
        return str(getattr(found, "tag_name", "") or "unknown")

    def start(self, asked: Asked) -> ClusterRun:
        """Start a run, or find the one that was started under its name.

        Raises:
            EngineError: the server refuses the pipeline or its parameters, or does not answer.
        """
        import kfp_server_api as api

        experiment = self._experiment(asked.experiment)
        found = self._find(experiment, asked.name)
        if found is not None:
            return found
        pipeline, version = self.upload(asked.experiment, asked.pipeline)
        body = api.V2beta1Run(
            experiment_id=experiment,
            display_name=asked.name,
            pipeline_version_reference=api.V2beta1PipelineVersionReference(
                pipeline_id=pipeline, pipeline_version_id=version
            ),
            runtime_config=api.V2beta1RuntimeConfig(parameters=asked.parameters),
            service_account=asked.account,
        )
        with self._translated(f"asked to run {asked.name}"):
            made = self._runs.run_service_create_run(run=body, _request_timeout=_TIMEOUT)
        return _run(made)

    def upload(self, name: str, compiled: Path) -> tuple[str, str]:
        """Make a compiled pipeline known under a name, as a version named by its digest; the ids of both."""
        version = hashlib.sha256(compiled.read_bytes()).hexdigest()[:12]
        pipeline = self._pipeline(name)
        if pipeline is None:
            with self._translated(f"given the pipeline {name}"):
                pipeline = str(
                    self._uploads.upload_pipeline(
                        uploadfile=str(compiled), name=name, **self._space, _request_timeout=_TIMEOUT
                    ).pipeline_id
                )
        known = self._version(pipeline, version)
        if known is None:
            with self._translated(f"given version {version} of the pipeline {name}"):
                known = str(
                    self._uploads.upload_pipeline_version(
                        uploadfile=str(compiled), name=version, pipelineid=pipeline, _request_timeout=_TIMEOUT
                    ).pipeline_version_id
                )
        return pipeline, known

    def get(self, run: str) -> ClusterRun:
        """A run by its id.

        Raises:
            NotFound: there is none.
        """
        with self._translated(f"asked for the run {run}"):
            return _run(self._runs.run_service_get_run(run_id=run, _request_timeout=_TIMEOUT))

    def runs(self, experiment: str) -> Iterator[ClusterRun]:
        """All runs of an experiment, the newest first."""
        token = ""
        found = self._experiment(experiment)
        while True:
            with self._translated(f"asked for the runs of {experiment}"):
                page = self._runs.run_service_list_runs(
                    experiment_id=found,
                    sort_by="created_at desc",
                    page_size=_PAGE,
                    page_token=token,
                    _request_timeout=_TIMEOUT,
                )
            yield from map(_run, page.runs or ())
            token = page.next_page_token or ""
            if not token:
                return

    def terminate(self, run: str) -> None:
        """Stop a run; one that is over stays as it is."""
        with self._translated(f"asked to stop the run {run}"):
            self._runs.run_service_terminate_run(run_id=run, _request_timeout=_TIMEOUT)

    def delete(self, run: str) -> None:
        """Forget a run, and remove what it left in the cluster; one that is gone already stays so."""
        try:
            with self._translated(f"asked to delete the run {run}"):
                self._runs.run_service_delete_run(run_id=run, _request_timeout=_TIMEOUT)
        except NotFound:
            return

    def _find(self, experiment: str, name: str) -> ClusterRun | None:
        with self._translated(f"asked for the run {name}"):
            page = self._runs.run_service_list_runs(
                experiment_id=experiment, filter=_named(name), page_size=1, _request_timeout=_TIMEOUT
            )
        return _run(page.runs[0]) if page.runs else None

    def _experiment(self, name: str) -> str:
        import kfp_server_api as api

        client = api.ExperimentServiceApi(self._client)
        with self._translated(f"asked for the experiment {name}"):
            page = client.experiment_service_list_experiments(
                filter=_named(name), **self._space, _request_timeout=_TIMEOUT
            )
            if page.experiments:
                return str(page.experiments[0].experiment_id)
            body = api.V2beta1Experiment(display_name=name, **self._space)
            made = client.experiment_service_create_experiment(experiment=body, _request_timeout=_TIMEOUT)
        return str(made.experiment_id)

    def _pipeline(self, name: str) -> str | None:
        with self._translated(f"asked for the pipeline {name}"):
            page = self._known.pipeline_service_list_pipelines(
                filter=_named(name), **self._space, _request_timeout=_TIMEOUT
            )
        return str(page.pipelines[0].pipeline_id) if page.pipelines else None

    def _version(self, pipeline: str, name: str) -> str | None:
        with self._translated(f"asked for version {name} of a pipeline"):
            page = self._known.pipeline_service_list_pipeline_versions(
                pipeline_id=pipeline, filter=_named(name), _request_timeout=_TIMEOUT
            )
        return str(page.pipeline_versions[0].pipeline_version_id) if page.pipeline_versions else None

    @property
    def _space(self) -> dict[str, str]:
        return {} if self._server.namespace is None else {"namespace": self._server.namespace}

    @cached_property
    def _client(self) -> Any:
        import kfp_server_api as api

        server = self._server
        configuration = api.Configuration(host=server.url.rstrip("/"))
        if server.ca_file is not None:
            configuration.ssl_ca_cert = str(server.ca_file)
        if server.token is not None or server.token_file is not None:
            configuration.api_key["authorization"] = server.token or ""
            configuration.api_key_prefix["authorization"] = "Bearer"
        if server.token_file is not None:
            configuration.refresh_api_key_hook = self._renew
        return api.ApiClient(configuration, cookie=server.cookie)

    def _renew(self, configuration: Any) -> None:
        assert self._server.token_file is not None
        try:
            configuration.api_key["authorization"] = self._server.token_file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise EngineError(f"the token in {self._server.token_file} cannot be read: {error.strerror}") from error

    @cached_property
    def _runs(self) -> Any:
        import kfp_server_api as api

        return api.RunServiceApi(self._client)

    @cached_property
    def _known(self) -> Any:
        import kfp_server_api as api

        return api.PipelineServiceApi(self._client)

    @cached_property
    def _uploads(self) -> Any:
        import kfp_server_api as api

        return api.PipelineUploadServiceApi(self._client)

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        import urllib3
        from kfp_server_api.exceptions import ApiException

        where = f"Kubeflow Pipelines at {self._server.url}"
        try:
            yield
        except ApiException as error:
            if error.status == 404:
                raise NotFound(f"{where}, {what}, has none") from error
            if error.status == 409:
                raise Conflict(f"{where}, {what}, has one already") from error
            hint = "give a token, or a cookie of a session" if error.status in (401, 403) else None
            raise EngineError(f"{where}, {what}, answered {error.status}: {_told(error)}", hint=hint) from error
        except urllib3.exceptions.HTTPError as error:
            raise EngineError(f"{where} cannot be {what}: {error}", hint="is its address right?") from error


def _named(name: str) -> str:
    """A filter of lists, as filter.proto has it."""
    return json.dumps({"predicates": [{"key": "name", "operation": "EQUALS", "stringValue": name}]})


def _told(error: Any) -> str:
    """What the server said, without its stack of wrapped errors."""
    try:
        said = json.loads(error.body)
        text = str(said.get("error_message") or said.get("error") or said.get("message"))
    except (TypeError, ValueError, AttributeError):
        text = str(error.body or error.reason)
    return text if len(text) < 500 else f"{text[:500]}..."


def _run(found: Any) -> ClusterRun:
    details = found.run_details.task_details if found.run_details is not None else None
    error = found.error.message if found.error is not None else ""
    finished = found.finished_at
    return ClusterRun(
        id=str(found.run_id),
        name=str(found.display_name),
        state=_state(found.state),
        created=found.created_at.astimezone(UTC),
        # The server gives the beginning of 1970 for a run that goes on.
        finished=finished.astimezone(UTC) if finished is not None and finished.year > 1970 else None,
        error=str(error or ""),
        tasks=tuple(map(_task, _steps(details or ()))),
    )


def _steps(details: Any) -> list[Any]:
    """The pipeline's own steps, of all that the server does for a run: each has a driver."""
    names = {str(each.display_name) for each in details}
    return [each for each in details if each.display_name != "root" and f"{each.display_name}-driver" in names]


def _task(found: Any) -> Task:
    began, ended = found.start_time or found.create_time, found.end_time
    known = began is not None and ended is not None and ended > began
    return Task(str(found.display_name), _state(found.state), (ended - began).total_seconds() if known else 0.0)


def _state(word: Any) -> State:
    return _STATES.get(str(word or "PENDING"), "pending")

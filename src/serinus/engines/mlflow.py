"""The model registry: MLflow's tracking store and registry at any address, on a laptop an sqlite file.

A version exists only once everything it names is stored: the archive and all else go to a run first, the stored archive
is read back and compared, and creating the version, with every tag in the same transaction, is the last step. What
fails before leaves a run marked FAILED, without its files, and no version. MLflow's client is used directly: its fluent
interface keeps global state and looks for Git.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from serinus.core.errors import Conflict, EngineError, IntegrityError, NotFound, SerinusError
from serinus.core.version import CHALLENGER, CHAMPION, Lineage, ModelVersion, RunRecord
from serinus.engines import mlflow_text as text
from serinus.engines.files import publish, sha256

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion as Entity
    from mlflow.tracking import MlflowClient

logger = logging.getLogger(__name__)

ARCHIVES = "archive"  # the folder of a run's artifacts that holds the .mar
AGAIN = "made_again_by"  # tag of a version: the last run that made the very same archive

_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # it would end up in the output of --json
    # A server that hands artifacts through would send its clients to its store, which it alone may be able to reach.
    "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": "false",
    "MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD": "false",
}
_BATCH = 100
_PAGE = 1000


class Registry:
    """Registered models, their versions and aliases.

    Args:
        tracking_uri: MLflow's tracking store and registry: `sqlite:///...`, `postgresql://...`, `http(s)://...`.
        artifact_uri: where artifacts of new models go: a folder, `s3://...`; the server's own default where not given.
    """

    def __init__(self, tracking_uri: str, artifact_uri: str | None = None) -> None:
        self._tracking_uri = tracking_uri
        self._artifact_uri = artifact_uri

    def register(self, record: RunRecord, archive: Path, digest: str) -> ModelVersion:
        """Store an archive and make it a version; the same digest again gives the version there is.

        Raises:
            IntegrityError: the archive, as given or as stored, does not have that digest.
            EngineError: MLflow or its storage failed; nothing is registered and the call can be repeated.
        """
        existing = self._with_digest(record.name, digest)
        if existing:
            logger.info("%s version %d already has %s", record.name, existing[0].version, digest)
            with self._translated(f"could not note the run of {record.name}"):
                again = (str(existing[0].version), AGAIN, record.lineage.pipeline_run)
                self._client.set_model_version_tag(record.name, *again)
            return existing[0]
        _require_digest(archive, digest)
        run = self._record(record, archive, digest)
        version = self._create(record, run, archive.name, digest)
        first = self._with_digest(record.name, digest)[0]
        if first.version != version.version:  # another process registered the same archive at the same time
            with self._translated(f"could not withdraw {record.name} version {version.version}"):
                self._client.delete_model_version(record.name, str(version.version))
            self._abandon(run, "KILLED")
            return first
        logger.info("registered %s version %d, %s", version.name, version.version, digest)
        return version

    def keep(self, record: RunRecord) -> str:
        """Keep a run whose model does not become a version, and return the run's id; repeating changes nothing."""
        with self._translated(f"could not look for runs of {record.name}"):
            experiment = self._experiment(text.named(record.name))
            wanted = f"tags.pipeline_run = '{text.quotable(record.lineage.pipeline_run)}' and tags.accepted = 'false'"
            earlier = self._client.search_runs([experiment], f"{wanted} and attributes.status = 'FINISHED'")
        if earlier:
            return str(earlier[0].info.run_id)
        return str(self._record(record).info.run_id)

    def came_of(self, name: str, pipeline_run: str) -> ModelVersion | Literal["refused"] | None:
        """The version that a pipeline run registered or found registered, or that its candidate was refused; None
        where it left nothing."""
        run = text.quotable(pipeline_run)
        for tag in ("pipeline_run", AGAIN):
            if found := self._search(name, f"tags.{tag} = '{run}'"):
                return found[0]
        with self._translated(f"could not look for runs of {name}"):
            experiment = self._client.get_experiment_by_name(text.named(name))
            wanted = f"tags.pipeline_run = '{run}' and tags.accepted = 'false'"
            kept = self._client.search_runs([experiment.experiment_id], wanted) if experiment is not None else []
        return "refused" if kept else None

    def names(self) -> tuple[str, ...]:
        """Names of all registered models, in order."""
        with self._translated("could not list the registered models"):
            return tuple(sorted(model.name for model in self._models()))

    def versions(self, name: str) -> tuple[ModelVersion, ...]:
        """All versions of a model that Serinus registered, newest first; none if there is no such model."""
        found = self._search(name)
        return tuple(sorted(found, key=lambda version: version.version, reverse=True))

    def find(self, name: str, which: int | str) -> ModelVersion | None:
        """The version of that number or alias, or None."""
        number = which if isinstance(which, int) else self._aliases(name).get(which, 0)
        found = self._search(name, f"version_number = {number}") if number else []
        return found[0] if found else None

    def get(self, name: str, which: int | str) -> ModelVersion:
        """The version of that number or alias.

        Raises:
            NotFound: there is none; says which there are.
        """
        found = self.find(name, which)
        if found is not None:
            return found
        versions = self.versions(name)
        if versions:
            there = ", ".join(" ".join((str(item.version), *item.aliases)) for item in versions[:10])
            raise NotFound(f"model {name} has no version {which}", hint=f"it has: {there}")
        names = ", ".join(self.names()) or "none yet"
        raise NotFound(f"model {name} has no version yet", hint=f"registered models: {names}; train one first")

    def set_alias(self, name: str, alias: str, version: int) -> None:
        """Point an alias at a version, in one step: whoever asks sees the old version or the new one.

        Raises:
            NotFound: there is no such version.
        """
        self.get(name, version)
        with self._translated(f"could not make {name} version {version} the {alias}"):
            self._client.set_registered_model_alias(name, alias, str(version))
        logger.info("%s version %d is now %s", name, version, alias)

    def promote(self, name: str, version: int) -> None:
        """Make a version the champion; if it was the challenger, there is none any more.

        The champion moves in one step. Repeating the call finishes what an interrupted one left.
        """
        self.set_alias(name, CHAMPION, version)
        with self._translated(f"could not remove the alias {CHALLENGER} of {name}"):
            if self._aliases(name).get(CHALLENGER) == version:
                self._client.delete_registered_model_alias(name, CHALLENGER)

    def fetch(self, version: ModelVersion, folder: Path) -> Path:
        """Bring a version's archive into a folder as `NAME-VERSION.mar`, read-only, and return its path.

        The file appears only after its digest was verified; one that is already there and sound is kept.

        Raises:
            IntegrityError: the stored archive is not the one that was registered.
            EngineError: it could not be read or written.
        """
        target = folder / f"{version.name}-{version.version}.mar"
        if target.is_file() and sha256(target) == version.digest:
            return target
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as scratch:
            part = self._download(version.run, version.archive, Path(scratch))
            found = sha256(part)
            if found != version.digest:
                raise IntegrityError(
                    f"the registry's archive of {version.name} version {version.version} is damaged or was replaced: "
                    f"expected {version.digest}, found {found}",
                    hint="serve another version, or restore the file from a backup",
                )
            with self._translated(f"could not write {target}"):
                publish(part, target, 0o444)
        return target

    @cached_property
    def _client(self) -> MlflowClient:
        for variable, value in _SETTINGS.items():  # read when MLflow is imported
            os.environ.setdefault(variable, value)
        from mlflow.tracking import MlflowClient

        if "MLFLOW_LOGGING_LEVEL" not in os.environ:
            logging.getLogger("mlflow").setLevel(logging.WARNING)
            # It logs the stack of every database error that it also raises; ours carries the cause.
            logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
            warnings.filterwarnings("ignore", message="The ``noload`` loader strategy is deprecated")
        return MlflowClient(tracking_uri=self._tracking_uri, registry_uri=self._tracking_uri)

    @contextmanager
    def _translated(self, failure: str) -> Iterator[None]:
        """Turn what MLflow, its database and its artifact clients raise into our errors."""
        try:
            yield
        except SerinusError:
            raise
        except Exception as error:  # artifact stores raise their own clients' errors (botocore, requests, OSError, ...)
            lines = str(error).strip().splitlines()
            reason = lines[0] if lines else type(error).__name__
            raise EngineError(
                f"{failure}: {reason}", hint=f"registry {text.without_password(self._tracking_uri)}"
            ) from error

    def _with_digest(self, name: str, digest: str) -> list[ModelVersion]:
        found = self._search(name, f"tags.digest = '{text.quotable(digest)}'")
        return sorted(found, key=lambda version: version.version)

    def _search(self, name: str, condition: str = "") -> list[ModelVersion]:
        condition = f"name = '{text.named(name)}'" + (f" and {condition}" if condition else "")
        with self._translated("could not read the model registry"):
            entities = list(self._pages(self._client.search_model_versions, filter_string=condition))
        ours = [entity for entity in entities if "digest" in entity.tags]
        names: dict[int, list[str]] = {}
        for alias, number in (self._aliases(name) if ours else {}).items():  # a search's answers come without them
            names.setdefault(number, []).append(alias)
        return [_version(entity, sorted(names.get(int(entity.version), []))) for entity in ours]

    def _models(self, condition: str | None = None) -> Iterator[Any]:
        return self._pages(self._client.search_registered_models, filter_string=condition)

    def _aliases(self, name: str) -> dict[str, int]:
        with self._translated(f"could not read the aliases of {name}"):
            found = list(self._models(f"name = '{text.named(name)}'"))
        return {alias: int(version) for alias, version in found[0].aliases.items()} if found else {}

    def _pages(self, search: Any, **arguments: Any) -> Iterator[Any]:
        token: str | None = None
        while True:
            page = search(max_results=_PAGE, page_token=token, **arguments)
            yield from page
            token = page.token
            if not token:
                return

    def _record(self, record: RunRecord, archive: Path | None = None, digest: str | None = None) -> Run:
        """A finished run with everything in it; on a failure it is marked FAILED and its files are removed."""
        with self._translated(f"could not start a run for {record.name}"):
            tags = _tags(record) | ({"digest": digest} if digest else {})
            name = record.lineage.pipeline_run
            run = self._client.create_run(self._experiment(text.named(record.name)), run_name=name, tags=tags)
        try:
            with self._translated(f"could not store the run of {record.name}; nothing was registered"):
                self._fill(run, record)
                if archive and digest:
                    self._client.log_artifact(run.info.run_id, str(archive), ARCHIVES)
                    self._read_back(run, archive.name, digest)
                self._client.set_terminated(run.info.run_id, "FINISHED")
        except BaseException:
            self._abandon(run, "FAILED")
            raise
        return run

    def _fill(self, run: Run, record: RunRecord) -> None:
        from mlflow.entities import Metric, Param

        run_id = run.info.run_id
        moment = int(record.lineage.as_of.timestamp() * 1000)
        numbers = (record.metrics | record.details).items()
        metrics = [Metric(text.key(key), value, moment, 0) for key, value in numbers]
        params = [Param(text.key(key), value) for key, value in text.flat(record.lineage.parameters)]
        for start in range(0, max(len(metrics), len(params)), _BATCH):
            chunk = slice(start, start + _BATCH)
            self._client.log_batch(run_id, metrics=metrics[chunk], params=params[chunk])
        self._client.log_text(run_id, record.card, "card.md")
        for place, paths in record.attachments.items():
            for path in paths:
                log = self._client.log_artifacts if path.is_dir() else self._client.log_artifact
                log(run_id, str(path), place)

    def _read_back(self, run: Run, archive: str, digest: str) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            _require_digest(self._download(run.info.run_id, archive, Path(scratch)), digest)

    def _download(self, run_id: str, archive: str, scratch: Path) -> Path:
        with self._translated(f"could not read {archive} from the registry's artifacts"):
            return Path(self._client.download_artifacts(run_id, f"{ARCHIVES}/{archive}", str(scratch)))

    def _create(self, record: RunRecord, run: Run, archive: str, digest: str) -> ModelVersion:
        whole = {"lineage": record.lineage.model_dump_json(), "metrics": json.dumps(record.metrics)}
        tags = _tags(record) | whole | {"digest": digest, "archive": archive}
        try:
            with self._translated(f"could not create a version of {record.name}; nothing was registered"):
                self._ensure_model(record.name)
                source = f"{run.info.artifact_uri}/{ARCHIVES}"
                card = text.cut(record.card)
                return _version(
                    self._client.create_model_version(record.name, source, run.info.run_id, tags, description=card)
                )
        except BaseException:
            # The answer may have been lost after the version was made: its files go only if it surely does not exist.
            with suppress(EngineError):
                if not self._search(record.name, f"run_id = '{run.info.run_id}'"):
                    self._abandon(run, "FAILED")
            raise

    def _ensure_model(self, name: str) -> None:
        there = f"name = '{name}'"
        self._once(lambda: self._client.create_registered_model(name), lambda: any(self._models(there)))

    def _experiment(self, name: str) -> str:
        """The id of the model's experiment, made on first use."""
        found = self._client.get_experiment_by_name(name)
        if found is None:
            location = self._artifact_uri and f"{self._artifact_uri.rstrip('/')}/{name}"
            self._once(
                lambda: self._client.create_experiment(name, artifact_location=location),
                lambda: self._client.get_experiment_by_name(name) is not None,
            )
            found = self._client.get_experiment_by_name(name)
        if found.lifecycle_stage != "active":
            raise Conflict(f"MLflow's experiment {name} was deleted", hint="restore it in MLflow, or purge it")
        return str(found.experiment_id)

    def _once(self, create: Any, exists: Any) -> None:
        """Create something that another process may be creating at the same moment."""
        from mlflow.exceptions import MlflowException

        if exists():
            return
        try:
            create()
        except MlflowException:
            if not exists():
                raise

    def _abandon(self, run: Run, status: Literal["FAILED", "KILLED"]) -> None:
        """Remove a run's files, which also frees the space that may have run out, and mark it; never hides an error."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        try:
            get_artifact_repository(run.info.artifact_uri, self._tracking_uri, self._tracking_uri).delete_artifacts()
        except Exception:  # some stores cannot delete; the run is marked all the same
            logger.warning("could not remove the files of run %s", run.info.run_id, exc_info=True)
        try:
            self._client.set_terminated(run.info.run_id, status)
        except Exception:  # the failure that led here is the one to report
            logger.warning("could not mark run %s as %s", run.info.run_id, status, exc_info=True)


def _version(entity: Entity, aliases: Sequence[str] = ()) -> ModelVersion:
    tags = entity.tags
    return ModelVersion(
        name=entity.name,
        version=int(entity.version),
        archive=tags["archive"],
        digest=tags["digest"],
        run=entity.run_id,
        aliases=tuple(aliases),
        lineage=Lineage.model_validate_json(tags["lineage"]),
        metrics=json.loads(tags["metrics"]),
    )


def _tags(record: RunRecord) -> dict[str, str]:
    """What runs and versions are searched by. A version also has its lineage and metrics whole, as JSON: one read of
    the registry then lists versions in full, and the types of parameters survive."""
    lineage = record.lineage
    return {
        "accepted": str(record.accepted).lower(),
        "as_of": lineage.as_of.isoformat(),
        "data_digest": lineage.data_digest,
        "code_digest": lineage.code_digest,
        "schema_digest": lineage.schema_digest,
        "pipeline_run": lineage.pipeline_run,
    }


def _require_digest(archive: Path, digest: str) -> None:
    if not archive.is_file():
        raise NotFound(f"there is no model archive at {archive}", hint="package the model first")
    found = sha256(archive)
    if found != digest:
        raise IntegrityError(f"{archive}: expected {digest}, found {found}", hint="package the model again")

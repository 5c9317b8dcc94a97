"""What the operator is told by its environment, as its Deployment has it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serinus.core.errors import InvalidInput
from serinus.core.times import PositiveDuration
from serinus.engines.kubernetes_gateway import Front

PREFIX = "SERINUS_"


class Settings(BaseModel):
    """Each field is the environment variable of its name in capitals, after `SERINUS_`."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    gateway: Annotated[str, Field(pattern=r"^[a-z0-9-]+/[a-z0-9-]+$")] = "serinus-system/serinus"
    """The Gateway above all models, as `NAMESPACE/NAME`."""
    domain: str = "models.local"
    """Each model's host is `NAME.NAMESPACE.DOMAIN`."""
    prometheus_url: str | None = None
    """Where the evidence for rollouts comes from; without it every rollout holds."""
    prometheus_token_file: Path | None = None
    """Holds a bearer token for it."""
    prometheus_ca_file: Path | None = None
    """The authority that signed its certificate."""
    pipelines_url: str | None = None
    """Where Kubeflow Pipelines is, such as `http://ml-pipeline.kubeflow:8888`; without it nothing is trained."""
    pipelines_token_file: Path | None = None
    """Holds a bearer token for it, such as a service account's for its audience."""
    pipelines_ca_file: Path | None = None
    """The authority that signed its certificate."""
    pipelines_multi_user: bool = False
    """Whether it tells namespaces apart: runs then belong to the ContinuousTraining's."""
    pipelines_account: str | None = None
    """Service account of the runs' pods; its own choice where not given."""
    platform_secret: str = "serinus-platform"  # noqa: S105 - its name
    """The Secret with `platform.yaml`, in each namespace where pods of runs and of features start."""
    scrape_interval: PositiveDuration = timedelta(seconds=15)
    """How often Prometheus scrapes predictors: evidence is as old."""
    namespaces: str = ""
    """Namespaces that are looked after, with commas; all of them where empty."""
    own_namespace: str = "serinus-system"
    """Where the operator runs, and has its Lease."""
    identity: str = "serinus-operator"
    """This operator's name among several: its pod's."""
    workers: Annotated[int, Field(ge=1, le=64)] = 4
    """Resources that are looked at side by side."""
    resync: PositiveDuration = timedelta(seconds=60)
    """How often a resource is looked at when nothing happens."""

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Settings:
        """
        Raises:
            InvalidInput: a variable's value is none of its field; every one of them is told.
        """
        given = {name: environment.get(f"{PREFIX}{name.upper()}") for name in cls.model_fields}
        try:
            return cls.model_validate({name: value for name, value in given.items() if value})
        except ValidationError as error:
            wrong = "; ".join(f"{PREFIX}{str(each['loc'][0]).upper()}: {each['msg']}" for each in error.errors())
            raise InvalidInput(f"the operator's settings are wrong: {wrong}") from error

    @property
    def front(self) -> Front:
        """The Gateway."""
        namespace, name = self.gateway.split("/")
        return Front(namespace, name, self.domain)

    @property
    def watched(self) -> tuple[str, ...]:
        """The namespaces; none means all."""
        return tuple(each.strip() for each in self.namespaces.split(",") if each.strip())

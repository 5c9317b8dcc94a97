"""Where the engines are: the only thing that differs between a laptop and a cluster."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict


class Platform(BaseModel):
    """Addresses and folders of the engines. `Platform.local` gives the laptop's defaults under one folder.

    `offline_uri` is the folder of feature sources, or one of a bucket. `storage_options` tell fsspec who asks for what
    is in a bucket, and where it is. `online_store` is Feast's `online_store` section, `feast_registry` Feast's registry
    path or URL, `tracking_uri` and `artifact_uri` are MLflow's, `pipeline_root` KFP's. `ledger_uri` is the database of
    a cluster's ledgers; a laptop has files.
    """

    model_config = ConfigDict(frozen=True)

    state: Path
    offline_uri: str
    storage_options: dict[str, object] = {}
    online_store: dict[str, object]
    feast_registry: str
    tracking_uri: str
    artifact_uri: str
    pipeline_root: str
    ledger_uri: str | None = None

    def options_for(self, place: str) -> dict[str, object]:
        """What to tell fsspec about a path or URL: the storage options, unless they are for another kind of store."""
        scheme, found, _ = place.partition("://")
        own, known, _ = self.offline_uri.partition("://")
        return self.storage_options if found and (not known or scheme == own) else {}

    @classmethod
    def local(cls, state: Path) -> Platform:
        """Everything below `state`: embedded engines, no server."""
        state = state.absolute()
        return cls(
            state=state,
            offline_uri=str(state / "offline"),
            online_store={"type": "sqlite", "path": str(state / "online.db")},
            feast_registry=str(state / "feast.db"),
            tracking_uri=f"sqlite:///{state / 'mlflow.db'}",
            artifact_uri=str(state / "artifacts"),
            pipeline_root=str(state / "pipelines"),
        )

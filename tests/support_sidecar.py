"""A real sidecar process for tests: started, asked, killed and ended."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa

from serinus.core.serving import ServingConfig
from serinus.engines.ports import free_ports
from serinus.engines.prediction_log import read_outcomes
from serinus.engines.prediction_store import PredictionStore
from tests.support import eventually
from tests.support_log import MODEL, settings


class Sidecar:
    """A real `serinus sidecar` that can be killed and started again."""

    def __init__(self, folder: Path, log: dict[str, Any] | None = None, **fields: Any) -> None:
        self.config: ServingConfig = settings(folder, log, **fields)
        self.folder = folder
        self.port = free_ports(1)[0]
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = httpx.Client(base_url=self.url, timeout=20)
        self._file = folder / "sidecar.json"
        self._file.write_text(self.config.model_dump_json())
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-P", "-m", "serinus", "sidecar", "--config", str(self._file)]
        with (self.folder / "sidecar.log").open("ab") as words:
            self.process = subprocess.Popen([*command, "--port", str(self.port)], stderr=words, cwd=self.folder)
        eventually(lambda: self._healthy(), timeout=30)

    def _healthy(self) -> bool:
        assert self.process.poll() is None, (self.folder / "sidecar.log").read_text()
        try:
            return self.client.get("/healthz").text == "ok\n"
        except httpx.TransportError as error:
            raise AssertionError from error

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        """Leave nothing of it."""
        if self.process.poll() is None:
            self.kill()
        self.client.close()

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(20)

    def post(self, rows: Any) -> httpx.Response:
        return self.client.post("/v1/outcomes", json=rows)

    def metrics(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        """Every sample by name and labels."""
        from prometheus_client.parser import text_string_to_metric_families

        text = self.client.get("/metrics").text
        return {
            (sample.name, tuple(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def number(self, name: str, **labels: str) -> float:
        """The sum over all samples of a name that have these labels."""
        return sum(
            value for (key, own), value in self.metrics().items() if key == name and labels.items() <= dict(own).items()
        )

    def outcomes(self) -> pa.Table:
        return read_outcomes(PredictionStore(self.config.log_destination), MODEL)

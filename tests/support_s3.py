"""A real S3 server (SeaweedFS) for the tests: with credentials, killed and started again with what it held."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from serinus.engines.ports import free_ports
from tests.support import eventually

BUCKET = "models"


class S3:
    """A store and its S3 gateway, whose single user has made-up credentials."""

    def __init__(self, folder: Path) -> None:
        self.key, self.secret = f"K{secrets.token_hex(8)}", f"S{secrets.token_hex(16)}"
        self._folder = folder
        self._ports = free_ports(8)
        self._store: subprocess.Popen[bytes] | None = None
        self._gateway: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        user = {
            "name": "serinus",
            "credentials": [{"accessKey": self.key, "secretKey": self.secret}],
            "actions": ["Admin", "Read", "Write", "List"],
        }
        (folder / "users.json").write_text(json.dumps({"identities": [user]}))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._ports[6]}"

    def environment(self, secret: str | None = None) -> dict[str, str]:
        """How botocore, hence s3fs, is told of it."""
        return {
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": secret or self.secret,
            "AWS_ENDPOINT_URL": self.url,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_MAX_ATTEMPTS": "1",
        }

    def start(self) -> None:
        """Start what does not run, and wait until it answers."""
        names = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc")
        ports = [f"-{name}={port}" for name, port in zip(names, self._ports, strict=False)]
        self._store = self._store or self._weed(
            "server", f"-dir={self._folder}", "-ip=127.0.0.1", "-volume.max=20", "-master.volumeSizeLimitMB=64",
            "-master.telemetry=false", *ports, "-filer", f"-filer.localSocket={self._folder / 'filer.sock'}",
        )  # fmt: skip
        filer = f"127.0.0.1:{self._ports[4]}.{self._ports[5]}"
        self._gateway = self._gateway or self._weed(
            "s3", f"-filer={filer}", f"-port={self._ports[6]}", f"-port.grpc={self._ports[7]}", "-port.iceberg=0",
            "-autoCreateBucket=false",
            "-port.lance=0", f"-config={self._folder / 'users.json'}", f"-localSocket={self._folder / 's3.sock'}",
        )  # fmt: skip
        eventually(self._answers, timeout=90, interval=0.2)

    def kill(self) -> None:
        """End the gateway as a crash would; what it holds is in the store."""
        self._gateway = self._end(self._gateway)

    def close(self) -> None:
        """Leave nothing of it."""
        self.kill()
        self._store = self._end(self._store)

    @staticmethod
    def _end(process: subprocess.Popen[bytes] | None) -> None:
        if process is not None:
            process.kill()
            process.wait()

    def _weed(self, verb: str, *options: str) -> subprocess.Popen[bytes]:
        weed = shutil.which("weed", path=str(Path(sys.executable).parent))
        assert weed is not None
        command = [weed, "-logdir", str(self._folder), verb, "-ip.bind=127.0.0.1", *options]
        with (self._folder / "log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, cwd=self._folder)

    def _answers(self) -> bool:
        for process in (self._store, self._gateway):
            assert process is not None
            assert process.poll() is None, (self._folder / "log").read_text()[-3000:]
        with suppress(httpx.TransportError):
            return httpx.get(self.url, timeout=2).status_code in (200, 403)
        return False


@contextmanager
def running(folder: Path) -> Iterator[S3]:
    """A server with a bucket, for the while of a test."""
    import fsspec

    server = S3(folder)
    try:
        server.start()
        made = fsspec.filesystem(
            "s3", key=server.key, secret=server.secret, endpoint_url=server.url, skip_instance_cache=True
        )
        eventually(lambda: made.exists(BUCKET) or made.mkdir(BUCKET) or made.exists(BUCKET), timeout=30)
        yield server
    finally:
        server.close()

"""What pipelines keep things in, as processes of this machine: an object store with S3's interface (SeaweedFS), which
is there for models and features, too; MariaDB, for Kubeflow Pipelines knows no other database; and ML Metadata."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

from tests.cluster.testbed.kubeflow import METADATA
from tests.cluster.testbed.processes import Server
from tests.cluster.testbed.site import ADDRESS, Site, service, write

HERE = Path(__file__).parent
KEY, SECRET = "minio", "minio123"
"""Of the object store's only user, as a Kubeflow has them that nobody has changed."""
BUCKET = "serinus"
S3, DATABASE = 9000, 3306
_METADATA = 9080
# Programs that only each other know. Their ports are below those that the system hands out.
_INNER = ("master", "volume", "filer")


def start(site: Site, built: Path) -> None:
    """Start all three, which are not ready then."""
    _start_objects(site)
    _start_database(site)
    server = [str(HERE / "metadata_server.py"), str(site.state / "metadata.sqlite"), f"{ADDRESS}:{_METADATA}"]
    site.servers.start(Server("metadata", [str(built / METADATA / "bin" / "python"), *server], site.inside))


def define(site: Site, namespace: str) -> None:
    """Name them in the cluster: the object store for everybody, and what pipelines look for in their namespace."""
    site.apply([
        *service("s3", S3),
        *service("minio-service", 9000, namespace, at=S3),
        *service("metadata-grpc-service", 8080, namespace, at=_METADATA),
    ])  # fmt: skip


def ready(site: Site) -> Iterator[str]:
    """Wait until all three answer, and make our bucket."""
    yield from site.wait("MariaDB ready", lambda: site.listens(DATABASE))
    yield from site.wait("ML Metadata ready", lambda: site.listens(_METADATA))
    url = f"http://{ADDRESS}:{S3}"
    yield from site.wait(f"S3 on {url}", lambda: site.serves(f"{url}/healthz") and _has_bucket(site, url))


def _start_objects(site: Site) -> None:
    folder = site.state / "objects"
    # SeaweedFS also has sockets named by these ports in /tmp, where those of another cluster must not be.
    first = 20_000 + 10 * (zlib.crc32(str(site.state).encode()) % 1000)
    rights = ["Admin", "Read", "Write", "List", "Tagging"]
    user = {"name": KEY, "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": rights}
    options = {
        "dir": str(folder),
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        **{f"{name}.port": str(first + 2 * at) for at, name in enumerate(_INNER)},
        **{f"{name}.port.grpc": str(first + 2 * at + 1) for at, name in enumerate(_INNER)},
        "master.telemetry": "false",
        "master.volumeSizeLimitMB": "64",
        "volume.max": "100",
        "volume.preStopSeconds": "0",
        "filer": "true",
        "filer.localSocket": str(site.state / "filer.sock"),
        "s3": "true",
        "s3.config": str(write(folder / "users.json", json.dumps({"identities": [user]}))),
        "s3.ip.bind": ADDRESS,
        "s3.localSocket": str(site.state / "s3.sock"),
        "s3.port": str(S3),
        "s3.port.grpc": str(first + 2 * len(_INNER)),
        "s3.port.iceberg": "0",
        "s3.port.lance": "0",
    }
    weed = shutil.which("weed", path=str(Path(sys.executable).parent))
    if weed is None:
        raise RuntimeError("there is no SeaweedFS in this environment: make env")
    command = [weed, "-logdir", str(folder), "server", *(f"-{key}={value}" for key, value in options.items())]
    site.servers.start(Server("objects", command, site.inside))


def _start_database(site: Site) -> None:
    data = site.state / "mariadb"
    data.mkdir(exist_ok=True)
    options = {
        "datadir": str(data),
        "user": "root",
        "bind-address": ADDRESS,
        "port": str(DATABASE),
        "socket": str(site.state / "mariadb.sock"),
        "pid-file": str(site.state / "mariadb.pid"),
        "innodb-flush-log-at-trx-commit": "0",
        "innodb-buffer-pool-size": "32M",
        "innodb-stats-persistent": "OFF",
        "performance-schema": "OFF",
    }
    # Without tables of its own, of users and of statistics, it needs no installation. Nobody else is in its network.
    settings = ["--no-defaults", "--skip-grant-tables", "--skip-name-resolve"]
    settings += [f"--{key}={value}" for key, value in options.items()]
    site.servers.start(Server("mariadb", [str(shutil.which("mariadbd")), *settings], site.inside))


def _has_bucket(site: Site, url: str) -> bool:
    """Whether our bucket is there, or could be made."""
    signed = ("curl", "--silent", "--fail", "--max-time", "5", "--aws-sigv4", "aws:amz:us-east-1:s3")
    as_user = ("--user", f"{KEY}:{SECRET}", f"{url}/{BUCKET}")
    for request in (["--head"], ["--request", "PUT"]):
        command = [*site.inside, *signed, *request, *as_user]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return True
    return False

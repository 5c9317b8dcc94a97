"""The main job on real flights, with the commands a user would type: train, serve, replay August, train again, deploy.
Then the rollout of the version that was trained again, and of one with a bug.

    python examples/flights/demo.py [--reports build/reports]

Everything it leaves is below `examples/flights/.serinus` and in the reports folder. Run again, it reuses what has not
changed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import demo_rollout
import psutil
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
SERINUS = Path(sys.executable).with_name("serinus")
TRAINED_AS_OF = "2013-08-02T12:00:00+00:00"  # labels of July are known: trained on January to June, judged on July
REPLAYED_UNTIL = "2013-09-02T12:00:00+00:00"
PORT = "8080"
EXAMPLE = (
    "origin=JFK", "dest=LAX", "carrier=DL", "tailnum=N713TW", "distance=2475", "duration=375", "hour=17", "weekday=Mon",
    "event_timestamp=2013-09-02T12:00:00Z",
)  # fmt: skip

console = Console(stderr=True, highlight=False)


@dataclass(frozen=True)
class Bound:
    """One promise of the demo: what was measured, and whether it holds."""

    name: str
    measured: str
    promise: str
    holds: bool


class PeakMemory(threading.Thread):
    """Watches the memory that this process and all it started hold at once, in bytes (proportional set size)."""

    def __init__(self, state: Path) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        self._marker = str(state)
        self._stop_now = threading.Event()

    def run(self) -> None:
        while not self._stop_now.wait(1.0):
            self.peak = max(self.peak, self._now())

    def stop(self) -> float:
        """End and give the peak in GB."""
        self._stop_now.set()
        self.join()
        return self.peak / 1e9

    def _now(self) -> int:
        ours = {process.pid: process for process in psutil.Process().children(recursive=True)}
        for process in psutil.process_iter(["cmdline"]):  # supervised processes are not our children
            if any(self._marker in word for word in process.info["cmdline"] or ()):
                ours[process.pid] = process
                ours.update({child.pid: child for child in _children(process)})
        return sum(_pss(process) for process in (psutil.Process(), *ours.values()))


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def _pss(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0


def serinus(*arguments: str, accept: tuple[int, ...] = (0,)) -> dict[str, Any]:
    """Run one command as a user would, its progress on the screen, and return what `--json` printed."""
    command = [str(SERINUS), *arguments, "--json"]
    console.print(f"\n[bold]$ serinus {' '.join(arguments)}[/bold]", soft_wrap=True)
    started = time.monotonic()
    done = subprocess.run(command, cwd=HERE, stdout=subprocess.PIPE, text=True, check=False)
    console.print(f"[dim]  {time.monotonic() - started:.1f} s[/dim]")
    if done.returncode not in accept:
        raise SystemExit(f"serinus {arguments[0]} ended with exit code {done.returncode}: {done.stdout}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reports", type=Path, default=Path("build/reports"), help="folder for demo.json and pages")
    reports: Path = parser.parse_args().reports.resolve()
    reports.mkdir(parents=True, exist_ok=True)
    memory = PeakMemory(HERE / ".serinus")
    memory.start()
    started = time.monotonic()
    trained = serinus("train", "--as-of", TRAINED_AS_OF, accept=(0, 1))
    serinus("down")
    serinus("up", "--as-of", TRAINED_AS_OF, "--port", PORT)
    try:
        replayed = serinus(
            "replay",
            "--since",
            TRAINED_AS_OF,
            "--until",
            REPLAYED_UNTIL,
            "--report",
            str(reports / "demo"),
            accept=(0, 1),
        )
        models = serinus("models")
        if any("challenger" in version["aliases"] for version in models["versions"]):
            serinus("deploy", "challenger")
        serinus("predict", *EXAMPLE)
    finally:
        serinus("down")
    figures = _figures(trained, replayed, time.monotonic() - started, memory.stop())
    figures |= demo_rollout.show(serinus, PORT, reports)
    (reports / "demo.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return max(_summary(figures, models, replayed["report"]), _rollouts(figures))


def _figures(trained: dict[str, Any], replayed: dict[str, Any], seconds: float, memory: float) -> dict[str, Any]:
    wanted = (
        "auc_offline", "auc_online", "log_loss_offline", "log_loss_online", "rows_replayed", "features_equal",
        "features_different", "errors", "latency_p50_ms", "latency_p99_ms", "requests_per_second",
    )  # fmt: skip
    return {
        "auc_july": trained["metrics"]["candidate"]["roc_auc"],
        "auc_july_rule": trained["metrics"]["baseline"]["roc_auc"],
        **{name: replayed[name] for name in wanted},
        "seconds_total": round(seconds, 1),
        "peak_memory_gb": round(memory, 2),
    }


def _summary(figures: dict[str, Any], models: dict[str, Any], page: str) -> int:
    bounds = (
        Bound("ROC AUC on July", f"{figures['auc_july']:.4f}", "at least .73", figures["auc_july"] >= 0.73),
        Bound(
            "served values that differ", f"{figures['features_different']:,}", "0", not figures["features_different"]
        ),
        Bound("failed requests", f"{figures['errors']:,}", "0", not figures["errors"]),
        Bound(
            "seconds", f"{figures['seconds_total']:.0f}", "under 240, again under 90", figures["seconds_total"] < 240
        ),
        Bound("peak memory", f"{figures['peak_memory_gb']:.1f} GB", "under 6 GB", figures["peak_memory_gb"] < 6),
    )
    out = Console(highlight=False)
    table = Table(title="Serinus on flights from New York, 2013")
    for title in ("figure", "measured", "promised", ""):
        table.add_column(title)
    for bound in bounds:
        table.add_row(bound.name, bound.measured, bound.promise, "✓" if bound.holds else "✗")
    for name in ("auc", "log_loss"):
        shown = f"{figures[name + '_online']:.4f} / {figures[name + '_offline']:.4f}"
        table.add_row(f"August, online / offline {name.replace('_', ' ')}", shown, "equal", "")
    table.add_row("requests replayed", f"{figures['rows_replayed']:,}", "", "")
    table.add_row("served values equal", f"{figures['features_equal']:,}", "all", "")
    table.add_row("latency p50 / p99", f"{figures['latency_p50_ms']:.1f} / {figures['latency_p99_ms']:.1f} ms", "", "")
    table.add_row("requests a second", f"{figures['requests_per_second']:,.0f}", "", "")
    for version in models["versions"]:
        named = ", ".join(version["aliases"]) or "no alias"
        table.add_row(f"version {version['version']}", named, f"as of {version['lineage']['as_of'][:10]}", "")
    out.print(table)
    out.print(f"Report: {page}", soft_wrap=True)
    return 0 if all(bound.holds for bound in bounds[:3]) else 1


def _rollouts(figures: dict[str, Any]) -> int:
    """The second table: what was promoted and what was taken back, and why."""
    promoted, back = figures["rollout_promoted"], figures["rollout_rolled_back"]
    seconds, whole = figures["rollout_seconds"], figures["rollout_ledger_whole"]
    bounds = (
        Bound("earned its traffic", f"version {promoted}" if promoted else "none", "a version", promoted is not None),
        Bound("was taken back", f"version {back}" if back else "none", "the one with the bug", back is not None),
        Bound("decisions that come out again", f"{figures['rollout_decisions']:,}", "all", whole),
        Bound("seconds of both rollouts", f"{seconds:.0f}", "under 180", seconds < 180),
    )
    out = Console(highlight=False)
    table = Table(title="A version earns its traffic, and one does not")
    for title in ("figure", "measured", "promised", ""):
        table.add_column(title)
    for bound in bounds:
        table.add_row(bound.name, bound.measured, bound.promise, "✓" if bound.holds else "✗")
    for position, name in enumerate(("the first", "the second")):
        asked, answered = (figures[f"rollout_{what}"][position] for what in ("requests", "answered_by_canary"))
        table.add_row(f"questions in {name} / it answered", f"{asked:,} / {answered:,}", "", "")
    out.print(table)
    out.print(f"The first, in the end: {figures['rollout_promoted_why']}", soft_wrap=True)
    out.print(f"The second, in the end: {figures['rollout_rolled_back_why']}", soft_wrap=True)
    for page in figures["rollout_pages"]:
        out.print(f"Rollout: {page}", soft_wrap=True)
    return 0 if all(bound.holds for bound in bounds[:3]) else 1


if __name__ == "__main__":
    sys.exit(main())

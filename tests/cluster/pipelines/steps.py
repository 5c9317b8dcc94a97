"""Pipelines of steps that do next to nothing. (No `from __future__ import annotations`: KFP reads the annotations.)"""

from kfp import dsl

from tests.cluster.testbed.images import reference
from tests.cluster.testbed.kubeflow import STEP

IMAGE = reference(STEP)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def write(rows: int, table: dsl.Output[dsl.Dataset]) -> None:
    """Write so many lines."""
    from pathlib import Path

    Path(table.path).write_text("\n".join(str(row) for row in range(rows)))
    table.metadata["rows"] = rows


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def count(table: dsl.Input[dsl.Dataset]) -> int:
    """Count the lines, which are as many as their metadata say."""
    from pathlib import Path

    found = len(Path(table.path).read_text().splitlines())
    assert found == table.metadata["rows"], table.metadata
    return found


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def expect(found: int, wanted: int) -> None:
    """Fail where two numbers differ."""
    if found != wanted:
        raise ValueError(f"{found} rows, not {wanted}")


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def ask(address: str) -> str:
    """What a web server says, asked from a pod."""
    from urllib.request import urlopen

    with urlopen(address, timeout=10) as answer:
        return answer.read().decode()


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def hang() -> None:
    """Never end of itself."""
    import signal

    while True:
        signal.pause()


@dsl.pipeline(name="counting")
def counting(rows: int, wanted: int) -> None:
    """Hand an artifact on, and then a number."""
    written = write(rows=rows)
    counted = count(table=written.outputs["table"])
    expect(found=counted.output, wanted=wanted)


@dsl.pipeline(name="asking")
def asking(address: str) -> None:
    """Ask once."""
    ask(address=address)


@dsl.pipeline(name="hanging")
def hanging() -> None:
    """Run until told to end."""
    hang()

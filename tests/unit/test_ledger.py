"""The ledger: nothing in it can be changed unseen, what a death leaves is made good, and decisions come out again."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serinus.core.errors import EngineError, IntegrityError, NotFound
from serinus.core.ledger import FIRST, Entry, Head, entry_of, line_of
from serinus.core.rollout import Situation, decide
from serinus.engines.ledger import Ledger
from tests.support_ledger import BAD, recorded
from tests.support_rollout import START

LOOKS = 12


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """A ledger's lines: a rollout that was paused, resumed and rolled back."""
    one = recorded(tmp_path_factory.mktemp("whole"), canary=BAD)
    one.minutes(4)
    one.ask("pause", "lunch")
    one.ask("resume", "lunch is over")
    one.until("rollback", most=60)
    return one.ledger.path.read_bytes().splitlines(keepends=True)[:LOOKS]


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path)


def head_file(ledger: Ledger) -> Path:
    return ledger.path.with_name("head.json")


def test_a_ledger_that_nobody_touched_is_good_and_comes_out_again(ledger: Ledger, lines: list[bytes]) -> None:
    ledger.path.write_bytes(b"".join(lines))
    done: list[int] = []
    verified = ledger.verify(done.append)
    assert verified == ledger.replay()
    assert verified.broken is None
    assert verified.entries == ledger.count() == len(lines)
    assert verified.digest == json.loads(lines[-1])["digest"]
    assert done == list(range(1, len(lines) + 1))


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
def test_a_changed_byte_is_found(ledger: Ledger, lines: list[bytes], data: st.DataObject) -> None:
    number = data.draw(st.integers(0, len(lines) - 1), label="entry")
    place = data.draw(st.integers(0, len(lines[number]) - 2), label="byte")
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != lines[number][place]), label="becomes")
    changed = bytearray(lines[number])
    changed[place] = byte
    ledger.path.write_bytes(b"".join([*lines[:number], bytes(changed), *lines[number + 1 :]]))
    broken = ledger.verify().broken
    assert broken is not None
    assert broken.number == number + 1


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
def test_a_changed_field_is_found_even_with_a_digest_made_for_it(
    ledger: Ledger, lines: list[bytes], data: st.DataObject
) -> None:
    number = data.draw(st.integers(0, len(lines) - 2), label="entry")
    entry = Entry.model_validate_json(lines[number])
    name = data.draw(st.sampled_from(["at", "who", "reasons", "readings", "action", "model"]), label="field")
    other = {"at": entry.at.replace(year=2001), "reasons": ("none",), "readings": (), "action": "undo"}.get(
        name, "someone"
    )
    if getattr(entry, name) == other:
        return
    forged = entry.model_copy(update={name: other})
    line = line_of(forged.model_copy(update={"digest": forged.own_digest()})) + b"\n"
    ledger.path.write_bytes(b"".join([*lines[:number], line, *lines[number + 1 :]]))
    broken = ledger.verify().broken
    assert broken is not None
    assert broken.number in (number + 1, number + 2)


@pytest.mark.parametrize(
    ("change", "first"),
    [
        (lambda each: each[:3] + each[4:], 4),
        (lambda each: each[1:], 1),
        (lambda each: [*each[:5], each[2], *each[5:]], 6),
        (lambda each: [*each[:5], b"{}\n", *each[5:]], 6),
        (lambda each: [*each[:5], b"\n", *each[5:]], 6),
        (lambda each: [*each[:6], each[7], each[6], *each[8:]], 7),
        (lambda each: [*each[:6], each[6][:50], *each[7:]], 7),
        (lambda each: each[:-2], LOOKS - 1),
        (lambda each: [], 1),
    ],
    ids=["removed", "first removed", "repeated", "inserted", "empty line", "swapped", "joined", "cut off", "emptied"],
)
def test_entries_that_are_not_where_they_were(ledger: Ledger, lines: list[bytes], change: object, first: int) -> None:
    ledger.path.write_bytes(b"".join(lines))
    ledger.head()
    ledger.path.write_bytes(b"".join(change(lines)))  # type: ignore[operator]
    broken = ledger.verify().broken
    assert broken is not None
    assert broken.number == first


def test_what_was_cut_off_stops_whoever_decides(ledger: Ledger, lines: list[bytes]) -> None:
    ledger.path.write_bytes(b"".join(lines))
    ledger.head()
    ledger.path.write_bytes(b"".join(lines[:-1]))
    with pytest.raises(IntegrityError, match=rf"entry {LOOKS} .* is missing: {LOOKS} entries were written"):
        ledger.head()
    ledger.path.unlink()
    with pytest.raises(IntegrityError, match=r"entry 1 .* is missing"):
        ledger.seen()


def test_a_last_entry_made_anew_is_not_what_the_head_names(ledger: Ledger, lines: list[bytes]) -> None:
    ledger.path.write_bytes(b"".join(lines[:-1]))
    before = ledger.head()
    ledger.path.write_bytes(b"".join(lines))
    ledger.head()
    assert before.state is not None
    assert before.policy is not None
    situation = Situation()
    decision = decide(before.policy, before.state, situation, START.replace(year=2030))
    ledger.path.write_bytes(b"".join(lines[:-1]))
    ledger.append(before, entry_of(before, "flights", before.policy, situation, decision), decision.state)
    forged = ledger.path.read_bytes()
    ledger.path.write_bytes(b"".join(lines))
    head_file(ledger).unlink()
    ledger.head()
    ledger.path.write_bytes(forged)
    checked = ledger.verify()
    assert checked.broken is not None
    assert (checked.entries, checked.broken.number) == (LOOKS - 1, LOOKS)
    with pytest.raises(IntegrityError):
        ledger.head()


def test_a_decision_that_does_not_follow_is_named(tmp_path: Path, lines: list[bytes]) -> None:
    one = recorded(tmp_path)
    one.minutes(3)
    ledger, head = one.ledger, one.ledger.head()
    assert head.state is not None
    assert head.policy is not None
    decision = one.world.decisions[-1].model_copy(update={"reasons": ("because",), "at": one.world.now})
    ledger.append(head, entry_of(head, "flights", head.policy, Situation(), decision), decision.state)
    assert ledger.verify().broken is None, "the chain is whole"
    checked = ledger.replay()
    assert checked.broken is not None
    assert checked.broken.number == head.number + 1 == checked.entries + 1
    assert "comes out otherwise" in checked.broken.why


def test_a_line_cut_short_is_moved_aside_by_who_may_write(ledger: Ledger, lines: list[bytes]) -> None:
    ledger.path.write_bytes(b"".join(lines[:4]) + lines[4][:100])
    size = ledger.path.stat().st_size
    assert ledger.seen().number == 4
    assert ledger.path.stat().st_size == size, "a reader leaves a line alone that is just being written"
    assert not head_file(ledger).exists()
    assert ledger.verify().entries == 4
    assert ledger.head().number == 4
    assert ledger.path.read_bytes() == b"".join(lines[:4])
    assert ledger.path.with_name("ledger.torn").read_bytes() == lines[4][:100] + b"\n"


def test_the_very_first_line_cut_short(ledger: Ledger, lines: list[bytes]) -> None:
    ledger.path.write_bytes(lines[0][:-1])
    assert ledger.head() == Head()
    assert ledger.path.read_bytes() == b""


@pytest.mark.parametrize("state_of", [None, 1, 5, LOOKS - 1, LOOKS])
def test_a_head_that_is_lost_or_old_is_made_again(ledger: Ledger, lines: list[bytes], state_of: int | None) -> None:
    ledger.path.write_bytes(b"".join(lines))
    head = ledger.head()
    head_file(ledger).unlink()
    if state_of is not None:
        ledger.path.write_bytes(b"".join(lines[:state_of]))
        assert ledger.head().number == state_of
        ledger.path.write_bytes(b"".join(lines))
    assert ledger.seen() == head
    assert ledger.head() == head
    assert Head.model_validate_json(head_file(ledger).read_bytes()) == head


@pytest.mark.parametrize("content", [b"", b"{", b'{"number": "x"}'])
def test_a_head_that_cannot_be_read_is_made_again(ledger: Ledger, lines: list[bytes], content: bytes) -> None:
    ledger.path.write_bytes(b"".join(lines))
    head = ledger.head()
    head_file(ledger).write_bytes(content)
    assert ledger.head() == head


def test_a_head_with_another_state_is_not_believed(ledger: Ledger, lines: list[bytes]) -> None:
    ledger.path.write_bytes(b"".join(lines))
    head = ledger.head()
    assert head.state is not None
    forged = head.model_copy(update={"state": head.state.model_copy(update={"stable": 99})})
    head_file(ledger).write_text(forged.model_dump_json(by_alias=True))
    assert ledger.head() == head


def test_a_full_disk_is_an_error_and_what_it_hit_does_not_count(tmp_path: Path) -> None:
    one = recorded(tmp_path)
    one.minutes(3)
    before, content = one.ledger.head(), one.ledger.path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(content) + 1000, hard))
        with pytest.raises(EngineError, match="cannot write to the ledger"):
            one.minute()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert one.ledger.path.read_bytes() == content
    assert one.ledger.head() == before
    one.minutes(2)
    assert one.ledger.replay().broken is None
    assert one.ledger.head().number == before.number + 2


def test_a_head_that_cannot_be_written_takes_nothing_back(tmp_path: Path) -> None:
    one = recorded(tmp_path)
    one.minutes(2)
    before = one.ledger.head()
    head_file(one.ledger).unlink()
    head_file(one.ledger).mkdir()
    (head_file(one.ledger) / "in the way").touch()
    decision = one.world.decisions[-1]
    entry = entry_of(before, "flights", one.world.rollout, Situation(), decision)
    assert one.ledger.append(before, entry, decision.state).number == before.number + 1
    assert one.ledger.count() == before.number + 1


def test_entries_from_both_ends(ledger: Ledger, lines: list[bytes]) -> None:
    ledger.path.write_bytes(b"".join(lines))
    forwards = list(ledger.entries())
    assert [each.number for each in forwards] == list(range(1, LOOKS + 1))
    assert list(ledger.newest_first()) == forwards[::-1]
    assert ledger.entry(5) == forwards[4]
    for missing in (0, -1, LOOKS + 1):
        with pytest.raises(NotFound):
            ledger.entry(missing)


def test_an_absent_ledger_is_an_empty_one(ledger: Ledger) -> None:
    assert ledger.head() == ledger.seen() == Head()
    assert list(ledger.newest_first()) == list(ledger.entries()) == []
    assert ledger.verify() == (0, FIRST, None)
    assert not ledger.path.exists()


def test_a_ledger_of_another_processor_comes_out_again(ledger: Ledger, lines: list[bytes]) -> None:
    """Logarithms differ in their last digits between processors: that is no other decision."""
    ledger.path.write_bytes(b"".join(lines))
    found = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    code = (
        "import sys, pathlib; from serinus.engines.ledger import Ledger;"
        "checked = Ledger(pathlib.Path(sys.argv[1])).replay(); print(checked.entries);"
        "sys.exit(str(checked.broken or ''))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, str(ledger.path.parent)],
        env={**os.environ, "NPY_DISABLE_CPU_FEATURES": " ".join(found)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.strip() == str(LOOKS), done.stderr

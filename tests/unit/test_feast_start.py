"""Feast is imported quickly, and nothing else notices."""

import subprocess
import sys


def test_typeguard_and_torch_are_as_they_were():
    script = """
import sys, typeguard
checked = typeguard.typechecked
import serinus.engines.feast_start
assert "feast" in sys.modules
assert "torch" not in sys.modules, "torch was imported"
assert typeguard.typechecked is checked
import os
assert not [name for name in os.environ if name.startswith("PROMETHEUS")], "children would count into our folder"
import torch
assert torch.ones(1).item() == 1
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_both_are_put_back_when_the_import_fails():
    script = """
import typeguard
from serinus.engines.feast_start import quick_import
checked = typeguard.typechecked
try:
    with quick_import():
        assert typeguard.typechecked is not checked
        raise RuntimeError("broken")
except RuntimeError:
    pass
assert typeguard.typechecked is checked
import torch
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

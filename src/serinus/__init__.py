"""Serinus trains models continuously and lets each new one earn its traffic."""

from serinus.core.project import Project

__version__ = "0.1.0"
__all__ = ["Project", "__version__"]

"""How a new version earns its traffic: a pure state machine. What is measured comes in, what to do goes out."""

from serinus.core.rollout.machine import decide
from serinus.core.rollout.stages import shares
from serinus.core.rollout.state import (
    SERINUS,
    Action,
    Candidate,
    Command,
    Decision,
    Ended,
    Pause,
    Phase,
    RolloutState,
    Shares,
    Situation,
    Verb,
)

__all__ = [
    "Action",
    "Candidate",
    "Command",
    "Decision",
    "Ended",
    "Pause",
    "Phase",
    "RolloutState",
    "SERINUS",
    "Shares",
    "Situation",
    "Verb",
    "decide",
    "shares",
]

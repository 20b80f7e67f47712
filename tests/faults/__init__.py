"""The fault suite: real processes are killed, stopped, cut off and robbed of power; an oracle knows what must come out.

`python -m tests.faults list` names the scenarios, `python -m tests.faults run` runs them; see docs/faults.md.
"""

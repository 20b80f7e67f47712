"""Records that the source hands on only to be put away: their reasons, and the sentences of their dead letters."""

from __future__ import annotations

from schemas.errors import TidegateError

OTHER_PAYLOAD, WENT_BACK, KILLS = "other-payload", "went-back", "kills"


class Diverged(TidegateError):
    """A record that comes after later ones of its device: its disk was set back, or a clone of it runs."""


class IdentityTaken(Diverged):
    """Another record of this identity was answered: of two writers with one name, this is the second."""


class KillsWorkers(TidegateError):
    """Whoever touched this record died of it."""


def error(reason: str) -> TidegateError:
    """Why a record was refused, as what goes into its dead letter."""
    if reason == OTHER_PAYLOAD:
        return IdentityTaken(
            "another record with this identity was answered already",
            fix="two devices use one id, or the state of one was copied: give the clone an id of its own",
        )
    if reason == WENT_BACK:
        return Diverged(
            "its device has sent later records, and this one was never seen",
            fix="the disk of the device was set back, or a clone of it runs; "
            "`tidegate dlq retry` sends it again once that is settled",
        )
    return KillsWorkers("the worker died each time it came to this record", fix="keep it for whoever mends the code")

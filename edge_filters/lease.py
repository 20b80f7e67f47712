"""Who may act for a device: one process at a time, as the claims in their topic tell. Pure.

A process claims its devices with a boot_epoch above every one that it has seen, and all claims lie in one log, so all
processes see them in one order. The rule is the same for everyone: whoever sees, under the name of its device, a claim
of another process with a higher epoch than its own, stops; of two claims with one epoch, the one that lies first in
the log holds. A process that can reach the broker asks before it claims (a knock): who holds the device claims it anew,
and the one that asked goes away. So the first one keeps the device, and nobody takes it from the other and back.

A process that starts without the broker cannot ask. It counts on from its own disk. Where that is empty, its epoch is
the time in milliseconds, which is above any count of starts, and above every earlier such start while the clock does
not go back. Where it was wrong, it learns so from the claims when the broker comes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import UTC, datetime

from schemas.errors import LeaseError
from schemas.records import ClaimKind, DeviceClaim

#: Earlier processes of one state folder that are known by name.
REMEMBERED = 8


class Lease:
    """The claims of one process on its devices. Not thread-safe."""

    def __init__(self, devices: Iterable[str], edge_id: str, instance: str, before: Collection[str] = ()) -> None:
        """`instance`: a name that no other process has; `before`: those of earlier processes on this state folder."""
        self._devices = frozenset(devices)
        self._edge_id, self._instance, self._before = edge_id, instance, frozenset(before)
        self._holders: dict[str, DeviceClaim] = {}
        self._asked: set[str] = set()
        self._own_seen: set[str] = set()
        self._knocked: set[str] = set()
        self._since_us = 0
        self.boot_epoch: int | None = None
        self.lost: LeaseError | None = None

    @property
    def devices(self) -> frozenset[str]:
        """Whose claims are heard."""
        return self._devices

    @property
    def highest(self) -> int:
        """Highest epoch that anybody has claimed one of the devices with; 0 where nobody has."""
        return max((claim.epoch for claim in self._holders.values()), default=0)

    def hear(self, claim: DeviceClaim) -> None:
        """Take in one claim, in the order of the log. `lost` says afterwards whether this process must stop."""
        device = claim.device_id
        if device not in self._devices or claim.kind is ClaimKind.UNKNOWN:
            return
        if claim.instance == self._instance:
            if claim.kind is ClaimKind.CLAIM:
                self._own_seen.add(device)
        elif claim.kind is ClaimKind.KNOCK:
            self._knocked.add(device)
        elif self.boot_epoch is None:
            if device in self._asked and claim.kind is ClaimKind.CLAIM:
                self._lose(claim)
            self._holders[device] = claim
        elif claim.epoch > self.boot_epoch or (claim.epoch == self.boot_epoch and device not in self._own_seen):
            self._lose(claim)

    def to_ask(self, now_us: int) -> list[DeviceClaim]:
        """Knocks at every device that somebody may hold; none where the last one has let go."""
        held = [claim for claim in self._holders.values() if claim.kind is ClaimKind.CLAIM]
        self._asked = {claim.device_id for claim in held}
        return [self._claim(claim.device_id, claim.epoch, ClaimKind.KNOCK, now_us) for claim in held]

    @property
    def asks_strangers(self) -> bool:
        """Whether one of those asked is not an earlier process of this state folder, which is most likely dead."""
        return any(self._holders[device].instance not in self._before for device in self._asked)

    def begin(self, boot_epoch: int, now_us: int) -> None:
        """The process runs with this epoch from now on."""
        self.boot_epoch, self._since_us = boot_epoch, now_us

    def claims(self) -> list[DeviceClaim]:
        """The claims of this start. Raises ValueError: it has not begun."""
        if self.boot_epoch is None:
            raise ValueError("a lease that has not begun claims nothing")
        return [
            self._claim(device, self.boot_epoch, ClaimKind.CLAIM, self._since_us) for device in sorted(self._devices)
        ]

    def answers(self) -> list[DeviceClaim]:
        """The claims that were asked for since the last call."""
        if self.boot_epoch is None or self.lost is not None:
            return []
        asked, self._knocked = self._knocked, set()
        return [self._claim(device, self.boot_epoch, ClaimKind.CLAIM, self._since_us) for device in sorted(asked)]

    def releases(self, now_us: int) -> list[DeviceClaim]:
        """What a process sends last when it ends in good order. Nothing where it has lost a device."""
        if self.boot_epoch is None or self.lost is not None:
            return []
        return [self._claim(device, self.boot_epoch, ClaimKind.RELEASE, now_us) for device in sorted(self._devices)]

    def _claim(self, device: str, epoch: int, kind: ClaimKind, at_us: int) -> DeviceClaim:
        return DeviceClaim(
            device_id=device,
            epoch=epoch,
            instance=self._instance,
            edge_id=self._edge_id,
            kind=kind,
            at=at_us,
        )

    def _lose(self, claim: DeviceClaim) -> None:
        if self.lost is not None:
            return
        who = f"edge {claim.edge_id[:100]!r}, process {claim.instance[:40]!r}"
        if self.boot_epoch is None:
            problem = f"another process acts for device {claim.device_id}: {who}"
            fix = "stop that one, or give this one a device id of its own"
        elif claim.instance in self._before:
            problem = f"the state of device {claim.device_id} was set back: an earlier start of its own was later"
            fix = "start it again: it counts on from what it has sent; what it sent meanwhile is in the dead letters"
        else:
            problem = f"device {claim.device_id} belongs to another process now: {who}"
            fix = (
                "stop one of the two for good, or give it a device id of its own; where only this one runs, its state "
                "was set back or lost: start it again"
            )
        self.lost = LeaseError(problem, fix=fix, since=_utc(claim.at), its_epoch=claim.epoch, own_epoch=self.boot_epoch)


def epoch_from_clock(now_us: int) -> int:
    """Epoch of a start that knows neither its own disk nor the broker: milliseconds, above any count of starts."""
    return max(1, now_us // 1000)


def _utc(at_us: int) -> str:
    try:
        return datetime.fromtimestamp(at_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):  # its clock may say anything
        return f"{at_us} us"

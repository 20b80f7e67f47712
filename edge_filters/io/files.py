"""Files: packages read from a folder, and an outbox that writes one Avro container file per topic."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

from edge_filters.outgoing import Parcel
from edge_filters.ports import Delivery, Report
from schemas.codec import decode
from schemas.container import ContainerWriter
from schemas.errors import ModelError, SpoolError
from schemas.manifest import Package, load_package
from schemas.topics import by_name

_DELIVERED = Report(Delivery.DELIVERED)


def edge_package(folder: Path) -> Package:
    """The edge half of a model package in a folder. Raises ModelError: with the folder in it."""

    def read(name: str) -> bytes:
        return (folder / name).read_bytes()

    try:
        return load_package(read, ("edge",))
    except ModelError as wrong:
        raise ModelError(wrong.problem, fix=wrong.fix, **({"package": str(folder)} | wrong.where)) from None


class FileOutbox:
    """Implements ports.Outbox: `TOPIC.avro` in a folder, made when the first record for it comes."""

    ready = True
    problem = ""

    def __init__(self, folder: Path) -> None:
        """Make the folder. Raises SpoolError: it cannot be made."""
        self._folder = folder
        self._writers: dict[str, tuple[IO[bytes], ContainerWriter]] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as cause:
            raise SpoolError("the output folder cannot be made", folder=str(folder), cause=str(cause)) from cause

    def send(self, parcel: Parcel) -> Any:
        """Write a parcel. Raises SpoolError: the disk failed."""
        record = by_name(parcel.topic).record
        try:
            if parcel.topic not in self._writers:
                file = (self._folder / f"{parcel.topic}.avro").open("wb")
                self._writers[parcel.topic] = file, ContainerWriter(file, record)
            self._writers[parcel.topic][1].write(decode(parcel.payload, record))
        except OSError as cause:
            raise SpoolError("the output cannot be written", folder=str(self._folder), cause=str(cause)) from cause

    def report(self, receipt: Any) -> Report:
        """Written is delivered."""
        return _DELIVERED

    def restart(self) -> None:
        """Never needed."""

    def close(self, timeout_s: float = 0.0) -> None:
        """Write out what is buffered and close the files."""
        for file, writer in self._writers.values():
            writer.close()
            file.close()
        self._writers.clear()

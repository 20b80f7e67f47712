"""What a Flink cluster says of itself: its REST address, asked with the standard library."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

from schemas.errors import ConfigError, PipelineError, UnavailableError

#: An answer is never waited for longer than this.
ANSWER_S = 10.0
#: Nor is one read that is larger: the address may be anybody's.
MOST_BYTES = 8 << 20
ASK_EVERY_S = 0.2


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A finished checkpoint or savepoint: its number, its size in bytes, when it was triggered (ms since 1970)."""

    number: int
    bytes: int
    triggered_ms: int
    path: str


@dataclass(frozen=True, slots=True)
class Overview:
    """The cluster in four numbers."""

    version: str
    taskmanagers: int
    slots: int
    slots_free: int


class Rest:
    """Questions and orders to one cluster. Every method raises UnavailableError: nobody answers there.

    Args:
        url: of the JobManager, such as http://127.0.0.1:8081.
    """

    def __init__(self, url: str) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigError("not the address of a cluster", got=url, fix="give it as http://HOST:PORT")
        self.url = url.rstrip("/")

    def overview(self) -> Overview:
        """Version, TaskManagers and slots."""
        told = self._ask("/overview")
        return Overview(
            str(told["flink-version"]),
            int(told["taskmanagers"]),
            int(told["slots-total"]),
            int(told["slots-available"]),
        )

    def jobs(self) -> dict[str, str]:
        """Job id -> state, such as RUNNING."""
        return {str(job["id"]): str(job["status"]) for job in self._ask("/jobs")["jobs"]}

    def running(self) -> list[str]:
        """Ids of the jobs that run."""
        return [job for job, state in self.jobs().items() if state == "RUNNING"]

    def tasks(self, job: str) -> dict[str, int]:
        """State -> how many subtasks of a job are in it; RUNNING alone means that all of it works."""
        counted: dict[str, int] = {}
        for vertex in self._ask(f"/jobs/{job}")["vertices"]:
            for state, n in vertex["tasks"].items():
                if n:
                    counted[state] = counted.get(state, 0) + int(n)
        return counted

    def hosts(self, job: str) -> set[str]:
        """Ids of the TaskManagers that the subtasks of a job are on."""
        found = set()
        for vertex in self._ask(f"/jobs/{job}")["vertices"]:
            for subtask in self._ask(f"/jobs/{job}/vertices/{vertex['id']}")["subtasks"]:
                found.add(str(subtask.get("taskmanager-id") or subtask.get("endpoint") or subtask.get("host")))
        return found

    def checkpoints(self, job: str) -> list[Checkpoint]:
        """The finished checkpoints that the JobManager still lists, oldest first."""
        return [
            Checkpoint(
                int(one["id"]), int(one["state_size"]), int(one["trigger_timestamp"]), str(one.get("external_path"))
            )
            for one in reversed(self._ask(f"/jobs/{job}/checkpoints")["history"])
            if one["status"] == "COMPLETED"
        ]

    def stop(self, job: str, folder: str, *, timeout_s: float = 60.0) -> str:
        """Stop a job with a savepoint in `folder`, as the cluster sees it. Returns: the savepoint's address.

        It never drains: a drain of this pipeline hangs for ever and only the end of the TaskManager frees its slots.

        Raises: PipelineError: the savepoint failed, or was not there within `timeout_s`; the job runs on.
        """
        order = self._ask(f"/jobs/{job}/stop", {"targetDirectory": folder, "drain": False})["request-id"]
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            told = self._ask(f"/jobs/{job}/savepoints/{order}")
            if told["status"]["id"] == "COMPLETED":
                result = told["operation"]
                if "location" in result:
                    return str(result["location"])
                cause = str(result.get("failure-cause", {}).get("stack-trace", "no reason given"))
                raise PipelineError(
                    "the job could not be stopped with a savepoint", job=job, fix=cause.splitlines()[0][:300]
                )
            time.sleep(ASK_EVERY_S)
        raise PipelineError("the savepoint was not written in time", job=job, waited_s=timeout_s)

    def cancel(self, job: str) -> None:
        """End a job at once, without a savepoint."""
        self._ask(f"/jobs/{job}", method="PATCH")

    def _ask(self, path: str, body: object = None, method: str | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(  # noqa: S310  the constructor has looked at the scheme
            self.url + path, data, {"Content-Type": "application/json"}, method=method
        )
        try:
            with urllib.request.urlopen(asked, timeout=ANSWER_S) as answer:  # noqa: S310  as above
                return json.loads(answer.read(MOST_BYTES) or b"null")
        except urllib.error.HTTPError as refused:
            why = refused.read(2_000).decode(errors="replace")
            raise UnavailableError(
                f"the Flink cluster answers {refused.code} to {path}", url=self.url, cause=why[:300]
            ) from None
        except (OSError, ValueError) as cause:
            raise UnavailableError("no Flink cluster answers", url=self.url, cause=str(cause)) from None

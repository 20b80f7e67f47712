"""`python -m pipelines workers`: Python workers for an engine that asks for them, such as the TaskManagers of Flink.

Beam brings such a pool (apache_beam.runners.worker.worker_pool_main). Ours is its servicer behind a door of its own:
Beam's listens on every address of the machine although it starts processes for whoever asks, runs whatever `python`
is first in PATH, and leaves the workers that were killed behind as zombies.
Nothing that is staged with a job is installed: this project must be importable here, in the version of the submitter.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from typing import Any

import grpc
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc
from apache_beam.utils import thread_pool_executor

from schemas.errors import UnavailableError

log = logging.getLogger(__name__)

#: How long a worker may take to end in order.
END_S = 10.0
#: host:port, as the engine names the address that a worker shall call.
_ENDPOINT = re.compile(r"[\w.\-\[\]:]{1,255}:\d{1,5}")
_WORKER_ID = re.compile(r"[\w.\-]{1,200}")


class Pool(beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolServicer):
    """Starts a process per worker that is asked for, and ends it when it is not needed any more. Thread-safe.

    Two TaskManagers that share a pool both call their first worker 1-1. An order to end that names two of them is left
    alone: a worker whose engine hangs up ends by itself.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._workers: dict[str, list[subprocess.Popen[bytes]]] = {}

    def StartWorker(self, request: Any, context: Any) -> Any:
        """Start one; the answer holds the reason when it cannot be."""
        worker, control = str(request.worker_id), str(request.control_endpoint.url)
        if not _WORKER_ID.fullmatch(worker) or not _ENDPOINT.fullmatch(control):
            return beam_fn_api_pb2.StartWorkerResponse(error="not a worker id, or not an address to call: refused")
        command = [sys.executable, "-m", "pipelines.worker", control, worker, str(os.getpid())]
        try:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr)
        except OSError as cause:
            return beam_fn_api_pb2.StartWorkerResponse(error=f"no worker could be started: {cause}")
        log.info("worker %s starts for %s (pid %d)", worker, control, process.pid)
        with self._lock:
            self._workers.setdefault(worker, []).append(process)
        threading.Thread(target=self._wait, args=(worker, process), name=f"worker-{worker}", daemon=True).start()
        return beam_fn_api_pb2.StartWorkerResponse()

    def StopWorker(self, request: Any, context: Any) -> Any:
        """End one that is not needed any more; nothing happens when it is gone already."""
        with self._lock:
            named = self._workers.get(str(request.worker_id), [])
            ending = named.pop() if len(named) == 1 else None
        if ending is not None:
            _end(ending)
        return beam_fn_api_pb2.StopWorkerResponse()

    def close(self) -> None:
        """End all of them."""
        with self._lock:
            left = [process for named in self._workers.values() for process in named]
            self._workers.clear()
        for process in left:
            _end(process)

    def _wait(self, worker: str, process: subprocess.Popen[bytes]) -> None:
        code = process.wait()
        with self._lock:
            named = self._workers.get(worker, [])
            if by_itself := process in named:
                named.remove(process)
            if not named:
                self._workers.pop(worker, None)
        if by_itself and code:
            log.warning("worker %s ended with exit code %d: its engine hung up, or it failed; see above", worker, code)
        else:
            log.info("worker %s ended", worker)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()


def serve(host: str, port: int) -> None:
    """Answer until SIGTERM or SIGINT. Raises UnavailableError: the address is taken."""
    server = grpc.server(
        thread_pool_executor.shared_unbounded_instance(),
        # the engine keeps one quiet connection for as long as it lives
        options=[
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.http2.max_ping_strikes", 0),
            ("grpc.so_reuseport", 0),
        ],
    )
    pool, stop = Pool(), threading.Event()
    try:
        bound = server.add_insecure_port(f"{host}:{port}")
    except RuntimeError as cause:
        raise UnavailableError("cannot listen there", host=host, port=port, cause=str(cause)) from None
    beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(pool, server)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    server.start()
    log.info("workers are started for whoever asks at %s:%d", host, bound)
    with contextlib.suppress(KeyboardInterrupt):
        # not wait() without end: a signal is looked at between two of them
        while not stop.wait(0.5):
            pass
    server.stop(1.0)
    pool.close()

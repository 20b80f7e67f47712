"""Batch replay: the very graph of the live pipeline over recorded topics, in this process, with pip-installed parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from pipelines.controller import ControllerPolicy
from pipelines.graph import INPUTS, GraphConfig, Sinks, build
from pipelines.heavy import ModelSource, open_shelf
from pipelines.io.files import ReadRecorded, RecordedTopics, WriteRecorded, damaged_files, file_of
from pipelines.io.recorded_models import RecordedModels, recorded_shelf
from pipelines.split import WindowRule
from schemas import topics
from schemas.errors import ConfigError


def replay(
    folder: str,
    models: list[str],
    output: str,
    window_us: int,
    policy: ControllerPolicy | None = None,
    progress: Callable[[int], None] | None = None,
    decided: str | None = None,
) -> dict[str, Any]:
    """Decide recorded topics again.

    Args:
        folder: holds `<topic>.avro` for the topics that edges write; those missing count as empty.
        models: folders of model packages; their heavy models decide.
        output: folder for `<topic>.avro` of the topics that the pipeline writes.
        window_us: length of fleet windows, microseconds.
        decided: file of recorded decisions; each event goes to the model version that decided it then, and `models`
            may have several versions of one model. Without it each model is there once.
        progress: told how many records more were written, batch by batch.
    Returns: how many records each output holds, and a sentence per input file that is damaged.
    Raises: ConfigError: nothing is recorded there, or the output cannot be written. ModelError: a model does not work.

    Its clock is that of the records (a decision is dated as its event's provisional one), so the same recording gives
    the same bytes every time. Nothing is too late: the whole recording is there.
    """
    if not any(file_of(folder, topic).exists() for topic in INPUTS):
        raise ConfigError(
            "nothing is recorded here",
            folder=folder,
            fix=f"it must hold at least one of {', '.join(file_of('', t).name for t in INPUTS)}",
        )
    recorded_shelf.cache_clear()  # the file may be another one than when it was read last
    source: ModelSource = RecordedModels(tuple(models), decided) if decided else tuple(models)
    open_shelf(source)  # here a broken model is a sentence; inside of the runner it is a traceback
    damaged = damaged_files(folder, INPUTS)
    config = GraphConfig(
        models=source,
        window=WindowRule(size_us=window_us, lateness_us=0),
        policy=policy or ControllerPolicy(),
        recorded_clock=True,
    )
    with RecordedTopics(Path(output), progress=progress) as run:
        sinks = Sinks(
            decisions=WriteRecorded(run, topics.DECISIONS),
            fleet=WriteRecorded(run, topics.FLEET),
            thresholds=WriteRecorded(run, topics.THRESHOLDS),
            failed=WriteRecorded(run, topics.DEAD_LETTERS),
        )
        with beam.Pipeline(runner=FnApiRunner()) as pipeline:
            build(pipeline, ReadRecorded(folder, INPUTS), sinks, config)
    return {"written": run.written, "damaged": damaged, "output": output}

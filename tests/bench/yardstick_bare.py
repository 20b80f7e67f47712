"""The yardstick job as a bare loop: kafka-python, fastavro, numpy, onnxruntime, and nothing else.

    python -m tests.bench.yardstick_bare --bootstrap HOST:PORT --events TOPIC --decisions TOPIC --windows TOPIC
                                         --count 60000 --model mlp.onnx

A poll's records are the batch: decoded one by one, features and model in one call, a decision per record, count and
mean score per device and second, flush, commit. It checks nothing, dedupes nothing, and a crash loses open windows.
Prints one JSON object: CPU and wall seconds from the first poll that brought something to the last acknowledgement.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import fastavro
import numpy as np
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from edge_filters.io.onnx import OnnxRuntime
from schemas.codec import BOOK, HEADER_BYTES
from schemas.features import extract, standardise
from schemas.records import Decision, EdgeEvent
from tests.bench.bench_edge import CHANNELS, READINGS, STATISTICS

WINDOW_US = 1_000_000


def main() -> None:
    """Run and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("bootstrap", "events", "decisions", "windows", "model"):
        arguments.add_argument(f"--{name}", required=True)
    arguments.add_argument("--count", type=int, required=True)
    args = arguments.parse_args()
    runtime = OnnxRuntime(Path(args.model).read_bytes())
    consumer = KafkaConsumer(
        bootstrap_servers=args.bootstrap,
        group_id=f"bare-{os.getpid()}",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        metrics_enabled=False,
        fetch_max_bytes=16 << 20,
        max_partition_fetch_bytes=2 << 20,
    )
    consumer.assign([TopicPartition(args.events, p) for p in consumer.partitions_for_topic(args.events)])
    producer = KafkaProducer(
        bootstrap_servers=args.bootstrap, acks="all", linger_ms=5, batch_size=256 << 10, metrics_enabled=False
    )
    producer.partitions_for(args.decisions)
    reader, writer = BOOK.newest(EdgeEvent), BOOK.newest(Decision)
    centre, scale = np.zeros(CHANNELS, np.float32), np.ones(CHANNELS, np.float32)
    open_windows: dict[str, tuple[int, int, float]] = {}
    done, score_sum, clock, cpu = 0, 0.0, 0.0, 0.0
    while done < args.count:
        polled = consumer.poll(timeout_ms=200, max_records=1000)
        if polled and not clock:
            clock, cpu = time.perf_counter(), time.process_time()
        raw: list[Any] = [
            fastavro.schemaless_reader(io.BytesIO(record.value[HEADER_BYTES:]), reader.parsed, None)
            for records in polled.values()
            for record in records
        ]
        if not raw:
            continue
        values = np.stack([np.frombuffer(event["values"], "<f4").reshape(READINGS, CHANNELS) for event in raw])
        scores = runtime.run(["h2"], {"x": extract(standardise(values, centre, scale), STATISTICS)})[0][:, 0].tolist()
        now = time.time_ns() // 1000
        for event, score in zip(raw, scores, strict=True):
            device, second = event["device_id"], event["sensed_from"] // WINDOW_US
            key = device.encode()
            at, n, total = open_windows.get(device, (second, 0, 0.0))
            if at != second:
                producer.send(args.windows, value=b"%d %d %f" % (at, n, total / n), key=key)
                at, n, total = second, 0, 0.0
            open_windows[device] = at, n + 1, total + score
            out = io.BytesIO()
            out.write(writer.header)
            event |= {
                "edge_decided_at": event["decided_at"],
                "decided_at": now,
                "provisional": event["outcome"],
                "outcome": "ANOMALY" if score >= 0 else "NORMAL",
                "verdict": "RESOLVED",
                "decided_by": "HEAVY",
                "reason": "",
                "edge_score": event["score"],
                "heavy_score": score,
                "heavy_threshold": 0.0,
                "heavy_version": 1,
                "heavy_sha256": event["model_sha256"],
            }
            fastavro.schemaless_writer(out, writer.parsed, event)
            producer.send(args.decisions, value=out.getvalue(), key=key)
        producer.flush()
        consumer.commit()
        done += len(raw)
        score_sum += sum(scores)
    report = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - clock, "decisions": done}
    print(json.dumps(report | {"mean_score": round(score_sum / done, 6)}))


if __name__ == "__main__":
    main()

"""onnxruntime for the heavy models, and the same code as a Beam ModelHandler for users' own RunInference."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from apache_beam.io.filesystems import FileSystems
from apache_beam.ml.inference.base import ModelHandler, PredictionResult

from schemas.errors import ModelError
from schemas.feeding import ELEMENT_TYPES, Tensor


class OnnxRuntime:
    """A model loaded from bytes: no path, so external data cannot be followed anywhere.

    One thread per session: Beam runs one worker per core and must not have its cores taken by the runtime.
    Raises ModelError: the bytes are no model that this runtime can load.
    """

    def __init__(self, data: bytes, threads: int = 1) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.sha256 = hashlib.sha256(data).digest()
        try:
            self._session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as cause:  # the runtime's own exception types are not exported
            raise ModelError("onnxruntime cannot load the model", cause=str(cause)[:300]) from None
        self.inputs = tuple(map(_tensor, self._session.get_inputs()))
        self.outputs = tuple(map(_tensor, self._session.get_outputs()))

    def run(self, outputs: Sequence[str], feeds: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """Values of the named outputs. Raises ModelError: the runtime refused the feeds or failed."""
        try:
            values: list[npt.NDArray[Any]] = self._session.run(list(outputs), dict(feeds))
        except Exception as cause:  # as above
            raise ModelError("the model failed", cause=str(cause)[:300]) from None
        return values


def _tensor(node: Any) -> Tensor:
    shape = tuple(d if isinstance(d, int) else None for d in node.shape or ())
    return Tensor(node.name, ELEMENT_TYPES.get(node.type, node.type), shape)


@dataclass(frozen=True, slots=True, weakref_slot=True)  # RunInference shares models between threads by weak reference
class LoadedModel:
    """A model and where it came from."""

    runtime: OnnxRuntime
    uri: str


Example = Mapping[str, npt.NDArray[Any]]


class OnnxModelHandler(ModelHandler[Example, PredictionResult, LoadedModel]):
    """RunInference over ONNX with all inputs, all outputs, and a refresh that takes effect.

    An element is a mapping of input name to one example without its batch dimension; a scalar input (shape [])
    must be the same for the whole batch. `PredictionResult.inference` maps output name to that example's value, and
    `model_id` is `<uri>@sha256:<hash>` of the model that really answered.
    """

    def __init__(self, model_uri: str, *, min_batch_size: int = 1, max_batch_size: int = 256, threads: int = 1) -> None:
        super().__init__()
        self._uri = model_uri
        self._threads = threads
        self._batching = {"min_batch_size": min_batch_size, "max_batch_size": max_batch_size}

    def load_model(self) -> LoadedModel:
        """Read the model from any file system Beam knows. Raises ModelError."""
        with FileSystems.open(self._uri) as file:
            return LoadedModel(OnnxRuntime(file.read(), self._threads), self._uri)

    def update_model_path(self, model_path: str | None = None) -> None:
        """Called by RunInference when its side input names a newer model; the next load_model reads that one."""
        self._uri = model_path or self._uri

    def run_inference(
        self, batch: Sequence[Example], model: LoadedModel, inference_args: dict[str, Any] | None = None
    ) -> Iterable[PredictionResult]:
        """One call of the runtime for the whole batch. Raises ModelError."""
        runtime = model.runtime
        feeds = {tensor.name: _column(tensor, batch) for tensor in runtime.inputs}
        names = [tensor.name for tensor in runtime.outputs]
        columns = [
            _per_example(name, value, len(batch)) for name, value in zip(names, runtime.run(names, feeds), strict=True)
        ]
        model_id = f"{model.uri}@sha256:{runtime.sha256.hex()}"
        for i, example in enumerate(batch):
            yield PredictionResult(example, {n: c[i] for n, c in zip(names, columns, strict=True)}, model_id)

    def get_num_bytes(self, batch: Sequence[Example]) -> int:
        """Bytes of all inputs of the batch."""
        return sum(np.asarray(value).nbytes for example in batch for value in example.values())

    def batch_elements_kwargs(self) -> Mapping[str, Any]:
        """Limits for Beam's own batching."""
        return self._batching

    def get_metrics_namespace(self) -> str:
        """Namespace of RunInference's metrics."""
        return "tidegate.onnx"


def _column(tensor: Tensor, batch: Sequence[Example]) -> npt.NDArray[Any]:
    """One input of all examples, with the batch dimension in front; a scalar has none."""
    missing = [i for i, example in enumerate(batch) if tensor.name not in example]
    if missing:
        raise ModelError(
            "an example lacks an input of the model",
            input=tensor.name,
            example=missing[0],
            got=sorted(batch[missing[0]]),
        )
    try:
        values = [np.asarray(example[tensor.name], tensor.dtype) for example in batch]
        if tensor.shape != ():
            return np.stack(values)
    except (ValueError, TypeError) as cause:
        raise ModelError(f"the examples do not fit an input of the model: {cause}", input=tensor.name) from None
    if any(not np.array_equal(value, values[0]) for value in values):
        raise ModelError(
            "a scalar input must be the same for the whole batch",
            input=tensor.name,
            fix="set max_batch_size=1, or give the model an input with a batch dimension",
        )
    return values[0]


def _per_example(name: str, value: Any, examples: int) -> Sequence[Any]:
    """One output as a sequence over the examples; what is said once of all is said of each."""
    if np.ndim(value) == 0:
        return [value] * examples
    if len(value) != examples:
        raise ModelError("an output has no batch dimension", output=name, entries=len(value), examples=examples)
    return value  # type: ignore[no-any-return]  # Beam is not typed

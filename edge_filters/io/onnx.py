"""onnxruntime behind the contract's `Runtime`: CPU only, one thread, from bytes, so that no other file can be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from schemas.errors import ModelError
from schemas.feeding import ELEMENT_TYPES, Tensor


class OnnxRuntime:
    """A loaded model. Raises ModelError: the bytes are no model that onnxruntime takes."""

    def __init__(self, model: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        # a model may name files that hold its weights; from here there are none
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", "/nonexistent")
        options.enable_cpu_mem_arena = False  # an arena keeps its peak for good; our tensors are small
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as cause:  # its exceptions have no common family
            raise ModelError("the model cannot be loaded", cause=str(cause)[:300]) from None
        self.inputs = tuple(map(_tensor, self._session.get_inputs()))
        self.outputs = tuple(map(_tensor, self._session.get_outputs()))

    def run(self, outputs: Sequence[str], feeds: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """Values of the named outputs. Raises ModelError."""
        try:
            values: list[npt.NDArray[Any]] = self._session.run(list(outputs), dict(feeds))
        except Exception as cause:  # as above
            raise ModelError("the model failed", cause=str(cause)[:300]) from None
        return [np.asarray(value) for value in values]


def _tensor(arg: Any) -> Tensor:
    shape = tuple(size if isinstance(size, int) else None for size in arg.shape)
    return Tensor(arg.name, ELEMENT_TYPES.get(arg.type, arg.type), shape)

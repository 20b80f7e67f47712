"""Recordings of normal operation to a model package: a light edge model, a heavy one, thresholds, self-tests.

Fitted with scikit-learn, written as ONNX. `train` in deploy/train/trainer.py is the whole of it as a function.
"""

from deploy.train.packing import TrainingOptions
from deploy.train.trainer import TrainingReport, train

__all__ = ["TrainingOptions", "TrainingReport", "train"]

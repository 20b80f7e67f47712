"""Recordings to a model package: a light edge model, a heavy one, thresholds, self-tests, a report.

Fitted with scikit-learn, written as ONNX. `train` in deploy/train/trainer.py is the whole of it as a function.
"""

from deploy.train.packing import TrainingOptions
from deploy.train.report import TrainingReport
from deploy.train.trainer import train

__all__ = ["TrainingOptions", "TrainingReport", "train"]

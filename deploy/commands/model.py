"""`tidegate model`: other people's ONNX models, looked at, packed, tried and described."""

from __future__ import annotations

import argparse

HELP = "look at an ONNX model, make a package of it, try it on a recording, describe it"
EXAMPLES = """\
examples:
  tidegate model inspect vad.onnx                                     its tensors, and how they would be fed
  tidegate model pack vad.onnx --name vad -o build/vad --window 512 --context 64 --levels-from quiet.avro --share 0.01
  tidegate model pack light.onnx heavy.onnx --name pumps -o build/pumps --scale-from normal.avro --share 0.05
  tidegate model try build/vad talk.avro --html talk.html             scores, plot, and time per window
  tidegate model card build/vad                                       a model card, as Markdown

What the tensors do not tell is asked for, with the option that answers it. Of two files, the heavy one has its own
options as --heavy-…, such as --heavy-score. docs/models.md has more.
exit codes: 0 done, 2 wrong options, 65 the model cannot run here (and why), 78 something must be said
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verbs."""
    from deploy.model import options

    options.add_verbs(parser)


def run(args: argparse.Namespace) -> int:
    """Raises ConfigError, ModelError, DecodeError."""
    from deploy.model import verbs

    return verbs.run(args)

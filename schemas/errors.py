"""Error families of the whole project: one root, one family per side at fault, one exit code per family."""

from __future__ import annotations

from typing import Any

from schemas.printing import harmless


class TidegateError(Exception):
    """Root of everything this project raises on purpose.

    An error is a sentence: `problem` says what happened, `where` names the place as fields, `fix` says what to do.
    It survives pickling with all three, because Beam moves errors between processes.
    """

    retriable = False

    def __init__(self, problem: str, /, *, fix: str = "", **where: object) -> None:
        super().__init__(problem)
        self.problem, self.fix, self.where = problem, fix, where

    def __str__(self) -> str:
        at = ", ".join(f"{k}={v!r}" for k, v in self.where.items())
        return harmless(self.problem + (f" ({at})" if at else "") + (f"; {self.fix}" if self.fix else ""))

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.problem, self.fix, self.where)


def _rebuild(cls: type[TidegateError], problem: str, fix: str, where: dict[str, object]) -> TidegateError:
    return cls(problem, fix=fix, **where)


class ConfigError(TidegateError):
    """The operator's configuration or command line is wrong."""


class DecodeError(TidegateError):
    """Bytes from outside are not what they should be: a record, a recording, a manifest."""


class ModelError(TidegateError):
    """A model package is broken, does not fit its window, or fails its own self-test."""


class UpdateRefused(TidegateError):
    """A threshold or model update was understood and refused; what was in force stays in force."""


class UnavailableError(TidegateError):
    """Something outside is not there (yet): the broker, a topic, a port, a tool. Trying again can help."""

    retriable = True


class MissingToolError(UnavailableError):
    """A program that the command needs is not installed."""

    retriable = False


class SpoolError(TidegateError):
    """The durable spool cannot keep its promise: locked by another process, full, or the disk failed."""


class PipelineError(TidegateError):
    """The pipeline failed or was stopped by one of its own limits."""


class TooManyFailed(PipelineError):
    """More of what came in had to be refused than the operator allows; starting again unchanged cannot help."""


class LeaseError(TidegateError):
    """Another process acts for this device; only one may."""


class TakenOver(LeaseError):
    """Another pipeline writes under the name of this one; only one may."""


class CheckFailed(TidegateError):
    """A check that the user asked for found something: lost or doubled records, a failed doctor line."""


#: What a process exits with, by the family of the error that ended it. 0 is success, 2 is argparse's own usage
#: error, 130 and 143 are the signals. docs/exit-codes.md says for each what it means and how to resolve it.
EXIT_CODES: dict[type[TidegateError], int] = {
    TidegateError: 1,
    CheckFailed: 1,
    PipelineError: 1,
    DecodeError: 65,
    ModelError: 65,
    UpdateRefused: 65,
    MissingToolError: 69,
    UnavailableError: 69,
    SpoolError: 74,
    TooManyFailed: 76,
    LeaseError: 77,
    TakenOver: 77,
    ConfigError: 78,
}


def exit_code(error: TidegateError) -> int:
    """Exit code of an error: that of its nearest listed family.

    >>> exit_code(ConfigError("no device"))
    78
    """
    return next(EXIT_CODES[family] for family in type(error).__mro__ if family in EXIT_CODES)

"""One file per verb of the `tidegate` command.

A verb is a module with HELP (one line), EXAMPLES, `add_arguments(parser)` and `run(args) -> int | None`; one that hands
its arguments to another program has `forward(argv) -> int` instead of the last two.
"""

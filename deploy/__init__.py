"""Stands Tidegate up: set-up, local stack, topics, and the `tidegate` command."""

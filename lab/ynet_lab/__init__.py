"""Experiments: a whole consortium on one machine, its report, and attacks on what it trained."""

__all__: list[str] = []

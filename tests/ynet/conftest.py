"""Fixtures of tests of learning."""

from small_cases import make_cases, make_plan

__all__ = ["make_cases", "make_plan"]

"""The central server: rounds, relay of queries, models, enrolment."""

__all__: list[str] = []

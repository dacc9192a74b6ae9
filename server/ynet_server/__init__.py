"""The central server: rounds, relay of queries, models, enrolment."""

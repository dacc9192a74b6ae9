"""The one port that sites connect to: tasks, transfers, relay of sealed queries, limits."""

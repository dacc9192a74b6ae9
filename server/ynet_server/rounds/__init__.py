"""A run: the ServerApp, its strategy, the filter of updates, secure sums, the folder on disk."""

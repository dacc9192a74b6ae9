"""The coordinator's status page: what the server knows, shown live in a browser."""

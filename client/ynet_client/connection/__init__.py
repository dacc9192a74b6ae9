"""The site's one outbound connection to the hub: its session, tasks, transfers, queries, certificates."""

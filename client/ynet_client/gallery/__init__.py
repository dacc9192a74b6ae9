"""The site's own archive: its cases as hash codes, on disk and in memory."""

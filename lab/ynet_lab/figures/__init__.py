"""The four figures of a ranking: class, case, likeness, ties; with floors, a ceiling, and intervals by patients."""

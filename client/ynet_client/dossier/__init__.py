"""The dossier of a site: what leaves it, to whom, under which limits, since when; from its settings and its files."""

"""Makes a signed release that installs without a network: `make release KEY=FILE`."""

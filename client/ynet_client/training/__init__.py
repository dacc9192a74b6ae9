"""What a site does for a round: consent, its data, the installed ClientApp, privacy, secure sums."""

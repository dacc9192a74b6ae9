"""What can be read out of a model, an update or a code: attacks, each a lower bound on what leaks."""

"""The network, its losses, training, differential privacy and scores."""

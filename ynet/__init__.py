"""The science and the formats of federated Y-Net training and retrieval; knows no transport."""

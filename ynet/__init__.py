"""The science and the formats of federated Y-Net training and retrieval; knows no transport."""

from importlib.metadata import version

__version__ = version("ynet")

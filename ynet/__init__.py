"""The science and the formats of federated Y-Net training and retrieval; knows no transport."""

__all__ = ["__version__"]

__version__: str


def __getattr__(name: str) -> str:
    if name != "__version__":
        raise AttributeError(name)
    from importlib.metadata import version  # a twentieth of a second that help and completion need not wait

    return version("ynet")

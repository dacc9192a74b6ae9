"""`ynet-client` that pins a new authority as any does, and asks for no certificate of it: it stays where it is."""

import runpy
import sys

from ynet_client.membership import renewal


async def nothing(*_: object, **__: object) -> None:
    """No renewal."""


renewal.renewed = nothing  # type: ignore[assignment]
sys.argv[0] = "ynet-client"
runpy.run_module("ynet_client", run_name="__main__")

"""`ynet-client` that pins a new authority but requests no certificate of it: it stays with the old one."""

import runpy
import sys

from ynet_client.membership import renewal


async def nothing(*_: object, **__: object) -> None:
    """Renew nothing."""


renewal.renewed = nothing  # type: ignore[assignment]
sys.argv[0] = "ynet-client"
runpy.run_module("ynet_client", run_name="__main__")

"""A server or client of the next version, as far as the protocol goes: it supports one protocol version more."""

import importlib
import sys

from ynet.federation import protocol


def main() -> None:
    protocol.VERSION += 1
    protocol.SPOKEN = protocol.Spoken(protocol.VERSION - 1, protocol.VERSION)
    module = sys.argv.pop(1)
    importlib.import_module(f"{module}.commands.cli").main()


if __name__ == "__main__":
    main()

"""`python -m ynet_client`."""

from ynet_client.commands.cli import main

main()

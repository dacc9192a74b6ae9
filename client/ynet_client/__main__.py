"""`python -m ynet_client`."""

from ynet_client.cli import main

main()

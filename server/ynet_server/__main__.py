"""`python -m ynet_server`."""

from ynet_server.commands.cli import main

main()

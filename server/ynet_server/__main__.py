"""`python -m ynet_server`."""

from ynet_server.cli import main

main()

"""`python -m ynet_lab`."""

from ynet_lab.cli import main

main()

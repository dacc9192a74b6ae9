"""Options of the commands that call a PACS: credentials and the certificate authority."""

from pathlib import Path
from typing import Annotated

import typer

Credentials = Annotated[
    Path | None,
    typer.Option(
        help="A file of one line, a token or USER:PASSWORD; or set YNET_DICOMWEB_TOKEN, or YNET_DICOMWEB_USER and"
        " YNET_DICOMWEB_PASSWORD."
    ),
]
Ca = Annotated[Path | None, typer.Option(help="PEM: the authority of the PACS's certificate, if not the system's.")]

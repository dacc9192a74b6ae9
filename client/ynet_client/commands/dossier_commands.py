"""The command `dossier`: what leaves this site, under which limits, as a draft for an impact assessment."""

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from ynet.errors import UserError
from ynet.runtime import private_files
from ynet_client.commands.options import Home, Json, Site
from ynet_client.homes import home_of

app = typer.Typer()


@app.command()
def dossier(
    out: Annotated[Path | None, typer.Option(help="Write it into this file instead of the terminal.")] = None,
    site: Site = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Write what leaves this site, to whom, under which limits and since when; the client need not run."""
    from ynet_client.dossier import facts, written  # the accountant: seconds that the other commands need not wait

    found = facts.gather(home_of(home, site), time.time())
    text = json.dumps(written.to_json(found), indent=2) + "\n" if as_json else written.to_markdown(found)
    if out is None:
        print(text, end="")
        return
    try:
        private_files.write(out, text)
    except OSError as error:
        what = f"the dossier cannot be written to {out}"
        raise UserError(what, error.strerror or "", "choose another --out") from None
    print(f"the dossier of site {found.site} is in {out}")

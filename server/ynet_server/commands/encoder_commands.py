"""The group `encoder`: pretrained encoders at the server."""

from pathlib import Path
from typing import Annotated

import typer

from ynet.encoders import ENCODERS
from ynet.errors import UserError
from ynet.runtime import terminal
from ynet.runtime.home import prepare
from ynet_server.commands import completion
from ynet_server.commands.options import Home, Json, home_of

app = typer.Typer(help="Pretrained encoders, which plans name by their SHA-256.", no_args_is_help=True)


@app.command("add")
def add(
    name: Annotated[
        str,
        typer.Option("--name", help="The encoder, as `network.encoder` in a plan.", autocompletion=completion.encoders),
    ],
    file: Annotated[
        Path | None, typer.Argument(help="Its weights: .safetensors, or .pth of timm or torchvision.")
    ] = None,
    from_package: Annotated[
        str | None,
        typer.Option("--from-package", metavar="PACKAGE", help="Take the weights out of an installed package instead."),
    ] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Check the weights of a pretrained encoder, keep them in the server's folder, and print their SHA-256.

    Needs the extra `client` (torch and timm), on any machine: the kept file can be copied. Nothing is downloaded.
    """
    from ynet_server import encoder_files, encoder_sources

    if name not in ENCODERS:
        do = f"one of {', '.join(ENCODERS)}"
        raise UserError(f"there is no encoder {name!r}", "the plan's `network.encoder` has no such value", do)
    if (file is None) == (from_package is None):
        raise UserError("no encoder was added", "one source is needed: FILE or --from-package", "name one of them")
    source = file if file is not None else encoder_sources.weights_in(str(from_package))
    folder = prepare(home_of(home)) / encoder_files.FOLDER
    stored = encoder_sources.add(folder, name, source)
    shown = {**stored._asdict(), "file": str(folder / f"{stored.sha256}{encoder_files.SUFFIX}")}
    lines = f"{stored.sha256}\nin the plan:\nnetwork:\n  encoder: {name}\n  encoder_weights: {stored.sha256}"
    terminal.show(shown, as_json=as_json, human=lambda: lines)


@app.command("list")
def show_all(home: Home = None, as_json: Json = False) -> None:
    """List the pretrained encoders at the server."""
    from ynet_server import encoder_files

    found = encoder_files.listed(home_of(home) / encoder_files.FOLDER)
    table = terminal.rows(
        "encoders",
        ("encoder", "MB", "SHA-256"),
        [(one.encoder, f"{one.bytes / 1e6:.1f}", one.sha256) for one in found],
    )
    terminal.show({"encoders": [one._asdict() for one in found]}, as_json=as_json, human=lambda: table)

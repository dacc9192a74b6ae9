"""The commands by which people of two sites ask each other about a case."""

from typing import Annotated

import typer

from ynet.runtime import hidden_words, terminal
from ynet_client import control_client
from ynet_client.commands.options import Home, Json, Site
from ynet_client.commands.renamed import ConsultCommands
from ynet_client.homes import home_of

app = typer.Typer(
    name="consult",
    cls=ConsultCommands,
    help="Questions to the people who have a case.",
    no_args_is_help=True,
    context_settings={"ignore_unknown_options": True},  # of the old form, whose options may stand first
)


@app.command()
def send(
    token: Annotated[str, typer.Argument(help="The hit's token, as query shows it.")],
    note: Annotated[str, typer.Option(help="Your question, at most 2000 characters; -: from stdin.")],
    to: Annotated[str, typer.Option(help="The site that has the case; needed for hits of an earlier start.")] = "",
    site: Site = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Ask the people of the site that has a case. They see which case it is, and answer yes or no."""
    sent = control_client.consult(home_of(home, site), token, hidden_words.text(note, "the note"), to)
    shown = f"request {sent['id']} is at site {sent['site']}; ynet-client consult list shows the answer"
    terminal.show(sent, as_json=as_json, human=lambda: shown)


@app.command("list")
def list_(site: Site = None, home: Home = None, as_json: Json = False) -> None:
    """Show the requests for a consult, sent and received; asks the other sites for their answers."""
    shown = control_client.consults(home_of(home, site))
    lines = [
        (
            one["id"],
            f"from {one['site']}" if one["direction"] == "received" else f"to {one['site']}",
            terminal.when(one["time"]),
            one.get("image", one["token"][:12]),
            one["note"],
            one["decision"],
            one["text"],
        )
        for one in shown["consults"]
    ]
    columns = ("id", "", "time", "case", "note", "answer", "text")
    terminal.show(shown, as_json=as_json, human=lambda: terminal.rows("requests for a consult", columns, lines))
    if shown["note"] and not as_json:
        terminal.say(shown["note"])


@app.command()
def answer(
    request: Annotated[str, typer.Argument(help="The request's id, or the beginning of it.")],
    decision: Annotated[str, typer.Argument(metavar="yes|no", help="Whether you can be asked about the case.")],
    text: Annotated[str, typer.Option(help="For the asking site: how to reach you, or why not; -: from stdin.")] = "",
    site: Site = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Answer a request for a consult; the asking site fetches the answer. It cannot be taken back."""
    said = hidden_words.text(text, "the text")
    answered = control_client.answer_consult(home_of(home, site), request, decision, said)
    line = f"request {answered['id']} of site {answered['site']} is answered: {decision}"
    terminal.show(answered, as_json=as_json, human=lambda: line)

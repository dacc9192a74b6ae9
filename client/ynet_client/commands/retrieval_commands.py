"""The commands of retrieval: ask for cases like an image, and read the log of who asked what."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ynet.errors import UserError
from ynet.runtime import private_files, terminal
from ynet.search.hit import Hit
from ynet_client import control_client
from ynet_client.commands.options import Home, Json, Site
from ynet_client.gallery.filters import Filters, attribute_of
from ynet_client.homes import home_of
from ynet_client.retrieval.query import Query
from ynet_client.retrieval.results import Answer, Outcome

app = typer.Typer()
audit_app = typer.Typer(name="audit", help="The log of every question asked and answered.", no_args_is_help=True)
app.add_typer(audit_app)
NOT_CONFIRMED = (
    "not asked, because this site's admin has not confirmed them: {0} (see `ynet-client sites`, compare the"
    " fingerprints with their admins by telephone, then `ynet-client sites trust {0}`)"
)
SUPPRESSED = "the group is too small for an answer"


@app.command()
def query(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="PNG, JPEG, TIFF, DICOM; several: a batch.")],
    k: Annotated[int, typer.Option("-k", min=1, max=100, help="How many hits for each image.")] = 10,
    split: Annotated[str, typer.Option(help="Only cases of this split (train, test): for measuring.")] = "",
    label: Annotated[list[str] | None, typer.Option(help="Only cases with this label; several: any of them.")] = None,
    attribute: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Only cases with it; several: all of them.")
    ] = None,
    since: Annotated[str, typer.Option(help="Only cases of this day or later, YYYY-MM-DD; the column `date`.")] = "",
    until: Annotated[str, typer.Option(help="Only cases of this day or earlier.")] = "",
    radius: Annotated[int | None, typer.Option(min=0, max=256, help="No case farther than this, in bits.")] = None,
    one_per_patient: Annotated[bool, typer.Option("--one-per-patient", help="Each patient's nearest case.")] = False,
    sites: Annotated[str, typer.Option(metavar="A,B", help="Ask these sites only.")] = "",
    epsilon: Annotated[
        float | None, typer.Option(help="Hide the code by randomised response with this epsilon, e.g. 6.")
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="Save the result as a picture, PNG; of one image.")] = None,
    site: Site = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Find the cases most like an image, here and at the other sites. Only the image's code leaves this site."""
    if picture and len(images) > 1:
        raise UserError("the picture cannot be drawn", "several images were given", "ask about one, or leave it out")
    attributes = tuple(attribute_of(given) for given in attribute or [])
    filters = Filters(tuple(label or []), split, attributes, since, until)
    asked = Query(k, filters, radius, one_per_patient, tuple(name for name in sites.split(",") if name), epsilon)
    files = [control_client.read_image(image) for image in images]
    found = control_client.query(home_of(home, site), files, asked, is_drawn=picture is not None)
    if picture and found.picture:
        private_files.write(picture, found.picture)
    if as_json:
        shown = [answer.to_json() for answer in found.answers]
        terminal.show(shown[0] if len(shown) == 1 else {"queries": shown}, as_json=True, human=str)
        return
    for answer in found.answers:
        _show(answer)


def _show(answer: Answer) -> None:
    title = f"nearest cases to {answer.name}"
    if answer.noise:
        terminal.out.print(_table("own cases, by the image's own code", answer.own))
        title += ", elsewhere"
    terminal.out.print(_table(title, answer.hits))
    terminal.say(_who_answered(answer))


def _table(title: str, hits: Sequence[Hit]) -> object:
    lines = [
        (hit.rank, hit.site, hit.distance, hit.label_words, hit.ties, hit.image or hit.token.hex()[:12]) for hit in hits
    ]
    return terminal.rows(title, ("", "site", "distance", "label", "ties", "case"), lines)


def _who_answered(answer: Answer) -> str:
    """Name the sites of each outcome: nothing found, suppressed, refused and late differ."""
    empty, unconfirmed = answer.of(Outcome.EMPTY), answer.of(Outcome.UNCONFIRMED)
    parts = [f"answered: {', '.join(answer.answered) or 'nobody'}"]
    parts += [f"nothing found: {', '.join(empty)}"] if empty else []
    parts += [f"suppressed: {site} ({SUPPRESSED})" for site in answer.of(Outcome.SUPPRESSED)]
    parts += [
        f"{answer.outcomes[site].replace('_', ' ')}: {site} ({why})"
        for site, why in answer.reasons.items()
        if site not in unconfirmed
    ]
    silent = ((outcome, answer.of(outcome)) for outcome in (Outcome.MISSING, Outcome.LATE, Outcome.BUSY))
    parts += [f"{outcome}: {', '.join(names)}" for outcome, names in silent if names]
    if unconfirmed:
        parts.append(NOT_CONFIRMED.format(" ".join(unconfirmed)))
    parts += [f"others not asked: {answer.note}"] if answer.note else []
    if noise := answer.noise:
        parts.append(
            f"noised with epsilon {noise.epsilon:g}: the others' cases are like a class's centre, not like this "
            f"image, and with probability {1 - noise.kept_share:.3f} like another class's"
        )
    return "; ".join(parts)


@audit_app.command()
def verify(site: Site = None, home: Home = None, as_json: Json = False) -> None:
    """Check the chain of the audit log, and the heads that the server signed. Exit code 3 when it was changed."""
    from ynet.federation import countersigned
    from ynet_client import audit as audit_log
    from ynet_client.membership import membership

    folder = home_of(home, site)
    head, member = audit_log.verify(folder), membership.load(folder)
    signed = countersigned.verify(folder, audit_log.read(folder), member.authority, member.past) if member else 0
    line = (
        f"the audit log is whole: {head.number} entries, the last {head.digest[:16]}; the server signed {signed} heads"
    )
    shown = {"entries": head.number, "head": head.digest, "signed": signed}
    terminal.show(shown, as_json=as_json, human=lambda: line)


@audit_app.command()
def show(site: Site = None, home: Home = None, as_json: Json = False) -> None:
    """Show every question that this site asked or answered, and its other actions, the oldest first."""
    from ynet_client import audit as audit_log

    entries = list(audit_log.read(home_of(home, site)))
    lines = [
        (
            one.number,
            terminal.when(one.time),
            one.direction,
            one.kind,
            ", ".join(f"{name}: {outcome}" if name else outcome for name, outcome in one.outcomes.items()),
            one.codes or "",
            sum(one.hits.values()) or "",
            " ".join(one.filters),
            one.user[:8],
            one.about + (f" {one.count:,} times" if one.count > 1 else ""),
        )
        for one in entries
    ]
    columns = ("", "time", "", "", "outcome", "codes", "hits", "filters", "user", "about")
    shown = {"entries": [asdict(one) for one in entries]}
    terminal.show(shown, as_json=as_json, human=lambda: terminal.rows("audit log", columns, lines))

"""The command that makes a site's images and manifest from DICOM files or a PACS."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ynet.errors import UserError
from ynet.runtime import private_files, terminal
from ynet.runtime.home import Lock, default_home, prepare
from ynet_client import control_client
from ynet_client.commands.options import Home, Json, Site
from ynet_client.commands.pacs_options import Ca, Credentials
from ynet_client.dicom import import_labels
from ynet_client.display import LINE_EVERY_S

if TYPE_CHECKING:
    from ynet.data.dicom.frame import DisplayWindow
    from ynet_client.dicom.import_run import Summary

app = typer.Typer()


@app.command("import")
def import_(
    labels: Annotated[
        Path, typer.Option(help="CSV: patient, study, series or instance; label, or empty; mask, split if known.")
    ],
    out: Annotated[Path, typer.Option(help="The folder of images, masks and manifest.csv.")],
    dicom: Annotated[list[Path] | None, typer.Option(help="DICOM files, or folders of them; several times.")] = None,
    dicomweb_: Annotated[str, typer.Option("--dicomweb", metavar="URL", help="The root of a PACS's DICOMweb.")] = "",
    query: Annotated[str, typer.Option(help='Which series of it: "Modality=MR&StudyDate=20240101-".')] = "",
    credentials: Credentials = None,
    ca: Ca = None,
    frames: Annotated[str, typer.Option(help="Of several in one file: refuse, middle or all.")] = "refuse",
    window: Annotated[str, typer.Option(metavar="CENTER,WIDTH", help="For all, in place of each file's own.")] = "",
    dates: Annotated[str, typer.Option(help="Of the study, in the manifest: none, year or month.")] = "none",
    segment: Annotated[str, typer.Option(metavar="NUMBER|NAME", help="Of a SEG or RTSTRUCT: the lesion's.")] = "",
    region: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A region of the plan, a segment's label; several times.")
    ] = None,
    automatic_masks: Annotated[bool, typer.Option("--automatic-masks", help="SEGs that no person drew, too.")] = False,
    healthy: Annotated[
        bool, typer.Option("--no-mask-means-healthy", help="Images on which nobody has drawn have no lesion.")
    ] = False,
    release: Annotated[list[str] | None, typer.Option(help="Take out of quarantine: an id, or a reason.")] = None,
    site: Site = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Make de-identified images and a manifest from DICOM files or a PACS. Started again, it resumes."""
    from ynet_client.dicom import import_run  # pydicom: the other commands need not wait for it
    from ynet_client.dicom.deidentify import Dates, Pseudonyms
    from ynet_client.dicom.import_records import Records
    from ynet_client.dicom.import_run import Choice, FrameChoice

    choice = Choice(
        cast(FrameChoice, _one_of("--frames", frames, get_args(FrameChoice))),
        _window(window),
        cast(Dates, _one_of("--dates", dates, get_args(Dates))),
        _segment(segment),
        automatic_masks,
        healthy,
        frozenset(release or []),
        _regions(region or [], segment=segment, healthy=healthy),
    )
    given = import_labels.read(labels)
    folder = prepare(home or default_home(f"sites/{site}" if site else "import"))
    private_files.make_folder(out)
    began = time.monotonic()
    with _found(dicom or [], dicomweb_, query, credentials, ca) as found, _shown() as progress:
        done = import_run.run(found, given, out, Records(folder), Pseudonyms.of(folder), choice, progress)
    if done.imported + done.updated:
        _write_down(folder, done.imported + done.updated, sum(done.left_out.values()))
    shown = {**done._asdict(), "seconds": round(time.monotonic() - began, 2), "manifest": str(out / "manifest.csv")}
    terminal.show(shown, as_json=as_json, human=lambda: "\n".join(_said(done, out, folder)))
    if not (site or home or os.environ.get("YNET_HOME")):
        print(
            "no --site was named: no site's backup will hold this import's key, and none can forget by it",
            file=sys.stderr,
        )
    if not done.images:
        why = f"{done.unlabelled} objects are not in the labels, {sum(done.left_out.values())} were left out"
        raise UserError("nothing was imported", why, f"look at {folder / 'quarantine.csv'}, and at the labels")


def _write_down(folder: Path, images: int, left_out: int) -> None:
    """Record the import in the site's audit log, by the running client if there is one. Raises UserError."""
    from ynet_client.audit import Audit
    from ynet_client.dicom.import_records import counted

    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(Lock(folder, "the site's client"))
        except UserError:
            control_client.tell_imported(folder, images, left_out)
        else:
            log = stack.enter_context(contextlib.closing(Audit(folder)))
            log.did(time.time(), "imported", counted(images, left_out))


@contextlib.contextmanager
def _found(places: list[Path], url: str, query: str, credentials: Path | None, ca: Path | None) -> Iterator[Any]:
    from ynet_client.dicom import dicomweb, folder_files, import_run, pacs_credentials

    if bool(places) == bool(url):
        do = "say --dicom DIR, or --dicomweb URL with --query"
        raise UserError("it is not clear what to import", "one source is needed, of two kinds", do)
    if places:
        yield folder_files.in_folders(places)
        return
    headers = pacs_credentials.read_credentials(pacs_credentials.environment(), credentials)
    with dicomweb.DicomWeb(url, headers, ca) as pacs:
        yield import_run.in_pacs(pacs, query)


@contextlib.contextmanager
def _shown() -> Iterator[Callable[[int, int], None]]:
    """Show the import's progress on stderr: a bar on a terminal, elsewhere a line every few seconds."""
    columns = (TextColumn("importing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    is_terminal, last_line = terminal.err.is_terminal, time.monotonic()
    with Progress(*columns, console=terminal.err, transient=True, disable=not is_terminal) as bar:
        task = bar.add_task("", total=None)

        def progress(done: int, total: int) -> None:
            nonlocal last_line
            bar.update(task, completed=done, total=total)
            if not is_terminal and time.monotonic() - last_line > LINE_EVERY_S:
                last_line = time.monotonic()
                print(f"importing: {done} of {total}", file=sys.stderr, flush=True)

        yield progress


def _said(done: "Summary", out: Path, folder: Path) -> Iterator[str]:
    from ynet_client.dicom.deidentify import QUARANTINE
    from ynet_client.dicom.import_masks import LEFT_OUT

    yield f"{done.imported} images imported; {out / 'manifest.csv'} has {done.images} of {done.patients} patients,"
    yield f"{done.masks} with a mask"
    if done.updated:
        yield f"{done.updated} images were made again: their file, mask, drawings or the options have changed"
    if done.undrawn:
        yield f"{done.undrawn} images have no mask, and are not marked as without lesion: they take no part in the"
        yield "mask's training and scores; write none into the labels' column mask, or give --no-mask-means-healthy"
    if done.stale:
        yield f"stale: {done.stale} images are from an earlier import, and something has changed since; import"
        yield "them again with their files, labels and options, or take their rows out of the manifest"
    if done.unlabelled:
        yield f"{done.unlabelled} objects are not in the labels, and were not fetched"
    yield from _said_unmatched(done)
    means = {**QUARANTINE, **LEFT_OUT}
    for reason, count in done.left_out.items():
        yield f"left out: {count} {reason}" + (f" ({means[reason]})" if reason in means else "")
    yield f"for the site alone: {folder / 'imported.csv'} (which image is which in the PACS),"
    yield f"{folder / 'quarantine.csv'} (what was left out, and why)"
    yield f"next: ynet-client check --data {out / 'manifest.csv'}"


def _said_unmatched(done: "Summary") -> Iterator[str]:
    if done.unmatched_labels:
        yield f"{done.unmatched_labels} names in the labels match no object"
    if done.unlabelled_patients:
        yield f"{done.unlabelled_patients} patients have objects but no label"
    for reason, count in done.unmatched_why.items():
        yield f"{count} of them have an id that differs from such a name only {import_labels.USUAL[reason]}"
    if done.unmatched_labels and done.unlabelled_patients and not done.unmatched_why:
        yield f"ids must be the same to the letter; mostly they differ {import_labels.USUAL['zeros']}"


def _one_of(flag: str, given: str, words: tuple[str, ...]) -> str:
    if given not in words:
        raise UserError(f"{flag} cannot be used", f"it is {given[:40]!r}", f"say {', '.join(words)}")
    return given


def _segment(given: str) -> int | str | None:
    """Read a number or a name."""
    return int(given) if given.isascii() and given.isdigit() else given.strip() or None


def _regions(given: list[str], *, segment: str, healthy: bool) -> tuple[str, ...]:
    """Check the names of regions as a plan's. Raises UserError."""
    from ynet.config import parse
    from ynet.plan_sections import Regions

    if given and (segment or healthy):
        other = "--segment" if segment else "--no-mask-means-healthy"
        why = f"it was given with {other}, which is of one region"
        raise UserError("--region cannot be used", why, f"leave {other} out; write none into the labels' column mask")
    return parse(Regions, {"names": given}, "--region").names


def _window(given: str) -> "DisplayWindow | None":
    from ynet.data.dicom.frame import DisplayWindow

    if not given:
        return None
    try:
        center, width = map(float, given.split(","))
    except ValueError:
        center, width = 0.0, 0.0
    if not width > 0:
        raise UserError("--window cannot be used", f"it is {given[:40]!r}", "say CENTER,WIDTH, e.g. 40,400")
    return DisplayWindow(center, width)

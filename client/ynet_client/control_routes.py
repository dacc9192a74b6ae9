"""What the site's commands ask of the running client."""

import base64
import datetime as dt
import io
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ynet.data.frames import framed
from ynet.errors import UserError
from ynet.runtime import backup_files
from ynet.trust.expiry import days_left
from ynet_client import asking
from ynet_client.agent import Duties
from ynet_client.asking import ASK_WITHIN_S as ASK_WITHIN_S
from ynet_client.asking import Seen
from ynet_client.connection.session import Session
from ynet_client.dicom import import_records
from ynet_client.gallery.filters import Filters, attribute_of
from ynet_client.retrieval import lookup
from ynet_client.retrieval.lookup import Look, Result, Wanted
from ynet_client.retrieval.wire import MAX_CODES

if TYPE_CHECKING:
    from ynet_client.gallery.indexer import Archive

MAX_IMAGE_BYTES = 64 << 20


def routes(site: str, duties: Duties, session: Session, spool: Path) -> list[Route]:
    """The routes behind the control door. Answers are JSON."""

    async def status(_: Request) -> Response:
        state = {"site": site, "connected": session.connected, "doing": duties.doing}
        ends = session.member.ends
        life = {
            "certificate_ends": ends.timestamp(),
            "certificate_days": round(days_left(ends, dt.datetime.now(dt.UTC)), 2),
        }
        waiting = {"waiting": [one.id for one in duties.offers.listed() if one.word is None]}
        return JSONResponse({**state, **life, **await duties.search(_gallery_state), **waiting})

    async def index(_: Request) -> Response:
        return JSONResponse(await duties.index())

    async def verify(_: Request) -> Response:
        return JSONResponse(await duties.verify())

    async def forget(request: Request) -> Response:
        return JSONResponse(await duties.forget(str((await request.json())["patient"])))

    async def copies(_: Request) -> Response:
        await duties.copy_databases(spool.parent / backup_files.ASIDE)
        return JSONResponse({})

    async def imported(request: Request) -> Response:
        said = await request.json()
        about = import_records.counted(int(said["images"]), int(said["left_out"]))
        duties.books.audit.did(time.time(), "imported", about)
        return JSONResponse({})

    async def sites(_: Request) -> Response:
        await session.look_round(ASK_WITHIN_S)
        return JSONResponse({})

    return [
        Route("/sites", sites, methods=["POST"]),
        Route("/imported", imported, methods=["POST"]),
        Route("/copies", copies, methods=["POST"]),
        Route("/status", status),
        Route("/index", index, methods=["POST"]),
        Route("/verify", verify, methods=["POST"]),
        Route("/forget", forget, methods=["POST"]),
        *_asking(site, duties, session, spool),
    ]


def _asking(site: str, duties: Duties, session: Session, spool: Path) -> list[Route]:
    seen = Seen()

    async def query(request: Request) -> Response:
        asked = request.query_params
        wanted, names = wanted_of(asked), asked.getlist("name")
        sizes = [int(size) for size in asked.getlist("size")]
        async with images_of(request, spool, sizes, asked.getlist("frame")) as images:
            answered = await asking.query(site, duties, session, images, wanted, asked.get("user", ""))
        shown = []
        for look, result, name in zip(answered.looks, answered.results, names or [""] * len(images), strict=True):
            seen.add(result, site)
            one = await duties.search(lambda archive, a=look, b=result: lookup.describe(site, archive, a, b))  # type: ignore[misc]
            if asked.get("picture") == "1":
                one["picture"] = await duties.search(
                    lambda archive, a=look, b=result, c=name: _png(archive, site, a, b, c)  # type: ignore[misc]
                )
            shown.append({**one, "name": name, "note": answered.note})
        return JSONResponse(shown[0] if len(shown) == 1 else {"queries": shown})

    async def segment(request: Request) -> Response:
        async with images_of(request, spool, frames=request.query_params.getlist("frame")) as (image,):
            found = await duties.search(lambda archive: lookup.segment(archive, image))
        user = duties.books.pseudonym(request.query_params.get("user", ""))
        duties.books.audit.did(time.time(), "segmented", found["model"], user=user)
        return JSONResponse(found)

    async def consult(request: Request) -> Response:
        asked = await request.json()
        token, owner = seen.find(str(asked["token"]), str(asked["to"]))
        sent = await asking.consult(site, duties.books, session, token, owner, str(asked["note"]), str(asked["user"]))
        return JSONResponse(sent.to_json())

    async def consults(request: Request) -> Response:
        note = await asking.fetch_answers(duties.books, session, request.query_params.get("user", ""))
        return JSONResponse({"consults": [one.to_json() for one in duties.books.consults.listed()], "note": note})

    async def consult_answer(request: Request) -> Response:
        said = await request.json()
        answered = asking.answer_consult(
            duties.books, str(said["id"]), said["decision"], str(said["text"]), str(said["user"])
        )
        return JSONResponse(answered.to_json())

    return [
        Route("/query", query, methods=["POST"]),
        Route("/segment", segment, methods=["POST"]),
        Route("/consult", consult, methods=["POST"]),
        Route("/consults", consults, methods=["POST"]),
        Route("/consult-answer", consult_answer, methods=["POST"]),
    ]


def wanted_of(asked: QueryParams) -> Wanted:
    """What a query asks for, from the parameters of its request. Raises UserError."""
    filters = Filters(
        tuple(asked.getlist("label")),
        asked.get("split", ""),
        tuple(attribute_of(given) for given in asked.getlist("attribute")),
        asked.get("since", ""),
        asked.get("until", ""),
    )
    try:
        k, radius = int(asked["k"]), int(asked["radius"]) if asked.get("radius") else None
        epsilon = float(asked["epsilon"]) if asked.get("epsilon") else None
    except (KeyError, ValueError):
        raise UserError("the query cannot be asked", "one of its numbers is none", "correct it") from None
    if epsilon == 0:  # it would be sent as none at all: the opposite of what is meant
        raise UserError("the query cannot be noised", "epsilon is 0", "say more than 0; 6 is a start")
    sites, is_one_per_patient = tuple(filter(None, asked.get("sites", "").split(","))), asked.get("one_per_patient")
    return lookup.check(Wanted(k, filters, radius, is_one_per_patient == "1", epsilon or 0.0, sites))


def _gallery_state(archive: "Archive") -> dict[str, object]:
    return {"model": archive.model_id, "gallery": archive.gallery.stats()}


def _png(archive: "Archive", site: str, look: Look, result: Result, name: str) -> str:
    from ynet_client.retrieval import query_picture  # torch: loaded by now

    buffer = io.BytesIO()
    query_picture.draw_result(archive, site, look, result, name).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@asynccontextmanager
async def images_of(
    request: Request, spool: Path, sizes: Sequence[int] = (), frames: Sequence[str] = ()
) -> AsyncIterator[list[Path]]:
    """The images in a request's body, files in `spool` meanwhile, each with the frame that is meant, if one is.

    `sizes` in bytes, none for a single image; `frames` as they stand in the request. Raises UserError.
    """
    images: list[Path] = []
    try:
        await _receive(request, spool, sizes, images)
        yield _framed(images, frames)
    finally:
        for path in images:
            path.unlink(missing_ok=True)


def _framed(images: Sequence[Path], frames: Sequence[str]) -> list[Path]:
    """The images with the frames that are meant; none where a request says nothing of frames."""
    asked = [*frames, *[""] * len(images)][: len(images)]
    return [framed(path, int(frame) if frame else None) for path, frame in zip(images, asked, strict=True)]


async def _receive(request: Request, spool: Path, sizes: Sequence[int], images: list[Path]) -> None:
    """Write the images of a request, one after the other, into `spool`; `sizes` in bytes, none for a single one."""
    if len(sizes) > MAX_CODES:
        do = f"ask about at most {MAX_CODES} images at a time"
        raise UserError("the query cannot be asked", f"it has {len(sizes)} images", do)
    left = [min(size, MAX_IMAGE_BYTES + 1) for size in sizes] or [MAX_IMAGE_BYTES + 1]
    images += [spool / f"query-{secrets.token_hex(8)}" for _ in left]
    for path in images:
        path.touch(0o600)
    number = 0
    async for part in request.stream():
        while part:
            while number < len(left) and not left[number]:
                number += 1
            if number == len(left):
                return
            now, part = part[: left[number]], part[left[number] :]
            left[number] -= len(now)
            with images[number].open("ab") as file:
                file.write(now)
            if images[number].stat().st_size > MAX_IMAGE_BYTES:
                why = f"it has more than {MAX_IMAGE_BYTES >> 20} MiB"
                raise UserError("the image is too large", why, "scale it down")

"""The routes of the control socket: what the site's commands and the Python API call."""

import base64
import datetime as dt
import io
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ynet.data.frames import framed
from ynet.errors import UserError
from ynet.runtime import backup_files
from ynet.trust.expiry import days_left
from ynet_client import asking
from ynet_client.agent import Agent
from ynet_client.asking import ASK_WITHIN_S as ASK_WITHIN_S
from ynet_client.asking import TokenOwners
from ynet_client.connection.session import Session
from ynet_client.dicom import import_records
from ynet_client.retrieval import merging, own_search
from ynet_client.retrieval.merging import Result
from ynet_client.retrieval.query import Query, read_query
from ynet_client.retrieval.wire import MAX_CODES

if TYPE_CHECKING:
    from PIL import Image

    from ynet_client.gallery.indexer import Archive

MAX_IMAGE_BYTES = 64 << 20


def routes(site: str, agent: Agent, session: Session, spool: Path) -> list[Route]:
    """Return the routes of the control socket. Answers are JSON."""

    async def status(_: Request) -> Response:
        state = {"site": site, "connected": session.connected, "doing": agent.doing}
        ends = session.member.ends
        life = {
            "certificate_ends": ends.timestamp(),
            "certificate_days": round(days_left(ends, dt.datetime.now(dt.UTC)), 2),
        }
        waiting = {"waiting": [one.id for one in agent.offers.listed() if one.decision is None]}
        return JSONResponse({**state, **life, **await agent.search(_gallery_state), **waiting})

    async def index(_: Request) -> Response:
        return JSONResponse(await agent.index())

    async def verify(_: Request) -> Response:
        return JSONResponse(await agent.verify())

    async def forget(request: Request) -> Response:
        return JSONResponse(await agent.forget(str((await request.json())["patient"])))

    async def copies(_: Request) -> Response:
        await agent.copy_databases(spool.parent / backup_files.ASIDE)
        return JSONResponse({})

    async def imported(request: Request) -> Response:
        said = await request.json()
        about = import_records.counted(int(said["images"]), int(said["left_out"]))
        agent.stores.audit.did(time.time(), "imported", about)
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
        *_asking(site, agent, session, spool),
    ]


def _asking(site: str, agent: Agent, session: Session, spool: Path) -> list[Route]:
    owners = TokenOwners()

    async def query(request: Request) -> Response:
        asked = request.query_params
        sizes = [int(size) for size in asked.getlist("size")]
        async with images_of(request, spool, sizes, asked.getlist("frame")) as images:
            results = await asking.query(site, agent, session, images, query_of(asked), asked.get("user", ""))
        owners.add(results)
        named = list(zip(results, asked.getlist("name") or [""] * len(results), strict=True))
        answers = [await agent.search(partial(merging.answer, result=one, name=name)) for one, name in named]
        is_drawn = asked.get("picture") == "1"
        drawn = await agent.search(partial(_png, result=named[0][0], name=named[0][1])) if is_drawn else None
        return JSONResponse({"queries": [one.to_json() for one in answers], "picture": drawn})

    async def segment(request: Request) -> Response:
        async with images_of(request, spool, frames=request.query_params.getlist("frame")) as (image,):
            found = await agent.search(lambda archive: _segment(archive, image))
        user = agent.stores.pseudonym(request.query_params.get("user", ""))
        agent.stores.audit.did(time.time(), "segmented", found["model"], user=user)
        return JSONResponse(found)

    async def consult(request: Request) -> Response:
        asked = await request.json()
        token, owner = owners.find(str(asked["token"]), str(asked["to"]))
        sent = await asking.consult(site, agent.stores, session, token, owner, str(asked["note"]), str(asked["user"]))
        return JSONResponse(sent.to_json())

    async def consults(request: Request) -> Response:
        note = await asking.fetch_answers(agent.stores, session, request.query_params.get("user", ""))
        return JSONResponse({"consults": [one.to_json() for one in agent.stores.consults.listed()], "note": note})

    async def consult_answer(request: Request) -> Response:
        said = await request.json()
        answered = asking.answer_consult(
            agent.stores, str(said["id"]), said["decision"], str(said["text"]), str(said["user"])
        )
        return JSONResponse(answered.to_json())

    return [
        Route("/query", query, methods=["POST"]),
        Route("/segment", segment, methods=["POST"]),
        Route("/consult", consult, methods=["POST"]),
        Route("/consults", consults, methods=["POST"]),
        Route("/consult-answer", consult_answer, methods=["POST"]),
    ]


def query_of(asked: Mapping[str, str]) -> Query:
    """Read the query among the parameters of a request. Raises UserError, RefusedError."""
    return read_query(asked.get("query", ""))


def _gallery_state(archive: "Archive") -> dict[str, object]:
    return {"model": archive.model_id, "gallery": archive.gallery.stats()}


def _segment(archive: "Archive", image: Path) -> dict[str, Any]:
    """Predict the lesion of an image, as `control_client.segment` returns it. Raises UserError."""
    from PIL import Image  # with torch, which the search has loaded

    (model_id, plan, *_), encoded = own_search.encode(archive, image)
    mask = encoded.mask if encoded.regions else encoded.mask * 255
    found = {"mask": _base64(Image.fromarray(mask)), "regions": list(encoded.regions)}
    return {**found, "model": model_id, "plan": plan.name}


def _png(archive: "Archive", result: Result, name: str) -> str:
    from ynet_client.retrieval import query_picture  # torch, which the search has loaded

    return _base64(query_picture.draw_result(archive, result, name))


def _base64(image: "Image.Image") -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@asynccontextmanager
async def images_of(
    request: Request, spool: Path, sizes: Sequence[int] = (), frames: Sequence[str] = ()
) -> AsyncIterator[list[Path]]:
    """Yield the images of a request's body as files in `spool`, each with its frame where one was named.

    `sizes` in bytes, none for a single image; `frames` as in the request. Raises UserError.
    """
    images: list[Path] = []
    try:
        await _receive(request, spool, sizes, images)
        yield _framed(images, frames)
    finally:
        for path in images:
            path.unlink(missing_ok=True)


def _framed(images: Sequence[Path], frames: Sequence[str]) -> list[Path]:
    """Return the images with their frames; a request without frames means none."""
    asked = [*frames, *[""] * len(images)][: len(images)]
    return [framed(path, int(frame) if frame else None) for path, frame in zip(images, asked, strict=True)]


async def _receive(request: Request, spool: Path, sizes: Sequence[int], images: list[Path]) -> None:
    """Write the images of a request into `spool`, one after the other; `sizes` in bytes, none for a single image."""
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

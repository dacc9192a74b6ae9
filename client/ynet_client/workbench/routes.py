"""The routes of the page; each call is made by the account that is signed in."""

import asyncio
import datetime as dt
import json
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ynet.data.frames import source
from ynet.errors import UserError
from ynet.web.sessions import Visitor
from ynet.web.web import Web, need, visitor_of
from ynet_client import asking
from ynet_client.agent import Agent
from ynet_client.connection.session import Session
from ynet_client.control_routes import images_of, query_of
from ynet_client.retrieval.consult import Consult
from ynet_client.retrieval.merging import Result
from ynet_client.retrieval.query import Query
from ynet_client.workbench import answer_view, cases, export_seg, image_view, report
from ynet_client.workbench.cases import OwnCases
from ynet_client.workbench.history import History
from ynet_client.workbench.recent_answers import KeptAnswer, RecentAnswers

if TYPE_CHECKING:
    from ynet_client.gallery.indexer import Archive

T = TypeVar("T")
MAX_JSON_BYTES = 64 << 10
MAX_AT_A_TIME = 2  # pictures made at the same time: each may need 200 MB


class Bench(NamedTuple):
    """The state that the routes share."""

    site: str
    agent: Agent
    session: Session
    spool: Path
    web: Web
    history: History
    own_cases: OwnCases
    answers: RecentAnswers
    drawing: asyncio.Semaphore


def routes(bench: Bench) -> list[Route]:
    """Return all routes behind the sign-in."""

    def call(path: str, endpoint: "Callable[[Bench, Request, Visitor], Any]", method: str = "GET") -> Route:
        async def asked(request: Request) -> Response:
            answer = await endpoint(bench, request, visitor_of(request))
            return answer if isinstance(answer, Response) else JSONResponse(answer)

        return Route(path, asked, methods=[method])

    return [
        call("/", _page),
        call("/api/state", _state),
        call("/api/cases", _cases),
        call("/api/cases/picture", _case_picture),
        call("/api/query", _query, "POST"),
        call("/api/answers/{id}/pixels", _pixels),
        call("/api/answers/{id}/overlay", _overlay),
        call("/api/answers/{id}/mask.png", _mask),
        call("/api/answers/{id}/report.html", _report),
        call("/api/answers/{id}/seg.dcm", _segmentation, "POST"),
        call("/api/history", _history),
        call("/api/history/thumbnail", _thumbnail),
        call("/api/history/delete", _delete, "POST"),
        call("/api/consults", _consults),
        call("/api/consult", _consult, "POST"),
        call("/api/consult-answer", _answer_consult, "POST"),
    ]


async def _page(bench: Bench, request: Request, _: Visitor) -> Response:
    return bench.web.page(request, "workbench.html", site=bench.site)


async def _state(bench: Bench, _: Request, visitor: Visitor) -> dict[str, Any]:
    def found(archive: "Archive") -> dict[str, Any]:
        model, stats = archive.model_id, archive.gallery.stats()
        classes = list(archive.active().plan.classes) if model else []
        return {"model": model, "cases": stats["cases"], "indexed": stats["indexed"], "classes": classes}

    waiting = [
        one for one in bench.agent.stores.consults.listed() if (one.direction, one.decision) == ("received", "open")
    ]
    return {
        "site": bench.site,
        "name": visitor.name,
        "role": visitor.role,
        "connected": bench.session.connected,
        "doing": bench.agent.doing,
        "sites": sorted(bench.session.known()),
        "waiting": len(waiting),
        **await bench.agent.search(found),
    }


# --- own cases


async def _cases(bench: Bench, request: Request, _: Visitor) -> dict[str, Any]:
    asked = request.query_params
    wanted = cases.CaseFilter(asked.get("text", ""), asked.get("label", ""), _number(asked.get("offset", "0")))
    return await _with_archive(bench, lambda archive: bench.own_cases.listed(archive, wanted))


async def _case_picture(bench: Bench, request: Request, _: Visitor) -> Response:
    asked = request.query_params
    image, side, is_outlined = asked.get("image", ""), _number(asked.get("side", "192")), asked.get("outline") == "1"
    made = await _with_archive(
        bench, lambda archive: bench.own_cases.picture(archive, image, side, is_outlined=is_outlined)
    )
    return Response(made, media_type="image/jpeg")


# --- queries


async def _query(bench: Bench, request: Request, visitor: Visitor) -> dict[str, Any]:
    """Answer about the image in the body, or about an own case by its name; with the address of its picture."""
    begun, asked = time.monotonic(), request.query_params
    query, own_case = query_of(asked), asked.get("case", "")
    name, dicom = Path(own_case or asked.get("name", "")).name, ""
    async with AsyncExitStack() as stack:
        if own_case:
            manifest, case = await _with_archive(bench, lambda archive: bench.own_cases.find(archive, own_case))
            image = manifest.path_of(case.image)
        else:
            received = images_of(request, bench.spool, frames=asked.getlist("frame"))
            (image,) = await stack.enter_async_context(received)
            dicom = await asyncio.to_thread(export_seg.digest, source(image).path)
        result = await _asked(bench, image, name, query, visitor)
    async with bench.drawing:
        seen = result.own.encoded
        picture = await asyncio.to_thread(image_view.show, seen.pixels, seen.mask, seen.regions)
        small = b"" if own_case else await asyncio.to_thread(image_view.thumbnail, picture)
    shown = await bench.agent.search(partial(answer_view.shown, own_cases=bench.own_cases, result=result, query=query))
    frame = None if own_case else source(image).frame
    kept = bench.answers.keep(visitor.name, name, time.time(), picture, shown, case=own_case, dicom=dicom, frame=frame)
    summary = _summary(shown, query)
    await asyncio.to_thread(bench.history.add, visitor.name, kept.time, name, own_case, small, summary)
    return {**shown, **_described(kept), "case": own_case, "took_ms": round(1000 * (time.monotonic() - begun))}


async def _asked(bench: Bench, image: Path, name: str, query: Query, visitor: Visitor) -> Result:
    """Ask about one image; an error names the image, not its path here."""
    try:
        (result,) = await asking.query(bench.site, bench.agent, bench.session, [image], query, visitor.name)
        return result
    except UserError as error:
        what = error.what
        for path in (image, source(image).path):  # with the frame that is meant, and without
            what = what.replace(str(path), name or "the image")
        raise type(error)(what, error.why, error.do) from None


def _described(kept: KeptAnswer) -> dict[str, Any]:
    one = kept.view
    return {
        "id": kept.id,
        "name": kept.name,
        "is_dicom": bool(kept.dicom),
        "share": one.share,
        "regions": [region._asdict() for region in one.regions],
        "full_width": one.full_size[0],
        "full_height": one.full_size[1],
        "picture": {
            "width": one.width,
            "height": one.height,
            "channels": one.channels,
            "low": one.low,
            "high": one.high,
        },
    }


def _summary(shown: dict[str, Any], query: Query) -> dict[str, Any]:
    nearest = next(iter(sorted(shown["own"] + shown["others"], key=lambda hit: hit["rank"] or 1_000)), None)
    return {
        "k": query.k,
        "filters": list(query.filters.kinds),
        "hits": {one["site"]: one["total"] for one in shown["spread"]},
        "nearest": {key: nearest[key] for key in ("site", "label", "distance")} if nearest else None,
    }


async def _pixels(bench: Bench, request: Request, visitor: Visitor) -> Response:
    return _bytes(_kept(bench, request, visitor).view.pixels)


async def _overlay(bench: Bench, request: Request, visitor: Visitor) -> Response:
    return _bytes(_kept(bench, request, visitor).view.mask)


async def _mask(bench: Bench, request: Request, visitor: Visitor) -> Response:
    kept = _kept(bench, request, visitor)
    headers = {"content-disposition": attachment(f"{Path(kept.name).stem or 'image'}-mask.png")}
    return Response(kept.view.mask_png, media_type="image/png", headers=headers)


async def _segmentation(bench: Bench, request: Request, visitor: Visitor) -> Response:
    """Return the SEG for the DICOM file in the body. The file names a patient and is not kept between calls."""
    kept = _kept(bench, request, visitor)
    async with images_of(request, bench.spool) as (file,), bench.drawing:
        seg = await asyncio.to_thread(export_seg.made, kept, file, dt.datetime.now())
    stores = bench.agent.stores
    stores.audit.did(time.time(), "segmented", kept.answer["model"], user=stores.pseudonym(visitor.name))
    return Response(seg, media_type="application/dicom")


async def _report(bench: Bench, request: Request, visitor: Visitor) -> Response:
    kept, asked = _kept(bench, request, visitor), request.query_params
    low, high = (_share(asked.get(key), getattr(kept.view, key)) for key in ("low", "high"))
    written = await _with_archive(bench, lambda archive: report.write(archive, bench.own_cases, kept, low, high))
    headers = {"content-disposition": attachment(f"{Path(kept.name).stem or 'image'}-report.html")}
    return Response(written, media_type="text/html", headers=headers)


# --- history


async def _history(bench: Bench, _: Request, visitor: Visitor) -> dict[str, Any]:
    return {"entries": await asyncio.to_thread(_tidied(bench).listed, visitor.name)}


def _tidied(bench: Bench) -> History:
    bench.history.tidy(bench.web.accounts.all())
    return bench.history


async def _thumbnail(bench: Bench, request: Request, visitor: Visitor) -> Response:
    number = _number(request.query_params.get("id", ""))
    found = await asyncio.to_thread(_tidied(bench).thumbnail, visitor.name, number)
    return Response(found, media_type="image/jpeg") if found else Response(status_code=404)


async def _delete(bench: Bench, request: Request, visitor: Visitor) -> dict[str, Any]:
    number = (await _json(request)).get("id")
    gone = await asyncio.to_thread(bench.history.delete, visitor.name, None if number is None else _number(str(number)))
    return {"deleted": gone}


# --- consults


async def _consults(bench: Bench, request: Request, visitor: Visitor) -> dict[str, Any]:
    """Return all requests of the site; with `refresh=1` ask the other sites for their answers first."""
    stores, note = bench.agent.stores, ""
    if request.query_params.get("refresh") == "1":
        note = await asking.fetch_answers(stores, bench.session, visitor.name)
    listed = await asyncio.to_thread(stores.consults.listed)
    own = stores.pseudonym(visitor.name)
    return {"consults": [_consult_shown(one, own) for one in listed], "note": note}


async def _consult(bench: Bench, request: Request, visitor: Visitor) -> dict[str, Any]:
    """Send a request about a hit of one of this account's answers; about no other case."""
    said = await _json(request)
    kept = bench.answers.find(str(said.get("answer")), visitor.name)
    hits = [
        hit for hit in kept.answer["others"] if (hit["site"], hit["token"]) == (said.get("site"), said.get("token"))
    ]
    if not hits:
        raise UserError("the request cannot be sent", "it names no hit of this answer", "ask again")
    token, owner, note = bytes.fromhex(hits[0]["token"]), str(hits[0]["site"]), str(said.get("note", ""))
    if not note.strip():
        raise UserError("the request cannot be sent", "it has no note", "write what you want to know")
    sent = await asking.consult(bench.site, bench.agent.stores, bench.session, token, owner, note, visitor.name)
    return _consult_shown(sent, sent.user)


async def _answer_consult(bench: Bench, request: Request, visitor: Visitor) -> dict[str, Any]:
    need(visitor, "radiologist")  # a yes is a physician's promise
    said, stores = await _json(request), bench.agent.stores
    answered = await asyncio.to_thread(
        asking.answer_consult,
        stores,
        str(said.get("id")),
        said.get("decision"),
        str(said.get("text", "")),
        visitor.name,
    )
    return _consult_shown(answered, stores.pseudonym(visitor.name))


def _consult_shown(one: Consult, own: str) -> dict[str, Any]:
    return {**one.to_json(), "is_mine": one.direction == "sent" and one.user == own}


# --- small parts


async def _with_archive(bench: Bench, work: "Callable[[Archive], T]") -> T:
    """Work on files of the archive in another thread than the one that searches."""
    archive = await bench.agent.search(lambda archive: archive)
    async with bench.drawing:
        return await asyncio.to_thread(work, archive)


def _kept(bench: Bench, request: Request, visitor: Visitor) -> KeptAnswer:
    return bench.answers.find(str(request.path_params["id"]), visitor.name)


async def _json(request: Request) -> dict[str, Any]:
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > MAX_JSON_BYTES:
            raise UserError("the request cannot be read", "it is too large", "write less")
    try:
        said = json.loads(data)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise UserError("the request cannot be read", "it is not a JSON object", "reload the page")
    return said


def _bytes(data: bytes) -> Response:
    return Response(data, media_type="application/octet-stream")


def _number(text: str) -> int:
    try:
        return max(0, int(text[:12]))
    except ValueError:
        raise UserError("the request cannot be read", f"{text[:12]!r} is not a number", "reload the page") from None


def _share(text: str | None, default: float) -> float:
    try:
        value = float(text) if text else default
    except ValueError:
        return default
    return min(max(value, -1.0), 2.0) if value == value else default


def attachment(name: str) -> str:
    """Return the header that names a download; safe for any name."""
    plain = "".join(char if char.isascii() and (char.isalnum() or char in "-_. ") else "_" for char in name)[-120:]
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name[-120:], safe='')}"

"""What the site's commands ask of the running client."""

import asyncio
import base64
import io
import secrets
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ynet.errors import UnreachableError, UserError
from ynet.federation import hub_pb2 as hub
from ynet_client import lookup
from ynet_client.archive import Archive
from ynet_client.duties import Duties
from ynet_client.query_picture import draw_result
from ynet_client.session import Session

MAX_IMAGE_BYTES = 64 << 20
ASK_WITHIN_S = 10.0


def routes(site: str, archive: Archive, duties: Duties, session: Session, spool: Path) -> list[Route]:
    """The routes behind the control door. Answers are JSON."""

    async def status(_: Request) -> Response:
        state = {
            "site": site,
            "connected": session.connected,
            "doing": duties.doing,
            "model": archive.model_id,
            "gallery": archive.gallery.stats(),
        }
        return JSONResponse(state)

    async def index(_: Request) -> Response:
        return JSONResponse(await duties.index())

    async def query(request: Request) -> Response:
        asked = request.query_params
        k, split, picture = int(asked["k"]), asked.get("split", ""), asked.get("picture") == "1"
        path = spool / f"query-{secrets.token_hex(8)}"
        try:
            await _receive(request, path)
            encoded = await duties.search(lambda: archive.encode(path))
        finally:
            path.unlink(missing_ok=True)
        model = archive.active()
        own = await duties.search(lambda: lookup.own(archive, encoded, k, split))
        answers, note = await _ask(session, lookup.question(model.id, encoded.code, k, split))
        result = lookup.combine(site, own, answers, encoded.code, k)
        shown = _describe(site, archive, model.id, result, note)
        if picture:
            drawn = await asyncio.to_thread(draw_result, site, archive, encoded, result)
            buffer = io.BytesIO()
            drawn.save(buffer, "PNG")
            shown["picture"] = base64.b64encode(buffer.getvalue()).decode()
        return JSONResponse(shown)

    return [
        Route("/status", status),
        Route("/index", index, methods=["POST"]),
        Route("/query", query, methods=["POST"]),
    ]


async def _ask(session: Session, body: bytes) -> tuple[hub.Answers, str]:
    """The other sites' answers; without a connection none, and why."""
    try:
        return await session.ask(body, ASK_WITHIN_S), ""
    except UnreachableError as error:
        return hub.Answers(), error.why


async def _receive(request: Request, path: Path) -> None:
    size = 0
    with path.open("wb") as file:
        async for part in request.stream():
            size += len(part)
            if size > MAX_IMAGE_BYTES:
                raise UserError(
                    "the image is too large", f"it has more than {MAX_IMAGE_BYTES >> 20} MiB", "scale it down"
                )
            file.write(part)


def _describe(site: str, archive: Archive, model_id: str, result: lookup.Result, note: str) -> dict[str, Any]:
    """The result as `ynet-client query --json` prints it."""
    hits = []
    for rank, (where, hit) in enumerate(result.hits, start=1):
        entry: dict[str, Any] = {
            "rank": rank,
            "site": where,
            "distance": hit.distance,
            "label": hit.label,
            "ties": hit.ties,
            "token": hit.token.hex(),
        }
        if where == site:
            entry["image"] = archive.gallery.case_of(hit.token).image
        hits.append(entry)
    answered = {name: len(own) for name, own in result.by_site.items() if name != site}
    return {
        "site": site,
        "model": model_id,
        "hits": hits,
        "answered": answered,
        "missing": result.missing,
        "late": result.late,
        "declined": result.declined,
        "note": note,
    }

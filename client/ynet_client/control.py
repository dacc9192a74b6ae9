"""What the site's commands ask of the running client."""

import base64
import importlib
import io
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ynet.errors import UnreachableError, UserError
from ynet.federation import hub_pb2 as hub
from ynet_client import lookup
from ynet_client.duties import Duties
from ynet_client.session import Session

if TYPE_CHECKING:
    from ynet_client.archive import Archive

MAX_IMAGE_BYTES = 64 << 20
ASK_WITHIN_S = 10.0


def routes(site: str, duties: Duties, session: Session, spool: Path) -> list[Route]:
    """The routes behind the control door. Answers are JSON."""

    async def status(_: Request) -> Response:
        state = {"site": site, "connected": session.connected, "doing": duties.doing}
        return JSONResponse({**state, **await duties.search(_gallery_state)})

    async def index(_: Request) -> Response:
        return JSONResponse(await duties.index())

    async def verify(_: Request) -> Response:
        return JSONResponse(await duties.verify())

    async def forget(request: Request) -> Response:
        return JSONResponse(await duties.forget(str((await request.json())["patient"])))

    async def query(request: Request) -> Response:
        asked = request.query_params
        k, split, picture = int(asked["k"]), asked.get("split", ""), asked.get("picture") == "1"
        path = spool / f"query-{secrets.token_hex(8)}"
        try:
            await _receive(request, path)
            look = await duties.search(lambda archive: lookup.look(archive, path, k, split))
        finally:
            path.unlink(missing_ok=True)
        answers, note = await _ask(session, lookup.question(look.model_id, look.encoded.code, k, split))
        result = lookup.combine(site, look.hits, answers, look.encoded.code, k)
        shown = await duties.search(lambda archive: lookup.describe(site, archive, look, result))
        if picture:
            name = asked.get("name", "")
            shown["picture"] = await duties.search(lambda archive: _png(archive, site, look, result, name))
        return JSONResponse({**shown, "note": note})

    return [
        Route("/status", status),
        Route("/index", index, methods=["POST"]),
        Route("/verify", verify, methods=["POST"]),
        Route("/forget", forget, methods=["POST"]),
        Route("/query", query, methods=["POST"]),
    ]


def _gallery_state(archive: "Archive") -> dict[str, object]:
    return {"model": archive.model_id, "gallery": archive.gallery.stats()}


def _png(archive: "Archive", site: str, look: lookup.Look, result: lookup.Result, name: str) -> str:
    drawing: Any = importlib.import_module("ynet_client.query_picture")  # it loads torch, which by now is there
    buffer = io.BytesIO()
    drawing.draw_result(archive, site, look, result, name).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


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

"""The static files of an app's pages: read once, and served under a path that contains their digest."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
FOR_EVER = "public, max-age=31536000, immutable"


class Assets:
    """The files of some folders by name; a later folder takes precedence. They are public: no sign-in is needed."""

    def __init__(self, folders: Sequence[Path]) -> None:
        paths = {path.name: path for folder in folders for path in sorted(folder.glob("*")) if path.suffix in TYPES}
        self._files = {name: path.read_bytes() for name, path in paths.items()}
        digest = hashlib.sha256()
        for name, data in sorted(self._files.items()):
            digest.update(f"{name}\0{len(data)}\0".encode() + data)
        self.place = f"/assets/{digest.hexdigest()[:16]}"

    def route(self) -> Route:
        """Return the route. It looks names up in memory and opens no path."""

        async def asset(request: Request) -> Response:
            name = request.path_params["name"]
            data = self._files.get(name)
            if data is None:
                return Response(status_code=404)
            kind = TYPES[Path(name).suffix]
            return Response(data, media_type=kind, headers={"cache-control": FOR_EVER})

        return Route(f"{self.place}/{{name}}", asset)

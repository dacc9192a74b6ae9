"""The adoption of a model that the server announces: fetched, checked, and used once the archive is encoded."""

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

from ynet.errors import RefusedError, UserError
from ynet.federation import hub_pb2 as pb
from ynet_client.adoption.offered import OfferedModels, WaitsError
from ynet_client.audit import Audit
from ynet_client.training.patience import Patience

log = logging.getLogger("ynet.agent")
MODEL_ID = re.compile(r"[0-9a-f]{64}")
RETRIED_FOR_S = 3_600.0
"""How long an adoption is retried while the model's file or the site's data cannot be read."""
DECISION_CHECK_S = 0.5
"""How often the agent checks whether the admin has accepted a model."""

Fetch = Callable[[pb.Blob, Path], Awaitable[None]]
"""Fetches a file of the hub to a path."""
ShowProgress = Callable[[str, int, int], None]


class ModelArchive(Protocol):
    """What an adoption needs of the archive."""

    @property
    def model_id(self) -> str | None:
        """The model in use."""

    def file_of(self, model_id: str) -> Path:
        """Return the path of a model's weights."""

    def adopt(self, model_id: str, path: Path, progress: ShowProgress) -> dict[str, int]:
        """Check a model, encode every case under it, then switch. Raises RefusedError, UserError."""


Encode = Callable[[Callable[[ModelArchive], None]], Awaitable[None]]
"""Calls a function with the archive in the thread that trains and encodes."""


class ModelAdoption:
    """The adoption under way, and the model that waits for the admin's decision: at most one of each."""

    def __init__(
        self,
        offers: OfferedModels,
        audit: Audit,
        archive: Callable[[], Awaitable[ModelArchive]],
        encode: Encode,
        say: Callable[[str], None],
        progress: ShowProgress,
    ) -> None:
        """`archive` returns the archive once it is open."""
        self._offers, self._audit, self._archive, self._encode = offers, audit, archive, encode
        self._say, self._progress = say, progress
        self._adopting: str | None = None
        self._waiting: asyncio.Task[None] | None = None  # its name is the id of the model

    async def adopt(self, model: pb.Model, fetch: Fetch, is_allowed: Callable[[], bool]) -> None:
        """Fetch a model, check it, encode the archive under it, and use it from then on.

        Args:
            model: the announced model. One that is in use, or under way, or waits, is ignored.
            fetch: gets its file.
            is_allowed: says whether the server may announce another model now.

        Raises:
            RefusedError: the model is refused. WaitsError: the admin must accept it first.
            UserError: it could not be read or encoded.

        """
        if not MODEL_ID.fullmatch(model.id):
            raise RefusedError("a model was refused", "its id is no SHA-256", "tell the coordinator")
        archive = await self._archive()
        waiting = self._waiting.get_name() if self._waiting else None
        if model.id in (archive.model_id, self._adopting, waiting):
            return
        if not is_allowed():
            raise RefusedError("a model was refused", "the server names too many", "tell the coordinator")
        self._drop_waiting(archive)
        self._adopting = model.id
        path = archive.file_of(model.id)

        async def attempt() -> None:
            if self._adopting != model.id:
                return  # a newer model was announced between two attempts
            await _fetch(model, path, fetch)
            self._say(f"model {model.id[:16]} has arrived; encoding the archive")
            await self._encode(lambda archive: self._switch(archive, model.id, path))

        try:
            await Patience(self._say).keep(attempt, RETRIED_FOR_S)
        except WaitsError:
            # A task of its own: a decision may take days, and the session need not wait for it.
            self._waiting = asyncio.create_task(self._adopt_when_accepted(model.id, path), name=model.id)
            raise
        finally:
            if self._adopting == model.id:
                self._adopting = None

    async def _adopt_when_accepted(self, model_id: str, path: Path) -> None:
        while self._offers.decision_on(model_id) is None:
            await asyncio.sleep(DECISION_CHECK_S)

        def attempt() -> Awaitable[None]:
            return self._encode(lambda archive: self._switch(archive, model_id, path))

        try:
            await Patience(self._say).keep(attempt, RETRIED_FOR_S)
        except UserError as error:
            self._say(str(error))
        except Exception:
            log.exception("an accepted model could not be adopted")
            self._say("a fault of ynet; this site's log has it")
        self._waiting = None

    def _drop_waiting(self, archive: ModelArchive) -> None:
        """Drop the model that waits, with its file: a newer one was announced."""
        if self._waiting is not None:
            archive.file_of(self._waiting.get_name()).unlink(missing_ok=True)
            self._offers.drop(self._waiting.get_name())
            self._waiting.cancel()
            self._waiting = None

    def _switch(self, archive: ModelArchive, model_id: str, path: Path) -> None:
        try:
            counts = archive.adopt(model_id, path, self._progress)
        except WaitsError:
            self._audit.did(time.time(), "model", model_id, "waits")
            raise
        except RefusedError:
            self._audit.did(time.time(), "model", model_id, "refused")
            raise
        self._offers.adopted(model_id)
        self._audit.did(time.time(), "model", model_id)
        self._say(f"model {model_id[:16]} is in use; {counts['cases']} cases are indexed")


async def _fetch(model: pb.Model, path: Path, fetch: Fetch) -> None:
    """Fetch a model's file unless it is there. Raises UserError, grpc.aio.AioRpcError."""
    if path.exists():
        return
    partial = path.with_suffix(".partial")
    try:
        await fetch(model.weights, partial)
    except RefusedError:
        partial.unlink(missing_ok=True)
        raise
    partial.replace(path)

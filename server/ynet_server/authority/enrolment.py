"""Enrolment over HTTPS: a site with an invitation gets its certificate. The only door without a client certificate."""

import datetime as dt
import hmac
import json
import logging
import ssl
import time
from collections.abc import Callable
from email.utils import formatdate

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from ynet.errors import RefusedError, UserError
from ynet.runtime.rates import Rate, Restraint
from ynet.trust import identity, invitation
from ynet.trust.identity import Signer
from ynet.web.https_server import HttpsServer
from ynet_server.audit import Write, nowhere
from ynet_server.authority.rate_limit import Attempts
from ynet_server.registry import Registry, used_already

MAX_REQUEST_BYTES = 16_384
MOST_SUCCESSIONS = 32
REFUSALS = Rate(120, 0.05)
"""How often a refusal is written down, of all addresses together; beyond, how many there were is."""
TOLD = "more requests for a certificate that were refused"
log = logging.getLogger("ynet.enrolment")


def application(
    registry: Registry,
    authority: Signer,
    hub_address: str,
    enrolled: Callable[[str], None],
    audit: Write = nowhere,
    successions: Callable[[], list[dict[str, str | float]]] = list,
) -> Starlette:
    """GET /authority: its certificate. POST /enrol: a certificate for a signing request that proves an invitation.

    GET /successions: which authorities were in force before, and who followed them, for a site that was away.

    `enrolled` is told each site that has enrolled, perhaps in the place of an older one. Who was refused often must
    wait (`attempts.py`); the invitation stays good: its secret has 128 bits, and a stranger who could spoil it by
    guessing would keep a site out.
    """
    attempts = Attempts()
    refusals = Restraint(
        REFUSALS, REFUSALS, lambda _, count: audit("too-many", about=TOLD, count=count), time.monotonic
    )

    async def show_authority(_: Request) -> Response:
        return PlainTextResponse(authority.certificate, headers={"date": formatdate(usegmt=True)})

    async def show_successions(_: Request) -> Response:
        return JSONResponse({"successions": successions()[-MOST_SUCCESSIONS:]})

    async def enrol(request: Request) -> Response:
        address = request.client.host if request.client else ""
        attempts.check(address, time.monotonic())
        site = ""
        try:
            site, csr, proof = _read(await _body(request))
            certificate = issue(registry, authority, site, csr, proof, dt.datetime.now(dt.UTC))
        except RefusedError as error:
            attempts.failed(address, time.monotonic())
            if refusals.admits(""):
                refusals.flush()
                audit("enrolment-refused", site, error.why)
            raise
        log.info("site %s enrolled", site)
        audit("enrolled", site, identity.fingerprint(certificate).hex())
        enrolled(site)
        return JSONResponse({"certificate": certificate.decode(), "hub": hub_address})

    return Starlette(
        routes=[
            Route("/authority", show_authority),
            Route("/successions", show_successions),
            Route("/enrol", enrol, methods=["POST"]),
        ],
        exception_handlers={UserError: _refuse, ClientDisconnect: _gone},
    )


def issue(registry: Registry, authority: Signer, site: str, csr: bytes, proof: bytes, now: dt.datetime) -> bytes:
    """A certificate for `site`, PEM, once for each invitation and key. Raises RefusedError."""
    # 1. There is an open invitation for this name.
    verifier, issued = registry.invited(site, now.timestamp())
    # 2. The asker holds its secret, and made this request.
    if not hmac.compare_digest(proof, invitation.proof(verifier, site, csr)):
        raise RefusedError(
            "enrolment refused",
            "the invitation is not the one made for this site",
            "check --site, or ask the coordinator for a new invitation",
        )
    # 3. It was not used, or by this very key: then the answer was lost on its way, and is given again.
    public = identity.public_key_of(csr)
    if issued is not None:
        if identity.same_key(issued, public):
            return issued
        raise used_already()
    # 4. Sign, and remember before answering: of two that ask at once, one is remembered.
    certificate = identity.issue_site(authority, site, csr, now)
    leaf = identity.read_leaf(certificate)
    registry.enrol(site, leaf.serial, certificate, now.timestamp(), leaf.ends.timestamp())
    return certificate


async def serve(app: Starlette, tls: ssl.SSLContext, host: str, port: int) -> tuple[HttpsServer, int]:
    """Open the HTTPS port; the port. Raises OSError."""
    door = HttpsServer(app, tls, host, port)
    return door, await door.begin()


async def _body(request: Request) -> bytes:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_REQUEST_BYTES:
            raise RefusedError("enrolment refused", "the request is too large", "update ynet")
    return body


def _read(body: bytes) -> tuple[str, bytes, bytes]:
    try:
        values = json.loads(body)
        return identity.check_site_name(values["site"]), values["csr"].encode(), bytes.fromhex(values["proof"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise RefusedError("enrolment refused", "the request cannot be read", "update ynet") from None


async def _refuse(_: Request, error: Exception) -> Response:
    if not isinstance(error, UserError):
        raise error
    log.warning("%s: %s", error.what, error.why)
    return JSONResponse({"what": error.what, "why": error.why, "do": error.do}, status_code=403)


async def _gone(_: Request, __: Exception) -> Response:
    return Response(status_code=400)  # nobody reads it

"""Enrolment over HTTPS: a site with an invitation gets its certificate. The only port without client certificates."""

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
from ynet_server.authority.rate_limit import EnrolmentAttempts
from ynet_server.registry import Registry, used_already

MAX_REQUEST_BYTES = 16_384
MOST_SUCCESSIONS = 32
REFUSALS = Rate(120, 0.05)
"""How often refusals of all addresses together are logged one by one; beyond, only their number is."""
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
    """Serve GET /authority, its certificate, and POST /enrol, a certificate for a request that proves an invitation.

    GET /successions lists the past authorities and their successors, for a site that was away.

    Calls `enrolled` with each site that has enrolled, also when it replaces an older one. An address that was refused
    too often must wait (`rate_limit.py`). Refusals do not end an invitation: its secret has 128 bits, and otherwise a
    stranger could keep a site out by guessing.
    """
    attempts = EnrolmentAttempts()
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
    """Issue a certificate for `site`, PEM, once for each invitation and key. Raises RefusedError."""
    # 1. There is an open invitation for this name.
    verifier, issued = registry.invited(site, now.timestamp())
    # 2. The request proves that its sender holds the invitation's secret.
    if not hmac.compare_digest(proof, invitation.proof(verifier, site, csr)):
        raise RefusedError(
            "enrolment refused",
            "the invitation is not the one made for this site",
            "check --site, or ask the coordinator for a new invitation",
        )
    # 3. The invitation is unused, or was used with this key: then the answer was lost, and is sent again.
    public = identity.public_key_of(csr)
    if issued is not None:
        if identity.same_key(issued, public):
            return issued
        raise used_already()
    # 4. Sign, and store the certificate before answering, so that of two simultaneous requests one succeeds.
    certificate = identity.issue_site(authority, site, csr, now)
    leaf = identity.read_leaf(certificate)
    registry.enrol(site, leaf.serial, certificate, now.timestamp(), leaf.ends.timestamp())
    return certificate


async def serve(app: Starlette, tls: ssl.SSLContext, host: str, port: int) -> tuple[HttpsServer, int]:
    """Open the HTTPS port. Returns the server and the port. Raises OSError."""
    server = HttpsServer(app, tls, host, port)
    return server, await server.begin()


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
    return Response(status_code=400)  # the client has gone

"""Enrolment over HTTPS: a site with an invitation gets its certificate. The only door without a client certificate."""

import datetime as dt
import hmac
import json
import logging
import ssl
import tempfile
from collections.abc import Callable
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from ynet.control import QuietServer, quiet_config
from ynet.errors import RefusedError, UserError
from ynet.federation import identity, invitation
from ynet.federation.identity import Identity
from ynet_server.registry import Registry

MAX_REQUEST_BYTES = 16_384
log = logging.getLogger("ynet.enrolment")


def application(
    registry: Registry, authority: Identity, hub_address: str, enrolled: Callable[[str], None]
) -> Starlette:
    """GET /authority: its certificate. POST /enrol: a certificate for a signing request that proves an invitation.

    `enrolled` is told each site that has enrolled, perhaps in the place of an older one.
    """

    async def show_authority(_: Request) -> Response:
        return PlainTextResponse(authority.certificate)

    async def enrol(request: Request) -> Response:
        site, csr, proof = _read(await _body(request))
        certificate = issue(registry, authority, site, csr, proof, dt.datetime.now(dt.UTC))
        log.info("site %s enrolled", site)
        enrolled(site)
        return JSONResponse({"certificate": certificate.decode(), "hub": hub_address})

    return Starlette(
        routes=[Route("/authority", show_authority), Route("/enrol", enrol, methods=["POST"])],
        exception_handlers={UserError: _refuse},
    )


def issue(registry: Registry, authority: Identity, site: str, csr: bytes, proof: bytes, now: dt.datetime) -> bytes:
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
        raise RefusedError(
            "enrolment refused", "the invitation was used already", "ask the coordinator for a new invitation"
        )
    # 4. Sign, and remember before answering.
    certificate = identity.issue_site(authority, site, csr, now)
    registry.enrol(site, identity.read_leaf(certificate).serial, certificate, now.timestamp())
    return certificate


async def serve(app: Starlette, hub: Identity, authority: Identity, host: str, port: int) -> tuple[QuietServer, int]:
    """Open the HTTPS port with the hub's certificate; the port. Raises OSError."""
    config = quiet_config(app, host, port)
    config.load()
    config.ssl = _tls(hub, authority)
    server = QuietServer(config)
    return server, await server.begin()


def _tls(hub: Identity, authority: Identity) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    with tempfile.TemporaryDirectory() as folder:  # the ssl module reads keys from files only; this one is 0700
        chain, key = Path(folder) / "chain.pem", Path(folder) / "key.pem"
        chain.write_bytes(hub.certificate + authority.certificate)
        key.write_bytes(hub.key)
        context.load_cert_chain(chain, key)
    return context


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

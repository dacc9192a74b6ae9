"""Pings that keep an idle line open: often enough to notice a cut, and never so often that the other side hangs up."""

import asyncio
from pathlib import Path

import pytest
from loopback import Consortium, play, until

from ynet_client.connection import session as sessions
from ynet_server import ports

FASTER = 200  # than in earnest


def changed(options: list[tuple[str, object]], **values: object) -> list[tuple[str, object]]:
    return list({**dict(options), **{f"grpc.{key.replace('__', '.')}": value for key, value in values.items()}}.items())


@pytest.mark.parametrize("is_lenient", [True, False], ids=["our server", "gRPC's default"])
def test_an_idle_site_that_pings_all_the_time_is_not_sent_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_lenient: bool
) -> None:
    """By a server with gRPC's default rule it would be, with GOAWAY and too_many_pings."""
    often = dict(sessions.OPTIONS)["grpc.keepalive_time_ms"] // FASTER  # type: ignore[operator]
    monkeypatch.setattr(sessions, "OPTIONS", changed(sessions.OPTIONS, keepalive_time_ms=often))  # type: ignore[arg-type]
    if not is_lenient:
        monkeypatch.setattr(ports, "OPTIONS", changed(ports.OPTIONS, http2__max_ping_strikes=2))  # type: ignore[arg-type]

    async def story(consortium: Consortium) -> None:
        joined = await consortium.join("A")
        if is_lenient:
            await asyncio.sleep(30 * often / 1000)
            assert joined.session.connected
            assert len(joined.said) == 1
        else:
            await until(lambda: any("the connection was lost" in line for line in joined.said))

    play(tmp_path, story)


def test_in_earnest_no_ping_comes_sooner_than_the_server_allows() -> None:
    site, server = dict(sessions.OPTIONS), dict(ports.OPTIONS)
    least_ms = server["grpc.http2.min_recv_ping_interval_without_data_ms"]
    assert site["grpc.keepalive_time_ms"] > least_ms  # type: ignore[operator]
    for options in (site, server):
        assert options["grpc.keepalive_permit_without_calls"] == 1
    assert site["grpc.http2.max_pings_without_data"] == 0  # else gRPC stops pinging an idle line after two

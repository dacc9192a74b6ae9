"""The server's settings: read once, remembered, and checked."""

from pathlib import Path

import pytest

from ynet.errors import UserError
from ynet_server import settings
from ynet_server.settings import Listen, ServerSettings

ROOT = Path(__file__).parents[2]


def test_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    assert settings.load(tmp_path, None) == ServerSettings()


def test_the_example_says_the_defaults(tmp_path: Path) -> None:
    assert settings.load(tmp_path, ROOT / "configs" / "server.yaml") == ServerSettings()


def test_what_was_given_once_is_remembered_privately(tmp_path: Path) -> None:
    config = tmp_path / "given.yaml"
    config.write_text("federation: lungs\nlisten: {host: 127.0.0.1}\n")
    home = tmp_path / "home"
    home.mkdir()
    given = settings.load(home, config)
    assert given == ServerSettings("lungs", listen=Listen("127.0.0.1"))
    assert settings.load(home, None) == ServerSettings()  # not before the server has started with it
    settings.remember(home, given, 8440, 8441)
    config.unlink()
    assert settings.load(home, None) == given
    assert (home / settings.FILE).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("text", ["", "federation: lungs\n", "listen: {host: 127.0.0.1, hub_port: 0}\n"])
def test_ports_that_were_found_free_are_kept_beside_the_rest(tmp_path: Path, text: str) -> None:
    (tmp_path / settings.FILE).write_text(text or "{}")
    before = settings.load(tmp_path, None)
    settings.remember(tmp_path, before, 1234, 1235)
    after = settings.load(tmp_path, None)
    assert after.listen == Listen(before.listen.host, 1234, 1235)
    assert after.federation == before.federation


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fedration: x", "did you mean 'federation'?"),
        ("listen: {prot: 1}", "unknown key 'listen.prot'"),
        ("listen: {hub_port: 65536}", "listen.hub_port"),
        ("listen: {hub_port: -1}", "listen.hub_port"),
        ("listen: {hub_port: many}", "listen.hub_port"),
        ("listen:", "'listen' is None"),
        ("engine: magic", "'engine' is 'magic'"),
        ("advertise: 'a b'", "advertise"),
        ("advertise: ''", "advertise"),
        ("advertise: 'x/y'", "advertise"),
        ("federation: ''", "federation"),
        ('federation: "a\\e[2J"', "federation"),
        ("max_model_mb: 0", "max_model_mb"),
        ("max_model_mb: 1\nmax_model_mb: 2", "written twice"),
    ],
)
def test_a_mistake_is_refused_and_not_remembered(tmp_path: Path, text: str, words: str) -> None:
    config = tmp_path / "given.yaml"
    config.write_text(text)
    with pytest.raises(UserError) as caught:
        settings.load(tmp_path, config)
    assert words in str(caught.value)
    assert not (tmp_path / settings.FILE).exists()

"""The credentials for a PACS, from a file or the environment."""

import base64
import os
from collections.abc import Mapping
from pathlib import Path

from ynet.errors import UserError
from ynet.runtime import hidden_words
from ynet_client.dicom.pacs_connection import PASSWORD, TOKEN, USER


def read_credentials(environ: Mapping[str, str], file: Path | None) -> dict[str, str]:
    """Return the authorization header from a file or the environment; empty where neither has credentials.

    The file has one line: a bearer token, or USER:PASSWORD. Raises UserError when other users may read it.
    """
    if file is not None:
        return _of_line(_private_line(file))
    if environ.get(TOKEN):
        return {"authorization": f"Bearer {environ[TOKEN]}"}
    if environ.get(USER):
        return _of_line(f"{environ[USER]}:{environ.get(PASSWORD, '')}")
    return {}


def _private_line(file: Path) -> str:
    what = f"the credentials {file}"
    (line, *more) = hidden_words.of_file(file, what).strip().splitlines() or [""]
    if more or not line.isprintable() or not line:
        raise UserError(f"{what} cannot be used", "it must have exactly one line", "write a token, or USER:PASSWORD")
    return line


def _of_line(line: str) -> dict[str, str]:
    if ":" not in line:
        return {"authorization": f"Bearer {line}"}
    return {"authorization": f"Basic {base64.b64encode(line.encode()).decode()}"}


def environment() -> Mapping[str, str]:
    """Return the environment from which credentials are read."""
    return os.environ

"""Checks of a site's settings against this machine, before a run needs them."""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from ynet.errors import UserError
from ynet.runtime import listening
from ynet.runtime.listening import ListenAddress
from ynet.trust import lasting_key
from ynet.trust.identity import check_site_name
from ynet_client.settings import ClientSettings


def check(settings: ClientSettings) -> None:
    """Raise UserError for the first setting that does not work on this machine. Loads torch when a GPU is named."""
    check_device(settings.device)
    listening.check(list(_places(settings)))
    _check_page(settings)
    for site, fingerprint in settings.known_sites.items():
        check_site_name(site)
        lasting_key.read(fingerprint)
    _check_names(settings)


def check_device(name: str) -> None:
    """Raise UserError when the device cannot be used. `auto` and `cpu` always work."""
    if name not in ("auto", "cpu"):
        from ynet.learning import device  # torch takes two seconds to load

        device.choose(name)


def unknown_attributes(settings: ClientSettings, columns: Sequence[str]) -> list[str]:
    """Return the attributes for filters that are not a column of the manifest."""
    return [name for name in settings.disclosure.attributes if name not in columns]


def _places(settings: ClientSettings) -> Iterator[ListenAddress]:
    if settings.workbench.enabled:
        yield ListenAddress("workbench.port", settings.workbench.host, settings.workbench.port)
    if settings.metrics.port:
        yield ListenAddress("metrics.port", settings.metrics.host, settings.metrics.port)


def _check_page(settings: ClientSettings) -> None:
    """Check that the files of the workbench's certificate are readable; their content is checked at its start."""
    page = settings.workbench
    if not page.enabled:
        return
    if bool(page.certificate) != bool(page.key):
        do = "name both, workbench.certificate and workbench.key, or neither"
        raise UserError("the workbench's certificate cannot be used", "one of certificate and key is missing", do)
    for key, name in (("certificate", page.certificate), ("key", page.key)):
        if name and not os.access(name, os.R_OK):
            why = "this user may not read it" if Path(name).exists() else "there is no such file"
            raise UserError(f"the file of workbench.{key} cannot be used: {name}", why, "correct it in client.yaml")


def _check_names(settings: ClientSettings) -> None:
    disclosure = settings.disclosure
    for site in (*disclosure.allow, *disclosure.deny):
        check_site_name(site)
    with suppress(StopIteration):
        both = next(site for site in disclosure.allow if site in disclosure.deny)
        raise UserError(f"site {both} is both allowed and denied", "it is in disclosure.allow and deny", "take one out")

"""The public Python API: the names that others may import."""

import importlib

import pytest

API = {
    "ynet": {"__version__"},
    "ynet_client": {
        *("Answer", "ConsultRequest", "Consults", "Filters", "Hit", "Outcome", "Site"),
        *("RefusedError", "UnreachableError", "UserError"),
    },
    "ynet_lab": set(),
    "ynet_server": set(),
}


@pytest.mark.parametrize("package", API)
def test_public_api_is_exactly_as_documented(package: str) -> None:
    module = importlib.import_module(package)
    assert set(module.__all__) == API[package]
    assert all(getattr(module, name) for name in API[package])

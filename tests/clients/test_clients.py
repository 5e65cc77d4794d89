"""A client that cannot be had is a skip for a person, and a failure where CI=true."""

from __future__ import annotations

import pytest

from tests.clients.conftest import Clients


def test_a_missing_client_skips_but_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="node and npm are needed"):
        Clients().need("v4")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="node and npm are needed"):
        Clients().need("v4")

"""What the settings say of TLS."""

from __future__ import annotations

from pathlib import Path

import pytest
from certificates import Authority

from obworker.errors import UsageError
from obworker.settings import Settings
from obworker.supervisor.certificates import tls_context
from obworker.supervisor.plan import Plan


def test_without_a_certificate_there_is_no_tls() -> None:
    assert tls_context(Settings()) is None


@pytest.mark.parametrize(
    ("settings", "option"),
    [(Settings(keyfile="/a"), "--keyfile"), (Settings(ca_certs="/a"), "--ca-certs")],
)
def test_what_goes_with_a_certificate_is_nothing_without_one(
    settings: Settings, option: str
) -> None:
    with pytest.raises(UsageError, match=f"^{option}: there is no --certfile$"):
        tls_context(settings)


def test_the_files_are_read_anew_each_time(tmp_path: Path) -> None:
    made = Authority(tmp_path).own
    settings = Settings(certfile=str(made.cert), keyfile=str(made.key))
    assert tls_context(settings)
    made.key.unlink()
    with pytest.raises(UsageError, match=f"--keyfile: cannot read {made.key}: "):
        tls_context(settings)


def test_a_plan_is_not_made_with_a_certificate_that_cannot_be_used(tmp_path: Path) -> None:
    settings = Settings(certfile=str(tmp_path / "missing"), gpus="none")
    with pytest.raises(UsageError, match="--certfile: cannot read"):
        Plan.make(settings, {}, "factory")

"""What the settings say of TLS."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from certificates import Authority

from obworker.errors import UsageError
from obworker.http.pem import Pem
from obworker.settings import Settings
from obworker.supervisor.certificates import Certificates
from obworker.supervisor.plan import Plan


def test_without_a_certificate_there_is_no_tls() -> None:
    assert Certificates.of(Settings()).context() is None


@pytest.mark.parametrize(
    ("settings", "option"),
    [(Settings(keyfile="/a"), "--keyfile"), (Settings(ca_certs="/a"), "--ca-certs")],
)
def test_what_goes_with_a_certificate_is_nothing_without_one(
    settings: Settings, option: str
) -> None:
    with pytest.raises(UsageError, match=f"^{option}: there is no --certfile$"):
        Certificates.of(settings)


def test_the_files_are_read_once(tmp_path: Path) -> None:
    made = Authority(tmp_path).own
    settings = Settings(certfile=str(made.cert), keyfile=str(made.key), ca_certs=str(made.cert))
    read = Certificates.of(settings)
    made.cert.unlink()
    made.key.unlink()
    assert read.context()
    with pytest.raises(UsageError, match=f"--certfile: cannot read {made.cert}: "):
        Certificates.of(settings)


@pytest.mark.parametrize("size", [0, 1 << 20])
def test_who_inherits_them_has_the_same(size: int) -> None:
    held = (Pem("--certfile", "\udcff", b"\xff\0\r\n" + bytes(size)), Pem("--keyfile", "b", b""))
    with Certificates(held).lent() as descriptor:
        assert Certificates.take(os.dup(descriptor)).files == held


def test_a_plan_is_not_made_with_a_certificate_that_cannot_be_used(tmp_path: Path) -> None:
    settings = Settings(certfile=str(tmp_path / "missing"), gpus="none")
    with pytest.raises(UsageError, match="--certfile: cannot read"):
        Plan.make(settings, {}, "factory")

"""Where control sockets are, and whose."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from obworker.supervisor import rendezvous

ME = os.getuid()


@pytest.mark.parametrize(
    ("runtime", "expected"),
    [
        ("/run/user/7", ["/run/user/7/obworker", "/run/obworker", "/tmp/obworker-7"]),
        (None, ["/run/obworker", "/tmp/obworker-7"]),
        ("", ["/run/obworker", "/tmp/obworker-7"]),
    ],
)
def test_the_places(runtime: str | None, expected: list[str]) -> None:
    assert [str(path) for path in rendezvous.directories(runtime, 7)] == expected


def test_the_first_place_that_will_do_is_made_private(tmp_path: Path) -> None:
    places = [tmp_path / "not" / "there", tmp_path / "here", tmp_path / "later"]
    assert rendezvous.prepare(places, ME) == tmp_path / "here"
    assert (tmp_path / "here").stat().st_mode & 0o777 == 0o700
    assert not (tmp_path / "later").exists()


def test_a_place_where_others_may_write_is_not_used(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    assert rendezvous.prepare([tmp_path], ME) is None
    assert list(rendezvous.socket_paths([tmp_path], ME)) == []


def test_somebody_elses_place_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "1.sock").touch()
    assert rendezvous.prepare([tmp_path], ME + 1) is None
    assert list(rendezvous.socket_paths([tmp_path], ME + 1)) == []
    assert list(rendezvous.socket_paths([tmp_path], ME)) == [tmp_path / "1.sock"]


def test_a_link_to_a_place_of_ours_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert rendezvous.prepare([tmp_path / "link"], ME) is None


def test_a_socket_is_found_once_however_its_place_is_called(tmp_path: Path) -> None:
    place, link = tmp_path / "run" / "obworker", tmp_path / "link"
    place.mkdir(parents=True)
    (place / "1.sock").touch()
    link.symlink_to(place.parent)  # as /var/run is to /run
    places = [link / "obworker", place, place]
    assert list(rendezvous.socket_paths(places, ME)) == [place / "1.sock"]


def test_only_sockets_that_nobody_answers_at_are_removed(tmp_path: Path) -> None:
    mine = f"{os.getpid()}.sock"
    # pids end below 4,194,304 (proc(5), pid_max)
    names = ["4999999.sock", "4999998.sock", mine, "named.sock"]
    made = {name: socket.socket(socket.AF_UNIX) for name in names}
    for name, listener in made.items():
        listener.bind(str(tmp_path / name))
    made["4999998.sock"].listen()
    rendezvous.remove_stale(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*names} - {"4999999.sock"}
    for listener in made.values():
        listener.close()

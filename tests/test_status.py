"""`obworker status` as people read it."""

from __future__ import annotations

import pytest
from boards import NOW, fill, scoreboard

from obworker.status import describe, duration
from obworker.supervisor import health
from obworker.supervisor.memory import Memory, with_memory
from obworker.supervisor.readings import Sensed, write
from obworker.supervisor.scoreboard import Cause, Phase, State

MEASURED = {7: Memory(9 << 20, 5 << 20, 4 << 20), 11: Memory(90 << 20, 50 << 20, 12 << 20)}


def test_a_service_that_knows_little_of_itself() -> None:
    with scoreboard(1, Phase.STARTING) as board:
        shown = describe(with_memory(health.report(board, NOW), {}))
    assert shown == (
        "-  -  pid -  generation -  up -\n"
        "starting: 0 of 1 workers ready\n"
        "not ready: obworker is starting: 0 of 1 workers ready, 1 needed\n"
        "\n"
        "SLOT  STATE  PID  DEVICE  UPTIME  RSS MIB  PSS MIB  USS MIB  REQUESTS  IN FLIGHT  RESTARTS  LAST EXIT\n"  # noqa: E501
        "0     empty  -    -       -       -        -        -        0         0          0         -"  # noqa: E501
    )


def test_a_service_that_has_seen_something() -> None:
    with scoreboard(
        2,
        Phase.RELOADING,
        label="./model",
        address="0.0.0.0:80",
        master_pid=7,
        generation=2,
        started_at=NOW - 900,
        reload_failure="predictor.py:3:\nSyntaxError",
    ) as board:
        fill(board, 0, 0, State.BUSY, pid=11, in_flight=1, begun_at=NOW - 2, ready_at=NOW - 90)
        fill(board, 0, 1, State.BOOTING, pid=13, spawned_at=NOW)
        slot = board.slot(1)
        slot.write_text("device", "gpu 1")
        slot.write_text("last_exit", "ValueError: one\n  two")
        slot.last_exit_at, slot.exits[Cause.LATE] = NOW - 30, 3
        fill(board, 1, 0, State.BACKOFF, pid=12)
        shown = describe(with_memory(health.report(board, NOW), MEASURED))
    # fmt: off
    assert shown.splitlines() == [
        "./model  0.0.0.0:80  pid 7  generation 2  up 15m00s",
        "degraded: 1 of 2 workers ready",
        "a reload is on its way",
        "55 MiB of memory in all processes",
        "the last reload failed: predictor.py:3: SyntaxError",
        "",
        "SLOT   STATE    PID  DEVICE  UPTIME  RSS MIB  PSS MIB  USS MIB  REQUESTS  IN FLIGHT   RESTARTS  LAST EXIT",  # noqa: E501
        "0      busy     11   -       1m30s   90       50       12       0         1 for 2.0s  0         -",  # noqa: E501
        "0 new  booting  13   -       -       -        -        -                  0",
        "1      backoff  -    gpu 1   -       -        -        -        0         0           3         ValueError: one two, 30.0s ago",  # noqa: E501
    ]
    # fmt: on


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.0, "0.0s"),
        (59.94, "59.9s"),
        (60.0, "1m00s"),
        (3599.0, "59m59s"),
        (3600.0, "1h00m"),
        (86399.0, "23h59m"),
        (86400.0 + 7200, "1d02h"),
    ],
)
def test_a_duration_has_two_units(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_gpus_and_what_is_wrong_with_them() -> None:
    with scoreboard(2, label="./model") as board:
        for index, device in enumerate(("gpu 0", "gpu 1")):
            slot = board.slot(index)
            slot.write_text("device", device)
            fill(board, index, 0, State.RETIRED if index else State.IDLE, no_memory=2 + index)
        board.slot(1).write_text("quarantine", "CUDA error: unknown\nerror")
        board.slot(1).quarantined_until = NOW + 61
        write(
            board,
            [
                Sensed(0, "GPU-a", "NVIDIA H100", 12.34 * 2**30, 80 * 2**30, 97, 61),
                Sensed(1, "GPU-b", "", None, None, None, None),
            ],
            NOW,
        )
        shown = describe(with_memory(health.report(board, NOW), MEASURED)).splitlines()
    assert shown[1:5] == [
        "degraded: 1 of 2 workers ready",
        "55 MiB of memory in all processes",
        "gpu 1 is in quarantine for 1m01s more, or until a reload: CUDA error: unknown error",
        "memory was short, times: 2 in slot 0, 3 in slot 1",
    ]
    assert shown[-4:] == [
        "",
        "GPU  NAME         MEMORY            UTILISATION  TEMPERATURE  SLOTS",
        "0    NVIDIA H100  12.3 of 80.0 GiB  97%          61 °C        0",
        "1    -            - of - GiB        -            -            1",
    ]

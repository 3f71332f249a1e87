"""What the kernel counts is found in any layout of cgroups, and nothing is made up without it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from obworker.supervisor.oom import LONGEST_DEATH, OomKills

V2_MOUNT = "29 23 0:26 {top} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1_MOUNT = "35 31 0:32 {top} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
V1_CPU_MOUNT = "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
HYBRID_MOUNT = "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
OTHER_MOUNT = "30 23 0:27 / /tmp/a\\040b rw - tmpfs tmpfs rw,size=1024k\n"

EVENTS = "low 0\nhigh 7\nmax 9\noom 5\noom_kill {}\noom_group_kill 1\n"
OOM_CONTROL = "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"


class Layout(NamedTuple):
    """A machine: /proc/self/cgroup, /proc/self/mountinfo, and where the kernel counts."""

    memberships: str
    mounts: str
    file: str
    content: str


LAYOUTS = {
    "a systemd unit, version 2": Layout(
        "0::/system.slice/obworker.service\n",
        OTHER_MOUNT + V2_MOUNT.format(top="/"),
        "sys/fs/cgroup/system.slice/obworker.service/memory.events",
        EVENTS,
    ),
    "a container with a cgroup namespace": Layout(
        "0::/\n", V2_MOUNT.format(top="/"), "sys/fs/cgroup/memory.events", EVENTS
    ),
    "a container without one": Layout(
        "0::/docker/0123/app\n",
        V2_MOUNT.format(top="/docker/0123"),
        "sys/fs/cgroup/app/memory.events",
        EVENTS,
    ),
    "version 1": Layout(
        "5:cpu,cpuacct:/\n4:memory:/docker/0123\n1:name=systemd:/\n",
        V1_CPU_MOUNT + V1_MOUNT.format(top="/docker/0123"),
        "sys/fs/cgroup/memory/memory.oom_control",
        OOM_CONTROL,
    ),
    "both versions, memory in version 1": Layout(
        "4:memory:/x\n0::/x\n",
        HYBRID_MOUNT + V1_MOUNT.format(top="/"),
        "sys/fs/cgroup/memory/x/memory.oom_control",
        OOM_CONTROL,
    ),
}


def build(root: Path, layout: Layout, kills: int) -> Path:
    """Write the files; return the one with the count."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(layout.memberships)
    (root / "proc/self/mountinfo").write_text(layout.mounts)
    file = root / layout.file
    file.parent.mkdir(parents=True)
    file.write_text(layout.content.format(kills))
    return file


def explained(kills: OomKills, now: float = 0.0) -> int:
    """Return how many ends the kernel's kills explain that it has told of by now."""
    kills.look(now)
    return sum(iter(kills.explains_one, False))


@pytest.mark.parametrize("before", [0, 3])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_a_kill_explains_one_end(tmp_path: Path, layout: Layout, before: int) -> None:
    file = build(tmp_path, layout, kills=before)
    kills = OomKills(tmp_path)
    assert explained(kills) == 0, "those before our start are not ours"
    file.write_text(layout.content.format(before + 2))
    assert explained(kills) == 2
    assert explained(kills) == 0


def test_a_kill_explains_an_end_that_comes_long_after_it(tmp_path: Path) -> None:
    file = build(tmp_path, LAYOUTS["version 1"], kills=0)
    kills = OomKills(tmp_path)
    file.write_text(OOM_CONTROL.format(1))
    kills.look(10.0)
    kills.look(10.0 + LONGEST_DEATH - 1)
    assert kills.explains_one()


def test_a_kill_of_a_stranger_is_forgotten(tmp_path: Path) -> None:
    file = build(tmp_path, LAYOUTS["version 1"], kills=0)
    kills = OomKills(tmp_path)
    file.write_text(OOM_CONTROL.format(1))
    kills.look(10.0)
    assert explained(kills, 10.0 + LONGEST_DEATH) == 0


SILENT = {
    "the cgroup is not below the mount": Layout(
        "0::/../other\n", V2_MOUNT.format(top="/"), "sys/fs/cgroup/memory.events", EVENTS
    ),
    "the count is an ancestor's": Layout(
        "0::/a/b\n", V2_MOUNT.format(top="/"), "sys/fs/cgroup/a/memory.events", EVENTS
    ),
    "version 1 before Linux 4.13": Layout(
        "4:memory:/\n",
        V1_MOUNT.format(top="/"),
        "sys/fs/cgroup/memory/memory.oom_control",
        "oom_kill_disable 0\nunder_oom 0\n",
    ),
    "another controller's is mounted": Layout(
        "5:cpu,cpuacct:/\n4:memory:/\n",
        V1_CPU_MOUNT,
        "sys/fs/cgroup/cpu,cpuacct/memory.oom_control",
        OOM_CONTROL,
    ),
    "no hierarchy is mounted": Layout("0::/\n", OTHER_MOUNT, "sys/fs/cgroup/memory.events", EVENTS),
    "proc has other contents": Layout("what?\n", "what?\n", "sys/fs/cgroup/memory.events", EVENTS),
    "the count is no number": Layout(
        "0::/\n", V2_MOUNT.format(top="/"), "sys/fs/cgroup/memory.events", "oom_kill x{}\n"
    ),
}


@pytest.mark.parametrize("layout", SILENT.values(), ids=SILENT)
def test_nothing_is_told_where_nothing_is_known(tmp_path: Path, layout: Layout) -> None:
    file = build(tmp_path, layout, kills=0)
    kills = OomKills(tmp_path)
    file.write_text(layout.content.format(1))
    assert explained(kills) == 0


def test_nothing_is_told_without_proc(tmp_path: Path) -> None:
    assert explained(OomKills(tmp_path)) == 0


def test_a_count_that_cannot_be_read_for_a_while_is_no_error(tmp_path: Path) -> None:
    file = build(tmp_path, LAYOUTS["version 1"], kills=3)
    kills = OomKills(tmp_path)
    file.unlink()
    assert explained(kills) == 0
    file.write_text(OOM_CONTROL.format(4))
    assert explained(kills) == 1

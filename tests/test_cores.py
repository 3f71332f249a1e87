"""How many cores a process has, in any layout of cgroups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from obworker.cores import Cores, available, chosen_threads, least_quota, threads_alone

V2 = "29 23 0:26 {} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "32 31 0:29 {} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
MEMORY = "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
UNIFIED = "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
ELSEWHERE = "50 23 0:26 /kubepods/other /var/other rw - cgroup2 cgroup2 rw\n"

TOP = "sys/fs/cgroup"
CPU = "sys/fs/cgroup/cpu,cpuacct"


def max_(directory: str, text: str) -> dict[str, str]:
    return {f"{directory}/cpu.max": f"{text}\n"}


def cfs(directory: str, quota: int, period: int = 100_000) -> dict[str, str]:
    return {
        f"{directory}/cpu.cfs_quota_us": f"{quota}\n",
        f"{directory}/cpu.cfs_period_us": f"{period}\n",
    }


@pytest.mark.parametrize(
    ("memberships", "mounts", "files", "quota"),
    [
        pytest.param("0::/\n", V2.format("/"), max_(TOP, "200000 100000"), 2.0, id="container"),
        pytest.param("0::/\n", V2.format("/"), max_(TOP, "50000 100000"), 0.5, id="half a core"),
        pytest.param("0::/\n", V2.format("/"), max_(TOP, "30000 20000"), 1.5, id="other period"),
        pytest.param("0::/\n", V2.format("/"), max_(TOP, "max 100000"), None, id="no quota"),
        pytest.param("0::/\n", V2.format("/"), {}, None, id="root of the machine"),
        pytest.param(
            "0::/system.slice/obworker.service\n",
            V2.format("/"),
            max_(f"{TOP}/system.slice/obworker.service", "800000 100000"),
            8.0,
            id="systemd unit",
        ),
        pytest.param(
            "0::/a/b/c\n",
            V2.format("/"),
            max_(f"{TOP}/a", "300000 100000")
            | max_(f"{TOP}/a/b", "max 100000")
            | max_(f"{TOP}/a/b/c", "400000 100000"),
            3.0,
            id="the least is an ancestor's",
        ),
        pytest.param(
            "0::/a/b\n",
            V2.format("/"),
            max_(f"{TOP}/a", "300000 100000") | max_(f"{TOP}/a/b", "100000 100000"),
            1.0,
            id="the least is our own",
        ),
        pytest.param(
            "0::/a\n",
            V2.format("/"),
            max_(f"{TOP}/b", "100000 100000"),
            None,
            id="a neighbour's is not ours",
        ),
        pytest.param(
            "0::/docker/0123/app\n",
            V2.format("/docker/0123"),
            max_(TOP, "200000 100000") | max_(f"{TOP}/app", "max 100000"),
            2.0,
            id="container without a cgroup namespace",
        ),
        pytest.param(
            "0::/docker/0123\n",
            V2.format("/"),
            max_(TOP, "200000 100000"),
            2.0,
            id="what is named is not there",
        ),
        pytest.param(
            "0::/../other\n",
            V2.format("/"),
            max_(TOP, "200000 100000") | max_("sys/fs/other", "100000 100000"),
            2.0,
            id="what is named is outside",
        ),
        pytest.param(
            "0::/\n",
            V2.format("/docker/0123"),
            max_(TOP, "200000 100000"),
            2.0,
            id="what is mounted is below us",
        ),
        pytest.param(
            "0::/a\n",
            ELSEWHERE + V2.format("/"),
            max_(f"{TOP}/a", "200000 100000") | max_("var/other", "100000 100000"),
            2.0,
            id="somebody else's is mounted, too",
        ),
        pytest.param(
            "5:cpu,cpuacct:/docker/0123\n4:memory:/docker/0123\n",
            MEMORY + V1.format("/docker/0123"),
            cfs(CPU, 200_000),
            2.0,
            id="version 1, container",
        ),
        pytest.param(
            "5:cpu,cpuacct:/a/b\n",
            V1.format("/"),
            cfs(f"{CPU}/a", 150_000) | cfs(f"{CPU}/a/b", -1),
            1.5,
            id="version 1, an ancestor's",
        ),
        pytest.param(
            "5:cpu,cpuacct:/\n", V1.format("/"), cfs(CPU, -1), None, id="version 1, no quota"
        ),
        pytest.param(
            "5:cpu,cpuacct:/x\n0::/x\n",
            UNIFIED + V1.format("/"),
            cfs(f"{CPU}/x", 400_000),
            4.0,
            id="both versions",
        ),
        pytest.param("0::/\n", MEMORY, max_(TOP, "200000 100000"), None, id="nothing is mounted"),
        pytest.param("what?\n", "what?\n", {}, None, id="proc is not Linux's"),
        pytest.param("0::/\n", V2.format("/"), max_(TOP, "nonsense"), None, id="nonsense"),
        pytest.param("0::/\n", V2.format("/"), max_(TOP, "0 0"), None, id="nothing of nothing"),
    ],
)
def test_the_least_quota_of_all_levels_counts(
    tmp_path: Path, memberships: str, mounts: str, files: dict[str, str], quota: float | None
) -> None:
    files = files | {"proc/self/cgroup": memberships, "proc/self/mountinfo": mounts}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert least_quota(tmp_path) == quota


def test_without_proc_there_is_no_quota(tmp_path: Path) -> None:
    assert available(tmp_path) == Cores(frozenset(os.sched_getaffinity(0)))


@pytest.mark.parametrize(("share", "is_less"), [(0.5, True), (1, False), (2, False)])
def test_a_quota_counts_where_it_is_less_than_the_cores_we_may_run_on(
    tmp_path: Path, share: float, is_less: bool
) -> None:
    allowed = frozenset(os.sched_getaffinity(0))
    quota = share * len(allowed)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/\n")
    (tmp_path / "proc/self/mountinfo").write_text(V2.format("/"))
    (tmp_path / TOP).mkdir(parents=True)
    (tmp_path / TOP / "cpu.max").write_text(f"{int(quota * 100_000)} 100000\n")
    found = available(tmp_path)
    assert found == Cores(allowed, quota if is_less else None)
    assert found.capacity == min(quota, len(allowed))


@pytest.mark.parametrize(
    ("cores", "description"),
    [
        (Cores(frozenset({3})), "1 core"),
        (Cores(frozenset(range(8))), "8 cores"),
        (Cores(frozenset(range(8)), 2.0), "2.0 cores (cgroup quota)"),
        (Cores(frozenset(range(8)), 1 / 3), "0.33 cores (cgroup quota)"),
    ],
)
def test_cores_are_told_to_people(cores: Cores, description: str) -> None:
    assert cores.description == description


@pytest.mark.parametrize(
    ("text", "count"),
    [("4", 4), (" 4 ", 4), ("4,2", 4), ("", 0), ("0", 0), ("-1", 0), ("four", 0), ("٤", 0)],
)
def test_a_number_of_threads_is_read_as_openmp_reads_it(text: str, count: int) -> None:
    assert chosen_threads(text) == count


def test_a_process_without_a_supervisor_has_all_cores_unless_it_is_told_otherwise() -> None:
    assert threads_alone({"OMP_NUM_THREADS": "3"}) == 3
    assert threads_alone({}) == max(1, int(available().capacity))


def test_part_of_a_core_has_a_thread_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("obworker.cores.available", lambda: Cores(frozenset({0, 1}), 0.5))
    assert threads_alone({}) == 1

"""The number of processors that a stage may keep busy."""

import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def available_cpus(cgroup: Path = CGROUP) -> int:
    """CPUs that this process may keep busy: its affinity, its container's quota and OMP_NUM_THREADS, at least 1.

    More threads than the quota allows are throttled in turn and wait for each other at every layer.

    Args:
        cgroup: where control groups are mounted; version 2 has `cpu.max`, version 1 `cpu/cpu.cfs_*`.
    """
    limits = [float(len(os.sched_getaffinity(0)))]
    version_1 = ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")
    for files in (("cpu.max",), version_1):
        try:
            quota, period = " ".join((cgroup / file).read_text() for file in files).split()
            if quota not in {"max", "-1"}:
                limits.append(int(quota) / int(period))
        except (OSError, ValueError):
            continue
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdigit():
        limits.append(float(wanted))
    return max(1, round(min(limits)))

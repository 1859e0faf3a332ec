"""Where the network runs: CPU or CUDA device, threads, and number format."""

import os
from pathlib import Path

import torch

from stages.common.errors import UnavailableError

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


def choose_device(name: str) -> torch.device:
    """The device for `auto` (CUDA where there is one), `cpu` or `cuda`; sets the number of CPU threads.

    Raises:
        UnavailableError: `cuda` is asked for and absent.
    """
    torch.set_num_threads(available_cpus())
    present = name != "cpu" and torch.cuda.is_available()
    if name == "cuda" and not present:
        raise UnavailableError(
            "device cuda is asked for, but no CUDA GPU is usable here: offer one to the container or set device to auto"
        )
    return torch.device("cuda" if present else "cpu")


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 pays: GPUs from Ampere on, and CPUs with AMX or AVX-512 BF16.

    On 2 cores with AMX, training is 2.2 times as fast as in float32; emulated bfloat16 would be slower.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))

"""Choose the device of the network, CPU or CUDA, and the number format."""

import contextlib
import ctypes

import torch

from stages.common.contract.cpus import available_cpus
from stages.common.contract.errors import UnavailableError


def choose_device(name: str, threads: int = 0) -> torch.device:
    """The device for `auto` (CUDA if available), `cpu` or `cuda`; sets the number of CPU threads.

    On a CPU, a seed gives the same weights again with the same number of threads. On CUDA, with one model of GPU and
    one version of PyTorch, this holds only as far as PyTorch supports it: cuDNN is set to be deterministic, some other
    kernels add in any order (https://docs.pytorch.org/docs/stable/notes/randomness.html).

    Args:
        name: auto, cpu or cuda.
        threads: on the CPU; 0 means one per available core.

    Raises:
        UnavailableError: `cuda` is asked for and absent.
    """
    torch.set_num_threads(threads or available_cpus())
    present = name != "cpu" and torch.cuda.is_available()
    if name == "cuda" and not present:
        raise UnavailableError(
            "device cuda is asked for, but no CUDA GPU is usable here: offer one to the container or set device to auto"
        )
    torch.backends.cudnn.deterministic = True
    if not present:
        _keep_freed_memory()
    return torch.device("cuda" if present else "cpu")


def _keep_freed_memory() -> None:
    """Let glibc keep the memory that a step frees, for the next step: to return it took a tenth of a step's time."""
    with contextlib.suppress(OSError, AttributeError):  # another library has no such setting
        set_option = ctypes.CDLL(None).mallopt
        set_option(-3, 32 * 2**20)  # M_MMAP_THRESHOLD of malloc.h: blocks up to this, the highest value everywhere
        set_option(-1, 256 * 2**20)  # M_TRIM_THRESHOLD


def trainings_at_once(device: str, wanted: int, useful: int) -> int:
    """The number of trainings to run in parallel, each on its own GPU or on a single thread.

    Threads of one training wait for each other at every layer, spinning. On two cores with other work, two threads
    processed 20 to 40 images a second, a single thread 200. Trainings with a thread each share the cores fairly.

    Args:
        device: auto, cpu or cuda.
        wanted: upper limit; 0 means one per visible GPU or available core.
        useful: number of trainings that can be busy.

    Raises:
        UnavailableError: the device is absent.
    """
    there = torch.cuda.device_count() if choose_device(device).type == "cuda" else available_cpus()
    return max(1, min(wanted or there, useful))


def use_gpu(device: str, number: int) -> None:
    """Select GPU `number`, modulo their number, for `cuda` in this thread; does nothing on a CPU.

    Raises:
        UnavailableError: the device is absent.
    """
    if choose_device(device).type == "cuda":
        torch.cuda.set_device(number % torch.cuda.device_count())


def describe_device(name: str) -> dict[str, str]:
    """Device and number format of a training on `auto`, `cpu` or `cuda`: a GPU's name or "cpu", and the format."""
    device = choose_device(name)
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "precision": "bfloat16" if has_fast_bfloat16(device) else "float32",
    }


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is faster: on GPUs from Ampere on, and on CPUs with AMX or AVX-512 BF16.

    On 2 cores with AMX, training is 2.2 times as fast as in float32; emulated bfloat16 would be slower.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))

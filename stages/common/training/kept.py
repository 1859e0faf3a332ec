"""Tensors that outlive a kill: a file of them is read back unchanged or not at all.

A flipped bit in a checkpoint would train another model under the same key without anybody noticing, and a damaged
header must not stop every further try. So the file has a digest, and a file that does not match it counts as absent.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from stages.common.contract.logs import log


def save_file(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file; a full disk raises an `OSError` with its number; safetensors' own writer hides it."""
    data = save({name: tensor.contiguous() for name, tensor in tensors.items()}, dict(metadata))
    try:
        path.write_bytes(data)
    except OSError as error:
        path.unlink(missing_ok=True)  # half a file would only take up room
        raise OSError(error.errno, error.strerror, str(path)) from error


def keep(path: Path, tensors: Mapping[str, Tensor], told: Any = None) -> None:
    """Write tensors, and JSON about them, to one safetensors file, which is whole or absent."""
    text = json.dumps(told)
    partial = path.with_name(f".{path.name}.partial")  # the stage holds the lock: one writer
    save_file(partial, tensors, {"told": text, "sha256": _digest(tensors, text)})
    partial.replace(path)


def recover(path: Path) -> tuple[dict[str, Tensor], Any] | None:
    """Read a file of `keep` to the CPU; None if it is absent, or, with a warning, if it is damaged."""
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            metadata = file.metadata() or {}
        if metadata.get("sha256") != _digest(tensors, metadata.get("told", "")):
            raise ValueError("its digest differs")  # noqa: TRY301
        if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
            raise ValueError("it holds values that are not numbers")  # noqa: TRY301
        return tensors, json.loads(metadata["told"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        log.warning("%s is damaged (%s): its work is done again", path, " ".join(str(error).split()))
        return None


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()

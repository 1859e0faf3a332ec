"""Batches of one split on a device: resident if the GPU has room, else read ahead from the shards."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from stages.common.schema.dataset import Split

RESIDENT_SHARE = 0.25
"""Share of the GPU's free memory; the rest is for the network, whose needs grow with the batch."""


class Loader:
    """Gives batches of a split on a device. Labels are resident always, 8 bytes each."""

    def __init__(self, split: Split, device: torch.device) -> None:
        self.split = split
        self.device = device
        self.labels = torch.from_numpy(split.labels.astype(np.int64)).to(device)
        self.copies = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    @cached_property
    def images(self) -> Tensor | None:
        """All images on the GPU, uint8 (N, S, S, 3), if there is room; loaded with the first batch."""
        split, device = self.split, self.device
        size = len(split) * split.image_size**2 * 3
        if device.type != "cuda" or size >= torch.cuda.mem_get_info(device)[0] * RESIDENT_SHARE:
            return None
        images = torch.empty((len(split), split.image_size, split.image_size, 3), dtype=torch.uint8, device=device)
        for start in range(0, len(split), 8192):
            images[start : start + 8192] = torch.from_numpy(split.take(slice(start, start + 8192)))
        return images

    def batches(self, indices: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Images uint8 (n, S, S, 3) and labels int64 (n, A), batch by batch.

        Args:
            indices: of every batch, int64 (n,) on the CPU.
        """
        if self.images is not None:
            # one copy for all, for each would wait
            there = torch.split(torch.cat(list(indices)).to(self.device), [len(part) for part in indices])
            for part in there:
                yield self.images[part], self.labels[part]
            return
        with ThreadPoolExecutor(1) as reader:
            ahead = reader.submit(self._read, indices[0])
            for number, part in enumerate(indices):
                images = ahead.result()
                if self.copies:  # the copy is queued, not finished
                    computing = torch.cuda.current_stream(self.device)
                    computing.wait_stream(self.copies)
                    images.record_stream(computing)  # its memory is not reused during the computation
                if number + 1 < len(indices):
                    ahead = reader.submit(self._read, indices[number + 1])
                yield images, self.labels[part.to(self.device, non_blocking=True)]

    def _read(self, indices: Tensor) -> Tensor:
        images = torch.from_numpy(self.split.take(indices.numpy()))
        if not self.copies:
            return images
        with torch.cuda.stream(self.copies):
            return images.pin_memory().to(self.device, non_blocking=True)

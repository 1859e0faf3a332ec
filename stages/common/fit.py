"""The fit loop of every stage that trains: masked multi-head cross-entropy, AdamW, one cycle, early stopping."""

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from stages.common.attributes import NAMES, UNKNOWN
from stages.common.dataset import Split
from stages.common.device import choose_device, has_fast_bfloat16
from stages.common.errors import DataError, UsageError
from stages.common.hyperparameters import Hyperparameters
from stages.common.logs import Progress, log
from stages.common.network import Network

WARMUP = 0.25
"""Share of the steps in which the learning rate rises."""


class DivergedError(UsageError):
    """The loss is no longer a number: with the same parameters it would happen again."""


@dataclass(frozen=True)
class FitSettings:
    """How to fit.

    Attributes:
        hyperparameters: what a search may choose.
        epochs: passes over the training images; the length of the learning-rate cycle.
        batch_size: images per step.
        patience: epochs without a better validation loss after which to stop.
        seed: of weights, order, augmentation and dropout; on a CPU the same seed gives the same weights.
        device: auto, cpu or cuda.
        keep_last: take the last epoch for the best, so that the validation images choose nothing.
    """

    hyperparameters: Hyperparameters
    epochs: int
    batch_size: int
    patience: int
    seed: int
    device: str = "auto"
    keep_last: bool = False


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave.

    Attributes:
        epoch: 1 for the first.
        train_loss: weighted as the settings say, over augmented images.
        val_loss: cross-entropy per known label in nats, averaged over attributes, unweighted: trials with different
            loss weights compare.
        val_accuracy: attribute -> share of right known labels, None where none is known.
        val_mean_accuracy: mean of the known ones.
        learning_rate: at the end of the epoch.
        seconds: with validation.
        images_per_s: training images a second, without validation.
    """

    epoch: int
    train_loss: float
    val_loss: float
    val_accuracy: dict[str, float | None]
    val_mean_accuracy: float
    learning_rate: float
    seconds: float
    images_per_s: float


@dataclass(frozen=True)
class FitResult:
    """A fitted network with the weights of its best epoch, on the CPU and in evaluation mode.

    Attributes:
        network: the network.
        history: every epoch.
        best: the epoch with the lowest validation loss, or the last (`keep_last`), whose weights `network` has.
        device: `cpu` or the GPU's name.
    """

    network: Network
    history: list[Epoch]
    best: Epoch
    device: str


def masked_losses(outputs: tuple[Tensor, ...], labels: Tensor) -> Tensor:
    """Cross-entropy of every attribute, averaged over its known labels.

    Args:
        outputs: logits per attribute, (N, classes).
        labels: int64 (N, 5), -1 where unknown.

    Returns:
        float32 (5,); 0 where no label is known, so that it adds nothing to loss or gradient.
    """
    losses = [
        functional.cross_entropy(logits.float(), column, ignore_index=UNKNOWN, reduction="sum")
        for logits, column in zip(outputs, labels.unbind(1), strict=True)
    ]
    return torch.stack(losses) / (labels != UNKNOWN).sum(0).clamp(min=1)


def augment(images: Tensor) -> Tensor:
    """Flip, shift, scale and brighten a whole batch where it lies; nothing here turns one hair colour into another.

    Args:
        images: (N, S, S, 3), 0..255.

    Returns:
        float32 (N, S, S, 3): half of them mirrored, scaled by up to 8 % and shifted by up to 6 % of the side, and
        brighter or darker by up to 8 %; edge pixels are repeated.
    """
    count, device = len(images), images.device

    def uniform(limit: float) -> Tensor:
        return (torch.rand(count, device=device) * 2 - 1) * limit

    scale = 1 + uniform(0.08)
    mirror = torch.where(torch.rand(count, device=device) < 0.5, -1.0, 1.0)
    zero = torch.zeros(count, device=device)
    # The grid spans -1..1, so 6 % of the side are 0.12.
    theta = torch.stack([scale * mirror, zero, uniform(0.12), zero, scale, uniform(0.12)], 1).view(-1, 2, 3)
    planes = images.permute(0, 3, 1, 2).float()
    grid = functional.affine_grid(theta, list(planes.shape), align_corners=False)
    moved = functional.grid_sample(planes, grid, padding_mode="border", align_corners=False)
    return (moved * (1 + uniform(0.08)).view(-1, 1, 1, 1)).clamp(0, 255).permute(0, 2, 3, 1)


def one_cycle(progress: float) -> float:
    """Learning rate at `progress` (0..1) of the training, as a share of its peak.

    Cosine up from 1/25, then down to 0 (Smith and Topin 2018, "super-convergence", https://arxiv.org/abs/1708.07120).
    """
    if progress < WARMUP:
        return 1 / 25 + (1 - 1 / 25) * (1 - math.cos(math.pi * progress / WARMUP)) / 2
    return (1 + math.cos(math.pi * (progress - WARMUP) / (1 - WARMUP))) / 2


class _Data:
    """One split on a device: labels resident; images too on a GPU with room, else read per batch from the shards."""

    def __init__(self, split: Split, device: torch.device) -> None:
        self.split = split
        self.device = device
        self.labels = torch.from_numpy(split.labels.astype(np.int64)).to(device)
        self.images: Tensor | None = None
        size = len(split) * split.image_size**2 * 3
        if device.type == "cuda" and size < torch.cuda.mem_get_info()[0] / 4:
            self.images = torch.empty((len(split), split.image_size, split.image_size, 3), dtype=torch.uint8,
                                      device=device)  # fmt: skip
            for start in range(0, len(split), 8192):
                self.images[start : start + 8192] = torch.from_numpy(split.take(slice(start, start + 8192)))

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images uint8 (n, S, S, 3) and labels int64 (n, 5) at `indices`, which lie on the CPU."""
        if self.images is not None:
            there = indices.to(self.device, non_blocking=True)
            return self.images[there], self.labels[there]
        images = torch.from_numpy(self.split.take(indices.numpy()))
        if self.device.type == "cuda":
            images = images.pin_memory()
        return images.to(self.device, non_blocking=True), self.labels[indices.to(self.device)]


def _evaluate(network: Network, data: _Data, cast: torch.autocast) -> tuple[float, dict[str, float | None], float]:
    """Validation loss, accuracy per attribute, mean accuracy; one synchronisation at the end."""
    network.eval()
    totals = torch.zeros(3, len(NAMES), device=data.device)
    with torch.inference_mode(), cast:
        for indices in torch.split(torch.arange(len(data.split)), 512):
            images, labels = data.batch(indices)
            outputs = network(images)
            known = labels != UNKNOWN
            right = torch.stack([logits.argmax(1) for logits in outputs], 1) == labels
            totals += torch.stack([masked_losses(outputs, labels) * known.sum(0), (right & known).sum(0), known.sum(0)])
    losses, right, known = totals.double().cpu().numpy()
    counted = known > 0
    accuracy = {name: float(right[i] / known[i]) if counted[i] else None for i, name in enumerate(NAMES)}
    means = (losses[counted] / known[counted]).mean(), (right[counted] / known[counted]).mean()
    return float(means[0]), accuracy, float(means[1])


def fit(
    train: Split,
    val: Split,
    settings: FitSettings,
    *,
    on_epoch: Callable[[Epoch], bool | None] | None = None,
    checkpoint: Path | None = None,
) -> FitResult:
    """Fit a network and keep the weights of the epoch with the lowest validation loss.

    Args:
        train: what is learned from.
        val: what decides when to stop and which epoch is best.
        settings: how to fit.
        on_epoch: called after each epoch; True stops.
        checkpoint: a safetensors file written whole after each epoch. If it is there, training goes on from it and
            ends (on a CPU) with the same weights as without the interruption.

    Raises:
        DataError: a split has no known label.
        DivergedError: the loss is not a number.
        UnavailableError: the device is absent.
    """
    for split, name in ((train, "train"), (val, "val")):
        if not (split.labels != UNKNOWN).any():
            raise DataError(f"the {name} split has no known label: annotate more images or enlarge data.{name}_split")
    device = choose_device(settings.device)
    cast = torch.autocast(device.type, torch.bfloat16, enabled=has_fast_bfloat16(device))
    torch.manual_seed(settings.seed)
    chosen = settings.hyperparameters
    network = Network(chosen.width, chosen.dropout).to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(
        network.parameters(), chosen.learning_rate, weight_decay=chosen.weight_decay, fused=True
    )
    weights = torch.tensor([chosen.loss_weights[name] for name in NAMES], device=device)
    weights /= weights.sum()
    history: list[Epoch] = []
    best_weights: dict[str, Tensor] = {}
    best = 0
    if checkpoint and checkpoint.exists():
        history, best, best_weights = _load_checkpoint(checkpoint, network, optimizer)

    train_data, val_data = _Data(train, device), _Data(val, device)
    steps = math.ceil(len(train) / settings.batch_size)
    progress = Progress((settings.epochs - len(history)) * len(train), "images")
    stopped = False
    while not stopped and len(history) < settings.epochs and len(history) - best < settings.patience:
        started = time.monotonic()
        number = len(history) + 1
        # All randomness of an epoch follows from its number, so that going on after a kill repeats it exactly.
        torch.manual_seed(settings.seed * 1_000_003 + number)
        network.train()
        total = torch.zeros((), device=device)
        # Equal batches rather than a small last one, whose batch statistics would be noise.
        for step, indices in enumerate(torch.randperm(len(train)).tensor_split(steps)):
            rate = chosen.learning_rate * one_cycle(((number - 1) * steps + step) / (steps * settings.epochs))
            for group in optimizer.param_groups:
                group["lr"] = rate
            images, labels = train_data.batch(indices)
            with cast:
                outputs = network(augment(images))
            loss = (masked_losses(outputs, labels) * weights).sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.detach()
            progress.advance(len(indices))
        train_loss = total.item() / steps
        trained = time.monotonic() - started
        val_loss, accuracy, mean_accuracy = _evaluate(network, val_data, cast)
        if not (math.isfinite(train_loss) and math.isfinite(val_loss)):
            raise DivergedError(
                f"the loss is not a number in epoch {number}: lower the learning rate ({chosen.learning_rate:g})"
            )
        epoch = Epoch(
            epoch=number,
            train_loss=train_loss,
            val_loss=val_loss,
            val_accuracy=accuracy,
            val_mean_accuracy=mean_accuracy,
            learning_rate=rate,
            seconds=time.monotonic() - started,
            images_per_s=len(train) / trained,
        )
        history.append(epoch)
        if settings.keep_last or best == 0 or val_loss < history[best - 1].val_loss:
            best = number
            best_weights = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
        if checkpoint:
            _save_checkpoint(checkpoint, network, optimizer, history, best, best_weights)
        stopped = bool(on_epoch and on_epoch(epoch))
    network.load_state_dict(best_weights)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return FitResult(network.cpu().eval(), history, history[best - 1], name)


def _save_checkpoint(
    path: Path,
    network: Network,
    optimizer: torch.optim.Optimizer,
    history: list[Epoch],
    best: int,
    best_weights: Mapping[str, Tensor],
) -> None:
    tensors = {f"network/{name}": tensor for name, tensor in network.state_dict().items()}
    tensors |= {f"best/{name}": tensor for name, tensor in best_weights.items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{number}/{name}": tensor for name, tensor in state.items()}
    told = json.dumps({"history": [asdict(epoch) for epoch in history], "best": best})
    partial = path.with_name(f".{path.name}.partial")  # the stage holds the lock: one writer
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial, {"fit": told})
    partial.replace(path)


def _load_checkpoint(
    path: Path, network: Network, optimizer: torch.optim.Optimizer
) -> tuple[list[Epoch], int, dict[str, Tensor]]:
    try:
        with safe_open(path, "pt") as file:
            told = json.loads(file.metadata()["fit"])
            tensors: dict[str, dict[str, Tensor]] = {}
            for key in file.keys():  # noqa: SIM118 (not a dict)
                part, _, name = key.partition("/")
                tensors.setdefault(part, {})[name] = file.get_tensor(key)
        history = [Epoch(**epoch) for epoch in told["history"]]
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        log.warning("the checkpoint %s cannot be read (%s): training starts from the beginning", path, error)
        return [], 0, {}
    network.load_state_dict(tensors["network"])
    state: dict[int, dict[str, Any]] = {}
    parameters = list(network.parameters())
    for key, tensor in tensors["optimizer"].items():
        number, _, name = key.partition("/")
        # In the layout of its parameter (channels-last), which the fused optimizer walks together with it.
        like = parameters[int(number)] if tensor.ndim else tensor
        state.setdefault(int(number), {})[name] = torch.empty_like(like, requires_grad=False).copy_(tensor)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    log.info("going on after epoch %d, from the checkpoint of an interrupted run", len(history))
    return history, int(told["best"]), tensors["best"]

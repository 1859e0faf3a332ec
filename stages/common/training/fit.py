"""The fit loop of every stage that trains: masked multi-head cross-entropy, Muon and AdamW, one cycle.

The weights of the last epoch are the result: the learning rate is then 0, and no epoch is chosen by its luck on the
validation split. In several processes (torchrun), the loop shares every batch among them.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.optim import AdamW, Optimizer

from stages.common.contract.errors import DataError, UnavailableError, UsageError
from stages.common.contract.logs import Progress, log
from stages.common.schema.attributes import UNKNOWN, names
from stages.common.schema.dataset import Split
from stages.common.schema.learned import Learned, answerable, learnable, learned_classes, masks, never_answered
from stages.common.training.augmentation import Augmentation
from stages.common.training.balance import corrections, label_weights
from stages.common.training.device import choose_device, has_fast_bfloat16
from stages.common.training.hyperparameters import FitSection, Hyperparameters
from stages.common.training.kept import keep, recover
from stages.common.training.loader import Loader
from stages.common.training.loss import Losses
from stages.common.training.muon import Muon
from stages.common.training.network import Convolution, Network
from stages.common.training.step import Step

WARMUP = 0.25
"""Share of the steps in which the learning rate rises."""

VAL_BATCH = 128
"""Images at once in validation; 512 would take more memory than training does."""

LABEL_SMOOTHING = 0.05
"""Probability that is spread over all classes in training (Szegedy et al. 2016, https://arxiv.org/abs/1512.00567)."""


class DivergedError(UsageError):
    """The loss is no longer a number; it would happen again with the same parameters."""


@dataclass(frozen=True)
class FitSettings:
    """Settings of a training.

    Attributes:
        hyperparameters: the values that a search chooses.
        augmentation: random changes of the training images.
        epochs: passes over the training images; the length of the learning-rate cycle.
        seed: of weights, order, augmentation and dropout; on a CPU the same seed gives the same weights.
        device: auto, cpu or cuda.
        threads: of this process on a CPU; 0 means one per available core.
        compiled: whether a step is compiled first (`stages.common.training.step.Step`).
    """

    hyperparameters: Hyperparameters
    augmentation: Augmentation
    epochs: int
    seed: int
    device: str = "auto"
    threads: int = 0
    compiled: bool = False

    @classmethod
    def of(
        cls, section: FitSection, hyperparameters: Hyperparameters, augmentation: Augmentation, **more: Any
    ) -> "FitSettings":
        """What a section and those of others say; `more` are further attributes."""
        return cls(hyperparameters, augmentation, section.epochs, section.seed, section.device, **more)


Known = dict[str, float | None]
"""Attribute -> a share of its known labels, None where none is known."""


@dataclass(frozen=True)
class Epoch:
    """Losses and accuracies of one epoch.

    Attributes:
        epoch: 1 for the first.
        train_loss: weighted as the settings say, with label smoothing, over augmented images.
        val_loss: cross-entropy per known label in nats, averaged over attributes, unweighted: trials with different
            loss weights are comparable. Labels of classes that training has not seen are left out.
        val_accuracy: attribute -> share of right answers among known labels, None without labels, or if the attribute
            is never answered (`stages.common.schema.learned`).
        val_mean_accuracy: mean of these.
        val_balanced_accuracy: attribute -> mean share over the classes with labels, None with fewer than two.
        val_mean_balanced_accuracy: mean of these, None without any.
        learning_rate: at the end of the epoch, as a share of its peak.
        seconds: with validation.
        images_per_s: training images a second, without validation.
    """

    epoch: int
    train_loss: float
    val_loss: float
    val_accuracy: Known
    val_mean_accuracy: float
    val_balanced_accuracy: Known
    val_mean_balanced_accuracy: float | None
    learning_rate: float
    seconds: float
    images_per_s: float


@dataclass(frozen=True)
class FitResult:
    """A fitted network, on the CPU and in evaluation mode.

    Attributes:
        network: the network.
        history: every epoch.
        device: `cpu` or the GPU's name.
        hyperparameters: the values used: with half a batch if memory did not suffice for a whole one.
    """

    network: Network
    history: list[Epoch]
    device: str
    hyperparameters: Hyperparameters


def one_cycle(progress: float) -> float:
    """Learning rate at `progress` (0..1) of the training, as a share of its peak.

    Cosine up from 1/25, then down to 0 (Smith and Topin 2018, "super-convergence", https://arxiv.org/abs/1708.07120).
    """
    if progress < WARMUP:
        return 1 / 25 + (1 - 1 / 25) * (1 - math.cos(math.pi * progress / WARMUP)) / 2
    return (1 + math.cos(math.pi * (progress - WARMUP) / (1 - WARMUP))) / 2


def make_optimizers(network: Network, chosen: Hyperparameters) -> tuple[Muon, AdamW]:
    """Muon for the convolutions, AdamW for all else.

    Muon orthogonalises the momentum of a matrix (Jordan 2024, https://kellerjordan.github.io/posts/muon/), so that all
    its directions learn equally fast. After 20 epochs of the 1,000 faces, .976 to .981 of the held-out labels are
    right; with AdamW for all, .962 to .973 (bench/README.md).
    """
    convolutions = [module.weight for module in network.modules() if isinstance(module, Convolution)]
    rest = [
        parameter
        for parameter in network.parameters()
        if all(parameter is not convolution for convolution in convolutions)
    ]
    of_muon, of_adamw = (torch.tensor(peak, device=network.heads.bias.device) for peak in peak_rates(chosen))
    return (
        Muon(convolutions, of_muon, chosen.weight_decay),
        AdamW(rest, of_adamw, weight_decay=chosen.weight_decay, fused=True, capturable=True),
    )


def peak_rates(chosen: Hyperparameters) -> tuple[float, float]:
    """The highest learning rates of both optimizers."""
    return chosen.muon_learning_rate, chosen.learning_rate


class _Validation:
    """The validation split, its labels that can be compared with answers, and the corrections of the logits."""

    def __init__(self, val: Split, learned: Learned, corrected: Sequence[Tensor], device: torch.device) -> None:
        self.data = Loader(replace(val, labels=answerable(val.attributes, val.labels, learned)), device)
        can_be_right = learnable(val.attributes, val.labels, learned)
        self.with_loss = torch.from_numpy(can_be_right.astype(np.int64)).to(device)
        self.losses_of = Losses(val.attributes, device)
        unseen = masks(val.attributes, learned)
        self.added = [(torch.from_numpy(mask) + more).to(device) for mask, more in zip(unseen, corrected, strict=True)]
        self.losses = (can_be_right != UNKNOWN).sum(0)
        self.cells = np.array(
            [(at, of) for at, attribute in enumerate(val.attributes) for of in range(len(attribute.classes))]
        ).T
        self.column, self.number = torch.from_numpy(self.cells).to(device)
        column, number = self.cells
        self.support = (self.data.split.labels[:, column] == number).sum(0)

    def measure(self, network: Network, cast: torch.autocast) -> tuple[float, Known, Known]:
        """Loss, and per attribute accuracy and balanced accuracy; one synchronisation at the end."""
        network.eval()
        totals = torch.zeros(len(self.losses) + len(self.support), device=self.data.device)
        batches = torch.split(torch.arange(len(self.data.split)), VAL_BATCH)
        with torch.inference_mode(), cast:
            for batch, (images, labels) in zip(batches, self.data.batches(batches), strict=True):
                outputs = tuple(logits + more for logits, more in zip(network(images), self.added, strict=True))
                right = torch.stack([logits.argmax(1) for logits in outputs], 1) == labels
                found = right[:, self.column] & (labels[:, self.column] == self.number)
                losses = self.losses_of(outputs, self.with_loss[batch.to(self.data.device)])
                totals += torch.cat([losses, found.sum(0)])
        lost, hits = np.split(totals.double().cpu().numpy(), [len(self.losses)])
        accuracy, balanced = Known(), Known()
        for at, name in enumerate(names(self.data.split.attributes)):
            mine = (self.cells[0] == at) & (self.support > 0)
            recalls, count = hits[mine] / self.support[mine], self.support[mine].sum()
            accuracy[name] = float(hits[mine].sum() / count) if mine.any() else None
            balanced[name] = float(recalls.mean()) if mine.sum() > 1 else None
        told = self.losses > 0
        return float((lost[told] / self.losses[told]).mean()), accuracy, balanced


def _mean(values: Known) -> float | None:
    known = [value for value in values.values() if value is not None]
    return float(np.mean(known)) if known else None


def fit(
    train: Split,
    val: Split,
    settings: FitSettings,
    *,
    on_epoch: Callable[[Epoch], bool | None] | None = None,
    checkpoint: Path | None = None,
) -> FitResult:
    """Fit a network. If the GPU's memory does not suffice, try once more with half the batch.

    Args:
        train: the training split.
        val: the validation split, measured after each epoch; it decides nothing here.
        settings: settings of the training.
        on_epoch: called after each epoch; True stops.
        checkpoint: a safetensors file, written whole after each epoch. If it is there, training continues from it and
            ends (on a CPU) with the same weights as without the interruption.

    Raises:
        DataError: no attribute has training labels of two classes, or the val split has no label of such a class.
        DivergedError: the loss is not a number.
        UnavailableError: the device is absent, or its memory does not suffice.
        UsageError: a loss weight names an unknown attribute.
    """
    attributes = train.attributes
    learned = learned_classes(attributes, train.labels)
    if len(never_answered(attributes, learned)) == len(attributes):
        raise DataError(
            "no attribute has labels of two classes in the train split: annotate more images or enlarge "
            "data.train_split"
        )
    if not (learnable(attributes, val.labels, learned) != UNKNOWN).any():
        raise DataError(
            "the val split has no label of a class that training has seen: annotate more images or enlarge "
            "data.val_split"
        )
    train = replace(train, labels=answerable(attributes, train.labels, learned))  # one class teaches nothing
    chosen = settings.hyperparameters.complete(attributes)
    for last in (dist.is_initialized(), True):  # one of several processes cannot begin again alone
        try:
            return _fit(train, val, replace(settings, hyperparameters=chosen), on_epoch, checkpoint)
        except torch.OutOfMemoryError:
            if last:
                break
            log.warning("out of GPU memory with %d images a step: trying half of that", chosen.batch_size)
        torch.cuda.empty_cache()
        chosen = chosen.model_copy(update={"batch_size": max(1, chosen.batch_size // 2)})
    raise UnavailableError(
        f"out of GPU memory with {chosen.batch_size} images a step: lower batch_size, width or data.image_size, or see "
        "what else uses this GPU (nvidia-smi)"
    )


def _fit(
    train: Split,
    val: Split,
    settings: FitSettings,
    on_epoch: Callable[[Epoch], bool | None] | None,
    checkpoint: Path | None,
) -> FitResult:
    device = choose_device(settings.device, settings.threads)
    rank, processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    bfloat16 = has_fast_bfloat16(device)
    if device.type == "cuda" and not bfloat16:
        log.warning("%s has no bfloat16: using float32, which takes longer", torch.cuda.get_device_name(device))
    cast = torch.autocast(device.type, torch.bfloat16, enabled=bfloat16)
    chosen = settings.hyperparameters

    def begin() -> tuple[Network, tuple[Muon, AdamW]]:
        torch.manual_seed(settings.seed)
        network = Network(train.attributes, chosen.width, chosen.dropout).to(device)
        return network, make_optimizers(network, chosen)

    network, optimizers = begin()
    history: list[Epoch] = []
    if checkpoint:
        try:
            history, batch_size = _load_checkpoint(checkpoint, network, optimizers)
        except Exception as error:
            log.warning("%s belongs to another training (%s): starting again", checkpoint, " ".join(str(error).split()))
            network, optimizers = begin()
        else:
            if history:  # with half a batch if memory did not suffice for a whole one
                chosen = chosen.model_copy(update={"batch_size": min(chosen.batch_size, batch_size)})
    weights = torch.tensor([chosen.loss_weights[name] for name in names(train.attributes)], device=device)
    weights /= weights.sum()
    if 0 < len(history) < settings.epochs:  # results of worker processes come back in the same way
        log.info("continuing after epoch %d, from its checkpoint", len(history))
    learner: nn.Module = DistributedDataParallel(network) if processes > 1 else network

    corrected = corrections(train, chosen.class_balance)
    counting = label_weights(train, chosen.class_balance) if chosen.class_balance else []
    train_data, validation = (
        Loader(train, device),
        _Validation(val, learned_classes(train.attributes, train.labels), corrected, device),
    )
    learn = Step(
        learner, optimizers, settings.augmentation, Losses(train.attributes, device, LABEL_SMOOTHING, counting),
        bfloat16=bfloat16,
        captured=processes == 1 and train_data.images is not None,
        compiled=settings.compiled,
    )  # fmt: skip
    is_known = torch.from_numpy(train.labels != UNKNOWN)
    steps = math.ceil(len(train) / chosen.batch_size)
    progress = Progress((settings.epochs - len(history)) * len(train), "images")
    stopped = False
    while not stopped and len(history) < settings.epochs:
        started = time.monotonic()
        number = len(history) + 1
        # All randomness of an epoch follows from its number, so a run that continues after a kill repeats it exactly.
        epoch_seed = settings.seed * 1_000_003 + number
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(epoch_seed))
        torch.manual_seed(epoch_seed + (1 + rank) * 2**52)  # of augmentation and dropout
        network.train()
        learn.total.zero_()
        # Equal batches rather than a small last one, whose batch statistics would be noise.
        wholes = order.tensor_split(steps)
        counts = torch.stack([is_known[whole].sum(0) for whole in wholes]).clamp(min=1)
        # DistributedDataParallel takes the mean of the processes' gradients, where their sum is that of the batch.
        shares = (weights / counts.to(device)) * processes
        batches = [whole.tensor_split(processes)[rank] for whole in wholes]
        for at, (images, labels) in enumerate(train_data.batches(batches)):
            share = one_cycle(((number - 1) * steps + at) / (steps * settings.epochs))
            learn(images, labels, shares[at], [peak * share for peak in peak_rates(chosen)])
            progress.advance(len(wholes[at]))
        if processes > 1:
            dist.all_reduce(learn.total)
        train_loss = learn.total.item() / steps / processes
        trained = time.monotonic() - started
        val_loss, accuracy, balanced = validation.measure(network, cast)
        if not (math.isfinite(train_loss) and math.isfinite(val_loss)):
            raise DivergedError(
                f"the loss is not a number in epoch {number}: lower learning_rate ({chosen.learning_rate:g}) or "
                f"muon_learning_rate ({chosen.muon_learning_rate:g})"
            )
        epoch = Epoch(
            epoch=number,
            train_loss=train_loss,
            val_loss=val_loss,
            val_accuracy=accuracy,
            val_mean_accuracy=_mean(accuracy) or 0.0,
            val_balanced_accuracy=balanced,
            val_mean_balanced_accuracy=_mean(balanced),
            learning_rate=share,
            seconds=time.monotonic() - started,
            images_per_s=len(train) / trained,
        )
        history.append(epoch)
        if checkpoint and rank == 0:
            _save_checkpoint(checkpoint, network, optimizers, history, chosen.batch_size)
        stopped = bool(on_epoch and on_epoch(epoch))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    network.cpu().eval()
    with torch.no_grad():
        network.heads.bias.add_(torch.cat(corrected))
    return FitResult(network, history, name, chosen)


def _save_checkpoint(
    path: Path, network: Network, optimizers: Sequence[Optimizer], history: list[Epoch], batch_size: int
) -> None:
    tensors = {f"network/{name}": tensor for name, tensor in network.state_dict().items()}
    for which, optimizer in enumerate(optimizers):
        for number, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{which}/{number}/{name}": tensor for name, tensor in state.items()}
    keep(path, tensors, {"history": [asdict(epoch) for epoch in history], "batch_size": batch_size})


def _load_checkpoint(path: Path, network: Network, optimizers: Sequence[Optimizer]) -> tuple[list[Epoch], int]:
    """Load a checkpoint into `network` and `optimizers`, and return its epochs and batch size.

    There are no epochs if it is absent or damaged.

    Raises:
        Exception: it is whole but belongs to another training; `network` and `optimizers` may be loaded in part.
    """
    found = recover(path)
    if found is None:
        return [], 0
    tensors, told = found
    weights: dict[str, Tensor] = {}
    states: list[dict[int, dict[str, Tensor]]] = [{} for _ in optimizers]
    for key, tensor in tensors.items():
        part, _, name = key.partition("/")
        if part == "network":
            weights[name] = tensor
        else:
            which, number, name = name.split("/")
            states[int(which)].setdefault(int(number), {})[name] = tensor
    history = [Epoch(**epoch) for epoch in told["history"]]
    network.load_state_dict(weights)
    for optimizer, state in zip(optimizers, states, strict=True):
        group = optimizer.state_dict()["param_groups"]
        for at, parameter in enumerate(optimizer.param_groups[0]["params"]):
            for name, tensor in state[at].items():
                if tensor.ndim and tensor.shape != parameter.shape:
                    raise ValueError(f"{name} has shape {list(tensor.shape)}, not {list(parameter.shape)}")
        optimizer.load_state_dict({"state": state, "param_groups": group})
    return history, int(told["batch_size"])

"""One step of training, from a batch to new weights; on a GPU it can be a single CUDA graph.

In plain PyTorch, a step of 64 images is some 500 kernels; an H100 works for 1.2 of the 11.5 ms that their launches
take. A graph is launched at once. It repeats the captured kernels on the same memory: values that differ from step to
step are written there before, and no part of a step may read a number from the GPU.
"""

import contextlib
import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stages.common.contract.logs import log
from stages.common.training.augment import augment
from stages.common.training.augmentation import Augmentation
from stages.common.training.loss import Losses

WARM_UP_STEPS = 3
"""Before a capture: https://docs.pytorch.org/docs/stable/notes/cuda.html#whole-network-capture."""


Graph = tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...]]
"""A captured step, and its memory for images, labels and shares."""


class Step:
    """Augments a batch, and moves weights against the gradient of its loss.

    A graph draws the same random numbers as plain PyTorch: each replay continues seed and position of its generator.

    Attributes:
        total: sum of the losses of all steps, float32 () on the device; its reader resets it.
        graphs: images of a batch -> the graph of a step; None if kernels are launched one by one.
    """

    def __init__(
        self,
        learner: nn.Module,
        optimizers: Sequence[Optimizer],
        augmentation: Augmentation,
        losses_of: Losses,
        *,
        bfloat16: bool,
        captured: bool = False,
        compiled: bool = False,
    ) -> None:
        """Prepare.

        Args:
            learner: the network, or a wrapper that shares its gradients with other processes; already on the device.
            optimizers: of all its parameters; their learning rates are tensors on the device.
            augmentation: random changes of images.
            losses_of: the loss of every attribute.
            bfloat16: whether to compute in bfloat16.
            captured: whether to capture a graph for every batch size. It needs a GPU, and a single process. If a graph
                cannot be captured, a warning says so, and steps run without it.
            compiled: whether to compile augmentation, network and loss for every batch size. It needs a C++ compiler,
                and some time before the first step. If they cannot be compiled, a warning says so, likewise.
        """
        self.learner = learner
        self.optimizers = optimizers
        self.augmentation = augmentation
        self.losses_of = losses_of
        device = next(learner.parameters()).device
        self.total = torch.zeros((), device=device)
        self.graphs: dict[int, Graph] | None = {} if captured else None
        self.compiled = torch.compile(self._loss, dynamic=False) if compiled else None
        # A graph must not use weights that were cast before it; and within a step, none is used twice.
        self.cast = torch.autocast(device.type, torch.bfloat16, enabled=bfloat16, cache_enabled=False)

    def __call__(self, images: Tensor, labels: Tensor, shares: Tensor, rates: Sequence[float]) -> None:
        """Learn from a batch.

        Args:
            images: uint8 (N, S, S, 3) on the device, like the other arguments.
            labels: int64 (N, A), -1 where unknown.
            shares: float32 (A,), weight of each attribute's summed loss in the loss.
            rates: learning rates of the optimizers.
        """
        for optimizer, rate in zip(self.optimizers, rates, strict=True):
            optimizer.param_groups[0]["lr"].fill_(rate)
        if graph := self._graph(images, labels, shares):
            captured, places = graph
            for place, values in zip(places, (images, labels, shares), strict=True):
                place.copy_(values)
            captured.replay()
        else:
            self._learn(images, labels, shares)

    def _graph(self, *batch: Tensor) -> Graph | None:
        """The graph for batches of this size; it is captured if there is none yet."""
        if self.graphs is None:
            return None
        size = len(batch[0])
        if size not in self.graphs:
            try:
                self.graphs[size] = self._capture(batch)
            except torch.OutOfMemoryError:
                raise  # with fewer images it may succeed
            except RuntimeError as error:
                why = str(error).partition("\n")[0]
                log.warning("no CUDA graph can be captured of a step, which is slower without (%s)", why)
                self.graphs = None
                return None
        return self.graphs[size]

    def _capture(self, batch: tuple[Tensor, ...]) -> Graph:
        places = tuple(part.clone() for part in batch)
        with self.undone():
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(WARM_UP_STEPS):
                    self._learn(*places)
            torch.cuda.current_stream().wait_stream(side)
        captured = torch.cuda.CUDAGraph()
        # graphs are replayed one after the other, and no result stays in their memory, so all use the same memory
        pool = next((graph.pool() for graph, _ in (self.graphs or {}).values()), None)
        drawn = torch.cuda.get_rng_state()
        try:
            # PyTorch 2.11 recovers only from a successful capture
            with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(captured, pool=pool):
                self._learn(*places)
        except RuntimeError as error:
            self._draw_again(drawn)
            if isinstance(error.__context__, torch.OutOfMemoryError):  # then the capture cannot end well, either
                raise error.__context__ from None
            raise
        return captured, places

    def _draw_again(self, drawn: Tensor) -> None:
        """Let the GPU's generator continue from its position after a failed capture.

        PyTorch 2.11 assumes that it is still capturing, and refuses to draw; a new state has no capture.
        """
        device = self.total.device
        generator = torch.cuda.default_generators[device.index]
        generator.graphsafe_set_state(torch.Generator(device).graphsafe_get_state())
        generator.set_state(drawn)

    def _learn(self, images: Tensor, labels: Tensor, shares: Tensor) -> None:
        self._forget_gradients()
        loss = self._compiled_loss(images, labels, shares)
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer in self.optimizers:
            optimizer.step()
        self.total += loss.detach()

    def _loss(self, images: Tensor, labels: Tensor, shares: Tensor) -> Tensor:
        with self.cast:
            outputs = self.learner(augment(images, self.augmentation))
        return (self.losses_of(outputs, labels) * shares).sum()

    def _compiled_loss(self, *batch: Tensor) -> Tensor:
        """The same loss, compiled if that is wanted and possible."""
        if self.compiled is None:
            return self._loss(*batch)
        try:
            return self.compiled(*batch)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            why = str(error).partition("\n")[0]
            log.warning("the step cannot be compiled and runs as it is; train.compile needs a C++ compiler (%s)", why)
            self.compiled = None
            return self._loss(*batch)

    def _forget_gradients(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    @contextlib.contextmanager
    def undone(self) -> Iterator[None]:
        """Undo at the end all changes of weights and of random numbers inside."""
        before = [tensor.detach().clone() for tensor in self._changing()]
        device = self.total.device
        try:
            with torch.random.fork_rng([device] if device.type == "cuda" else []):
                yield
        finally:
            self._forget_gradients()
            with torch.no_grad():
                for now, was in itertools.zip_longest(self._changing(), before):
                    now.zero_() if was is None else now.copy_(was)

    def _changing(self) -> list[Tensor]:
        """Tensors that a step changes; those of the optimizers come last, and are absent or 0 before the first step."""
        states = [state for optimizer in self.optimizers for state in optimizer.state.values()]
        remembered = [tensor for state in states for tensor in state.values()]
        return [*self.learner.parameters(), *self.learner.buffers(), self.total, *remembered]

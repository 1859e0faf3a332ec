"""The loss of the fit loop: cross-entropy of every attribute, over the labels that are known."""

from collections.abc import Sequence

import torch
from torch import Tensor

from stages.common.schema.attributes import Attributes


class Losses:
    """Cross-entropy of every attribute, summed over its known labels; for all attributes at once.

    The caller divides by the number of labels for the mean. Processes that share a batch divide by the number of the
    whole batch: with 64 images, half of their labels unknown, the mean of eight means over eight images is off by half.
    """

    def __init__(
        self,
        attributes: Attributes,
        device: torch.device,
        smoothing: float = 0.0,
        weights: Sequence[Tensor] = (),
    ) -> None:
        """Prepare for A attributes.

        Args:
            attributes: attributes of the logits.
            device: their device.
            smoothing: probability that is spread over all classes.
            weights: weights of the classes of each attribute, (classes,); empty: every label counts alike.
        """
        counts = [len(attribute.classes) for attribute in attributes]
        most = max(counts)
        targets = torch.zeros(len(counts), most + 1, most)  # [attribute, label]; last comes -1, an unknown label
        for number, count in enumerate(counts):
            spread = (1 - smoothing) * torch.eye(count) + smoothing / count
            targets[number, :count, :count] = spread * weights[number].cpu() if weights else spread
        self.targets = targets.to(device)
        self.columns = torch.arange(len(counts), device=device)
        places = [number * most + at for number, count in enumerate(counts) for at in range(count)]
        self.places = torch.tensor(places, device=device)

    def __call__(self, outputs: Sequence[Tensor], labels: Tensor) -> Tensor:
        """Sum up a batch.

        Args:
            outputs: logits per attribute, (N, classes).
            labels: int64 (N, A), -1 where unknown.

        Returns:
            float32 (A,); 0 if no label is known, so the attribute does not change loss or gradient.
        """
        joint = torch.cat(list(outputs), 1).float()
        count, most = len(self.columns), self.targets.shape[2]
        padded = joint.new_full((len(joint), count * most), -torch.inf).index_copy(1, self.places, joint)
        logarithms = padded.view(-1, count, most).log_softmax(2)
        targets = self.targets[self.columns, labels]
        # the probability of a class with target 0 may be 0
        return -(targets * torch.where(targets > 0, logarithms, 0)).sum((0, 2))

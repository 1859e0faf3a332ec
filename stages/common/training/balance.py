"""Labels of rare classes that count more in training, and what takes that back from the logits afterwards."""

import numpy as np
import torch
from torch import Tensor

from stages.common.schema.dataset import Split
from stages.common.schema.learned import class_shares


def label_weights(train: Split, balance: float) -> list[Tensor]:
    """The weight of a label of each class, per attribute float32 (classes,); 1 on average over the known labels.

    Args:
        train: what is learned from.
        balance: 0: every label counts alike; 1: every class does; between: as its share to the power of -balance.
    """
    found = []
    for shares in class_shares(train.attributes, train.labels):
        weights = np.where(shares > 0, shares, 1) ** -balance
        found.append(torch.from_numpy(weights / ((weights * shares).sum() or 1)).float())
    return found


def corrections(train: Split, balance: float) -> list[Tensor]:
    """Terms to add to the logits so that their softmax is the probability at the true frequencies; as above.

    A network whose labels count w(c) times learns the logarithm of w(c) times the probability of c, but for a constant
    (King and Zeng 2001, "Logistic Regression in Rare Events Data", https://doi.org/10.1093/oxfordjournals.pan.a004868,
    prior correction). So what is answered with which confidence does not depend on how it was trained: a rare class is
    favoured by `stages.train.decide`, and there alone.

    Logit adjustment in the loss (Menon et al. 2021, https://arxiv.org/abs/2007.07314) would add the same to the logits
    in training, too. What the model then carries is trained as without, but for where the heads' biases begin.
    """
    shares = class_shares(train.attributes, train.labels)
    return [torch.from_numpy(balance * np.log(np.where(share > 0, share, 1))).float() for share in shares]

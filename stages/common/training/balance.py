"""Class balance: labels of rare classes count more in training, and the logits are corrected for it afterwards."""

import numpy as np
import torch
from torch import Tensor

from stages.common.schema.dataset import Split
from stages.common.schema.learned import class_shares


def label_weights(train: Split, balance: float) -> list[Tensor]:
    """The weight of a label of each class, per attribute float32 (classes,); 1 on average over the known labels.

    Args:
        train: the training split.
        balance: 0: every label counts alike; 1: every class counts alike; between: share to the power of -balance.
    """
    found = []
    for shares in class_shares(train.attributes, train.labels):
        weights = np.where(shares > 0, shares, 1) ** -balance
        found.append(torch.from_numpy(weights / ((weights * shares).sum() or 1)).float())
    return found


def corrections(train: Split, balance: float) -> list[Tensor]:
    """Terms to add to the logits so that their softmax is the probability at the true frequencies; arguments as above.

    A network whose labels count w(c) times learns the logarithm of w(c) times the probability of c, up to a constant
    (King and Zeng 2001, "Logistic Regression in Rare Events Data", https://doi.org/10.1093/oxfordjournals.pan.a004868,
    prior correction). So answers and confidences do not depend on the balance: only `stages.train.decide` favours a
    rare class.

    Logit adjustment in the loss (Menon et al. 2021, https://arxiv.org/abs/2007.07314) would add the same terms to the
    logits in training, too. Then the training would not differ, except in the initial biases of the heads.
    """
    shares = class_shares(train.attributes, train.labels)
    return [torch.from_numpy(balance * np.log(np.where(share > 0, share, 1))).float() for share in shares]

"""Which hyperparameters mattered in a search."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata
from sklearn.ensemble import RandomForestRegressor
from sklearn.inspection import permutation_importance

from stages.hyperopt.trials import Trial, flatten, ranked

MIN_TRIALS = 8
"""Trials below which a forest only tells what chance brought together."""


@dataclass(frozen=True)
class Importance:
    """The importance of each hyperparameter.

    Attributes:
        shares: label -> share of the whole importance, the largest first; they sum to 1. Empty if it cannot be told.
        explained: share of the differences in rank between trials that the forest foretells for trials that it has not
            seen (R squared, out of bag); None if it cannot be told.
        note: why it cannot be told, or how far it can, in one line.
    """

    shares: dict[str, float]
    explained: float | None
    note: str


def measure_importance(trials: Sequence[Trial], seed: int) -> Importance:
    """Permutation importance in a random forest that foretells a trial's rank from its hyperparameters.

    A forest as the model of the search as in Hutter et al. 2014 (https://proceedings.mlr.press/v32/hutter14.html), and
    what it loses when one hyperparameter is shuffled (Breiman 2001). Ranks, for the loss of a hopeless trial has no
    limit: trials trained longer come first, then those with a lower loss; those that failed are the last.

    Args:
        trials: of one search.
        seed: of forest and shuffling.
    """
    labels = list(flatten(trials[0].hyperparameters))
    values = np.array([list(flatten(trial.hyperparameters).values()) for trial in trials], np.float64)
    ranks = rankdata(ranked(trials))
    if len(trials) < MIN_TRIALS or len(np.unique(ranks)) == 1:
        return Importance({}, None, f"too few trials ({len(trials)}) to tell which hyperparameters matter")
    forest = RandomForestRegressor(100, min_samples_leaf=2, max_features=0.5, oob_score=True, random_state=seed)
    forest.fit(values, ranks)
    lost = permutation_importance(forest, values, ranks, n_repeats=10, random_state=seed).importances_mean.clip(min=0)
    explained = float(forest.oob_score_)
    if explained <= 0 or not lost.any():
        return Importance({}, explained, f"{len(trials)} trials do not show which hyperparameters matter")
    shares = sorted(zip((lost / lost.sum()).tolist(), labels, strict=True), reverse=True)
    note = f"a forest fitted to {len(trials)} trials predicts {explained:.0%} of the differences in rank between others"
    return Importance({label: share for share, label in shares}, explained, note)

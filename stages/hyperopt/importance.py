"""The importance of hyperparameters in a search."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata
from sklearn.ensemble import RandomForestRegressor
from sklearn.inspection import permutation_importance

from stages.hyperopt.trials import Trial, flatten, ranked

MIN_TRIALS = 8
"""Least number of trials; with fewer, a forest shows only chance."""


@dataclass(frozen=True)
class Importance:
    """The importance of each hyperparameter.

    Attributes:
        shares: label -> share of the whole importance, the largest first; they sum to 1. Empty if unknown.
        explained: share of the differences in rank that the forest predicts for unseen trials (R squared, out of bag);
            None if unknown.
        note: why the importance is unknown, or how reliable it is, in one line.
    """

    shares: dict[str, float]
    explained: float | None
    note: str


def measure_importance(trials: Sequence[Trial], seed: int) -> Importance:
    """Permutation importance in a random forest that predicts a trial's rank from its hyperparameters.

    The forest is a model of the search as in Hutter et al. 2014 (https://proceedings.mlr.press/v32/hutter14.html). The
    importance of a hyperparameter is the loss of the forest when its values are shuffled (Breiman 2001). Ranks are used
    because the loss of a hopeless trial has no limit: trials trained longer come first, then those with a lower loss;
    failed trials come last.

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

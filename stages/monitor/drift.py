"""Data drift: compare new images with the reference, the images on which the champion was measured.

The new images of every lot are tested on their own, because many clean lots must not dilute one drifted lot. All are
also tested together, because a small drift of all lots, or lots of few images, show only in the sum. The tests are:

    statistics of pixels, confidences per attribute, directions of the embeddings   Kolmogorov-Smirnov test [1]
    predicted classes per attribute    Fisher's exact test of every class against the rest, which is valid for small
                                       counts, too; the smallest p times the number of tests
    all of them                        population stability index, less its mean by chance alone [2]

A signal has drifted if its change is significant and large enough (PSI). All p of a check, over signals and lots, are
corrected together after Holm [3]. The answer is one yes or no, so the probability of any false alarm must be bounded.
Benjamini and Hochberg's correction would bound the share of false alarms among all, which lets more of them in as soon
as one signal has drifted. Holm's correction is valid for dependent tests, as these are.

[1] Hodges 1958, asymptotic; scipy.stats.ks_2samp. With ties and small samples it reports drift less often, not more.
[2] Yurdakul & Naranjo 2020, Statistical properties of the population stability index: without drift PSI is
    about (1/n + 1/m) times a chi-squared value with cells - 1 degrees of freedom: .14 in the mean for n 100, m 200.
[3] Holm 1979, A simple sequentially rejective multiple test procedure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from stages.common.inference.features import Features
from stages.common.inference.partitions import (
    count,
    expected_weights,
    known_values,
    partition_of,
    signals,
    weights_of,
)
from stages.common.registry.monitor_settings import MonitorSection
from stages.common.schema.attributes import Attributes
from stages.common.schema.statistics import holm

FOUND, NONE, NOT_ENOUGH = "found", "none", "not enough data"
ALL = "all new images"
"""Stands for all lots, where drift shows only in all together. A further lot does not make it a new finding."""
DIRECTIONS = 8
"""Number of principal components of the reference's embeddings that are tested."""
EMBEDDING = "embedding_"


@dataclass(frozen=True)
class Signal:
    """One signal of the new images of one lot, or of all, against the reference.

    Attributes:
        lot: name of the lot, or `ALL`.
        signal: column of `signals`, or `embedding_<k>`.
        then: mean in the reference; the share of class `moved`, if there is one.
        now: the same in the lot.
        psi: population stability index beyond chance, at least 0; None without enough data, like the next three.
        distance: Kolmogorov-Smirnov distance; for classes, the largest difference of shares; 0-1.
        p: of the test, 0-1.
        p_corrected: after Holm over all tests of the check.
        drifted: whether it is significant and large enough.
        moved: the class with the largest change.
        note: why there is not enough data.
    """

    lot: str
    signal: str
    then: float | None = None
    now: float | None = None
    psi: float | None = None
    distance: float | None = None
    p: float | None = None
    p_corrected: float | None = None
    drifted: bool = False
    moved: str = ""
    note: str = ""


@dataclass(frozen=True)
class Drift:
    """The result of a check for drift.

    Attributes:
        verdict: `FOUND`, `NONE` or `NOT_ENOUGH`.
        lots: each lot with new images (and `ALL`, if there are several) -> its verdict.
        concerned: the lots that drifted on their own; `ALL` if only all together drifted.
        tests: all tests, the strongest first.
        now: each entry of `lots` -> the tested table; `then`: that of the reference.
    """

    verdict: str
    lots: Mapping[str, str]
    concerned: Sequence[str]
    tests: Sequence[Signal]
    then: pd.DataFrame
    now: Mapping[str, pd.DataFrame]


def directions(embeddings: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean (D,) and the first principal axes (D, at most `DIRECTIONS`) of the finite embeddings among (N, D)."""
    finite = embeddings[np.isfinite(embeddings).all(axis=1)].astype(np.float64)
    if len(finite) < 2:
        return np.zeros(embeddings.shape[1]), np.zeros((embeddings.shape[1], 0))
    mean = finite.mean(axis=0)
    _, size, axes = np.linalg.svd(finite - mean, full_matrices=False)
    told = size > size[:1] * 1e-6  # smaller ones are rounding errors
    return mean, axes[told][:DIRECTIONS].T


def table_of(
    attributes: Attributes, features: Features, mean: npt.NDArray[np.float64], axes: npt.NDArray[np.float64]
) -> pd.DataFrame:
    """`signals` and the embeddings along `axes`; images with equal embeddings are kept once.

    A picture that is there a hundred times is one observation; a test that counts a hundred finds drift everywhere.
    """
    embeddings = np.asarray(features.embeddings, np.float64)
    raw = pd.DataFrame(np.hstack([embeddings, *features.probabilities.values()]))
    kept = ~pd.concat([raw, pd.DataFrame(dict(features.statistics))], axis=1).duplicated()
    along = {f"{EMBEDDING}{number}": values for number, values in enumerate(((embeddings - mean) @ axes).T, 1)}
    return signals(attributes, features).assign(**along)[kept.to_numpy()].reset_index(drop=True)


def find_drift(
    attributes: Attributes, reference: Features, lots: Mapping[str, Features], settings: MonitorSection
) -> Drift:
    """Compare the new images of every lot, and all of them together, with the reference."""
    mean, axes = directions(reference.embeddings)
    table = partial(table_of, attributes, mean=mean, axes=axes)
    then = table(reference)
    now = {lot: table(features) for lot, features in lots.items()}
    if len(now) > 1:
        ends = np.cumsum([len(values) for values in now.values()])
        together = pd.concat(now.values(), ignore_index=True)
        # parts of the whole, so that nothing is in memory twice
        now = {lot: together[end - len(now[lot]) : end] for lot, end in zip(now, ends, strict=True)} | {ALL: together}
    tests = [
        compare(lot, str(name), then[name], values[name], settings.min_images)
        for lot, values in now.items()
        for name in then
        if name in values  # a column of only one side is not a signal
    ]
    tests = mark_drifted(tests, settings)
    verdicts = {lot: _verdict([test for test in tests if test.lot == lot]) for lot in now}
    own = [lot for lot in lots if verdicts[lot] == FOUND]
    concerned = own or ([ALL] if verdicts.get(ALL) == FOUND else [])
    verdict = FOUND if concerned else NONE if NONE in verdicts.values() else NOT_ENOUGH
    return Drift(verdict, verdicts, concerned, sorted(tests, key=_strength), then, now)


def _verdict(tests: Sequence[Signal]) -> str:
    """Verdict of some tests; never "none" if nothing could be tested."""
    if any(test.drifted for test in tests):
        return FOUND
    return NONE if any(test.p is not None for test in tests) else NOT_ENOUGH


def _strength(test: Signal) -> tuple[bool, float, float]:
    return not test.drifted, -(test.psi if test.psi is not None else -1), test.p if test.p is not None else 2


def compare(lot: str, signal: str, then: "pd.Series[Any]", now: "pd.Series[Any]", min_images: int) -> Signal:
    """Test one signal; its p is not corrected yet."""
    test = Signal(lot, signal)
    then, now = known_values(then), known_values(now)
    for whose, values in (("the reference", then), ("the lot", now)):
        if len(values) < min_images:
            what = "different images" if signal.endswith("_predicted") else "numbers of different images"
            return replace(test, note=f"{whose} has {len(values)} {what}, fewer than {min_images}")
    classes = then.dtype.kind != "f"
    constant = [whose for whose, values in (("the reference", then), ("the lot", now)) if values.nunique() < 2]
    # A missing class is a change; a pixel statistic that never varies is not from a sample of pictures.
    if constant and not (classes and set(then) != set(now)):
        return replace(test, note=f"{' and '.join(constant)} never varies")
    if classes:
        return _compare_classes(test, then, now)
    result = stats.ks_2samp(then, now, method="asymp")
    return replace(
        test,
        then=float(then.mean()),
        now=float(now.mean()),
        psi=stability_index(then, now),
        distance=float(result.statistic),
        p=float(result.pvalue),
    )


def _compare_classes(test: Signal, then: "pd.Series[Any]", now: "pd.Series[Any]") -> Signal:
    classes = list(then.cat.categories)
    shares = {name: (float((then == name).mean()), float((now == name).mean())) for name in classes}
    tested = classes[1:] if len(classes) == 2 else classes  # two classes are one test
    p = {
        name: stats.fisher_exact([[(values == name).sum(), (values != name).sum()] for values in (then, now)]).pvalue
        for name in tested
    }
    moved = min(p, key=lambda name: p[name])
    return replace(
        test,
        then=shares[moved][0],
        now=shares[moved][1],
        psi=stability_index(then, now),
        distance=max(abs(before - after) for before, after in shares.values()),
        p=min(1.0, float(p[moved]) * len(p)),
        moved=moved,
    )


def stability_index(then: "pd.Series[Any]", now: "pd.Series[Any]") -> float:
    """PSI of known values over the cells of the reference, less its mean without drift; at least 0."""
    partition = partition_of(then)
    if partition is None:  # it is constant, as `compare` has noted
        return 0.0
    expected, observed = expected_weights(partition), weights_of(count(now, partition))
    psi = float(((observed - expected) * np.log(observed / expected)).sum())
    return max(0.0, psi - chance(len(expected), len(then), len(now)))


def chance(cells: int, then: int, now: int) -> float:
    """The mean of PSI without drift (Yurdakul & Naranjo 2020)."""
    return (cells - 1) * (1 / then + 1 / now)


def mark_drifted(tests: Sequence[Signal], settings: MonitorSection) -> list[Signal]:
    """Correct the p of all tests together, and mark the signals that drifted."""
    known = [test for test in tests if test.p is not None]
    corrected = iter(holm([test.p for test in known if test.p is not None]).tolist())
    return [
        test
        if test.p is None or test.psi is None
        else replace(
            test,
            p_corrected=(p := next(corrected)),
            drifted=p <= settings.alpha and test.psi >= settings.min_psi,
        )
        for test in tests
    ]

"""Find images with the same picture, near duplicates, and contradicting labels of equal pictures."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from stages.validate.perceptual import find_near, unite


@dataclass(frozen=True)
class Duplicates:
    """The relations between images: equal and nearly equal pictures.

    Attributes:
        columns: per image, by path, text, missing if empty: `duplicate_of`, the first other image with the same pixels;
            `near_duplicate_of`, the first earlier near duplicate (only for images that are not duplicates themselves);
            `contradicts`, the label of another image with the same pixels.
        exact: groups of paths with the same pixels, each sorted: the others are duplicates of the first.
        near: groups of paths linked by `near_duplicate_of`, likewise, without exact duplicates.
        group: path -> the first path of its group: images with the same identity, with the same pixels once cropped, or
            near duplicates, directly or through others; only decoded images.
    """

    columns: pd.DataFrame
    exact: list[list[str]]
    near: list[list[str]]
    group: "pd.Series[str]"


def find_duplicates(facts: pd.DataFrame, labels: pd.DataFrame, bits: int) -> Duplicates:
    """Compare all images with all others.

    Args:
        facts: a row per image, path as index; columns `pixels`, `cropped` and `hash` of `Look`, missing if not
            decoded.
        labels: the same index, a column of labels per attribute, missing if unknown.
        bits: images whose hashes differ in at most so many of 256 bits are near duplicates.
    """
    known = facts[facts["pixels"].notna()].sort_index()
    first = pd.Series(known.index, known.index, dtype="str").groupby(known["cropped"]).transform("first")
    duplicate_of = first[first != first.index]
    exact = _groups(duplicate_of)

    unique = known[~known.index.isin(duplicate_of.index)]
    hashes = np.frombuffer(bytes.fromhex("".join(unique["hash"])), np.uint8).reshape(-1, 32)
    near, together = find_near(hashes, bits)
    near_duplicate_of = pd.Series(unique.index[near], unique.index, dtype="str")[near >= 0]

    columns = {
        "duplicate_of": duplicate_of,
        "near_duplicate_of": near_duplicate_of,
        "contradicts": _contradictions(exact, labels),
    }
    table = pd.DataFrame({name: column.reindex(facts.index) for name, column in columns.items()}).astype("str")
    group = np.arange(len(known))
    at = np.flatnonzero(known.index.isin(unique.index))
    unite(group, at, at[together])
    for name in ("pixels", "cropped"):
        unite(group, _first_equal(known[name]), np.arange(len(known)))
    of_path = pd.Series(known.index[group], known.index, dtype="str")
    return Duplicates(table, exact, _groups(near_duplicate_of), of_path)


def _first_equal(values: "pd.Series[str]") -> npt.NDArray[np.int64]:
    """Position of the first equal value, for every value."""
    _, first, same = np.unique(values.to_numpy(dtype="str"), return_index=True, return_inverse=True)
    return np.asarray(first[same], np.int64)


def _groups(leads_to: "pd.Series[str]") -> list[list[str]]:
    """Groups by links to an earlier path (path -> earlier path, sorted), in the order of their first path."""
    leader: dict[str, str] = {}
    groups: dict[str, list[str]] = {}
    for path, earlier in leads_to.items():
        leader[str(path)] = leader.get(earlier, earlier)
        groups.setdefault(leader[str(path)], [leader[str(path)]]).append(str(path))
    return [groups[path] for path in sorted(groups)]


def _contradictions(groups: list[list[str]], labels: pd.DataFrame) -> "pd.Series[str]":
    """The first contradiction of every path in a group with contradicting labels."""
    found: dict[str, str] = {}
    for name in labels:
        of_path = labels[name].dropna().to_dict()
        for group in groups:
            says: dict[str, str] = {}  # label -> the first path that has it
            for path in group:
                if path in of_path:
                    says.setdefault(of_path[path], path)
            if len(says) > 1:
                for path in group:
                    found.setdefault(path, _contradiction(str(name), of_path.get(path), says))
    return pd.Series(found, dtype="str")


def _contradiction(name: str, own: str | None, says: dict[str, str]) -> str:
    (label, path), (other, elsewhere) = list(says.items())[:2]
    if own is None:
        return f"{name}: {path} says {label}, {elsewhere} says {other}"
    label, path = next((label, path) for label, path in says.items() if label != own)
    return f"{name} {own}, {path} says {label}"

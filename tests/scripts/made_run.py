"""`make run ENGINE=none` of a few images, in a copy of the repository; some files look at what it made."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.scripts.environment import link_environment

ROOT = Path(__file__).parents[2]
TINY: dict[str, dict[str, Any]] = {
    "data": {"train_split": 0.6, "val_split": 0.2, "test_split": 0.2},
    # or each stage starts processes that import as much as itself
    **{stage: {"workers": 1} for stage in ("validate", "prepare_train", "predict")},
    "hyperopt": {"max_evals": 1, "epochs": 1, "workers": 1},
    "train": {"epochs": 1, "width": 8, "processes": 1, "use_hyperopt": False},
    "label_doubt": {"folds": 2, "epochs": 1, "width": 16, "workers": 1},
    "archive": {"force": True},
}


class MadeRun(NamedTuple):
    """A run.

    Attributes:
        tree: the files of the repository without git, as a download has them, with settings for tiny data.
        data: the data folder, whose only table has a name of its own, with a suite and a parameter of its own.
        done: how it ended.
    """

    tree: Path
    data: Path
    done: "subprocess.CompletedProcess[str]"


def make_run(folder: Path) -> MadeRun:
    """Run it, in a new folder."""
    from data.make_samples import make_samples

    tree, data = folder / "tree", folder / "my faces"
    ignored = shutil.ignore_patterns("__pycache__", "tmp", "cache", "config.local")
    for name in ("stages", "expectations", "images", "scripts", ".dvc"):
        shutil.copytree(ROOT / name, tree / name, ignore=ignored)
    for name in ("dvc.yaml", ".dvcignore", ".gitignore", "requirements.txt"):
        shutil.copy(ROOT / name, tree)
    (tree / "data").mkdir()
    shutil.copy(ROOT / "data/attributes.yaml", tree / "data")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for section, values in TINY.items():
        params[section] |= values
    (tree / "params.yaml").write_text(yaml.safe_dump(params))
    link_environment(tree)
    make_samples(data, count=60, lots=2)
    (data / "annotations.csv").rename(data / "labels.csv")
    (data / "expectations").mkdir()
    shutil.copy(ROOT / "expectations/images.json", data / "expectations")
    (data / "params.yaml").write_text("validate: {min_side: 33}\n")
    return MadeRun(tree, data, run_in(tree, data))


def run_in(tree: Path, data: Path) -> "subprocess.CompletedProcess[str]":
    """`make run ENGINE=none DATA=<data>` in a tree that no repository of git is around."""
    outside = {"GIT_CEILING_DIRECTORIES": str(tree.parents[1]), "DVC_SITE_CACHE_DIR": str(tree.parent / "site")}
    return subprocess.run(
        [tree / "scripts/run"],
        env=os.environ | outside | {"ENGINE": "none", "DATA": str(data), "DVC_NO_ANALYTICS": "1"},
        text=True, capture_output=True, check=False,
    )  # fmt: skip

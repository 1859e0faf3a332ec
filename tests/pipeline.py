"""The stages as dvc.yaml has them, which is the one list of them."""

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
WIRING: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
STAGES = list(WIRING)
TRAINING = STAGES[: STAGES.index("archive") + 1]
"""The stages of the main job, up to the release."""
INPUTS = {
    stage: [name for name in re.findall(r"--(\w+) ", wired["cmd"]) if name not in {"params", "out", "expectations"}]
    for stage, wired in WIRING.items()
}
"""Stage -> names of its inputs."""

"""Parameters of stage `champion`."""

import re
from typing import Annotated

from pydantic import AfterValidator

from stages.common.contract.params import Section
from stages.common.registry.registry import RegistrySection


def _version(name: str) -> str:
    if name and not re.fullmatch(r"v[1-9][0-9]*", name):
        raise ValueError("expected a version such as v3, or nothing for the champion")
    return name


class ChampionSection(Section):
    """Section `champion`.

    Attributes:
        version: take this version; "" for the champion.
    """

    version: Annotated[str, AfterValidator(_version)]


class Params(Section):
    """The sections that this stage reads."""

    champion: ChampionSection
    registry: RegistrySection

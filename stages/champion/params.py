"""Parameters of stage `champion`."""

import re
from typing import Annotated

from pydantic import AfterValidator

from stages.common.params import Section


def _version(name: str) -> str:
    if name and not re.fullmatch(r"v[1-9][0-9]*", name):
        raise ValueError("expected a version such as v3, or nothing for the champion")
    return name


class ChampionSection(Section):
    """Section `champion`.

    Attributes:
        version: take this version; "" for the champion.
        remote: URL of the DVC remote that the version was pushed to; "" for the folder in the registry.
    """

    version: Annotated[str, AfterValidator(_version)]
    remote: str


class Params(Section):
    """The sections that this stage reads."""

    champion: ChampionSection

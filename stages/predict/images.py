"""Images of the raw folder to predict, by lot, and other files with the reason. No file is opened."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from stages.common.images.listing import HIDDEN, SUFFIXES, as_text, list_folder, lot_of, name_of, suffix_of

LOT_BYTES = 255 - len("predictions_.csv")
"""Greatest length of a lot's name, for files are named after it."""


@dataclass(frozen=True)
class Found:
    """The content of a raw folder.

    Attributes:
        lots: lot -> name of an image -> its path, relative to the folder; both sorted.
        undecodable: (file name, lot, reason) of files with an image's name that cannot be used.
        ignored: (file name, lot, path, reason) of files with other names, which are not read.
    """

    lots: dict[str, dict[str, str]]
    undecodable: list[tuple[str, str, str]]
    ignored: list[tuple[str, str, str, str]]

    @property
    def names(self) -> set[str]:
        """Lots that have an image, also if it is undecodable."""
        return {*self.lots, *(lot for _, lot, _ in self.undecodable)}

    def select(self, wanted: Collection[str]) -> "Found":
        """The part of some lots; everything if `wanted` is empty."""
        if not wanted:
            return self
        lots = {lot: images for lot, images in self.lots.items() if lot in wanted}
        undecodable = [row for row in self.undecodable if row[1] in wanted]
        return Found(lots, undecodable, [row for row in self.ignored if row[1] in wanted])


def find_images(raw: Path) -> Found:
    """List the images of a raw folder by the rules of stage validate.

    An image is named by its lot and its file name. If a lot has several files of one name, in several folders, each is
    named by its path.
    """
    found = Found({}, [], [])
    lots: dict[str, list[str]] = {}
    listing = list_folder(raw)
    for path in listing.images:
        shown = as_text(path)
        lot = lot_of(shown)
        if len(lot.encode()) > LOT_BYTES:
            reason = f"the lot's name, which names files, is longer than {LOT_BYTES} bytes"
            found.undecodable.append((name_of(shown), lot, reason))
        else:
            lots.setdefault(lot, []).append(path)
    for lot, paths in sorted(lots.items()):
        often = Counter(name_of(as_text(path)) for path in paths)
        named: dict[str, str] = {}
        for path in paths:
            shown = as_text(path)
            name = name_of(shown) if often[name_of(shown)] == 1 else shown
            if name in named:
                found.undecodable.append((name, lot, "another file's name is shown alike, though its bytes differ"))
            else:
                named[name] = path
        found.lots[lot] = dict(sorted(named.items()))
    for path, reason in listing.ignored.items():
        shown = as_text(path)
        if suffix_of(path) in SUFFIXES and reason != HIDDEN:
            found.undecodable.append((name_of(shown), lot_of(shown), reason))
        else:
            found.ignored.append((name_of(shown), lot_of(shown), shown, reason))
    return found

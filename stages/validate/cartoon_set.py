"""Cartoon Set's variants and what they mean for the five attributes.

The sets (https://google.github.io/cartoonset/) ship `csX.png` with a `csX.csv` beside it, one line an attribute:
`"facial_hair", 14, 15` is name, variant, number of variants. Which variant shows a beard, a long haircut and so on was
settled by looking at them; the glasses and hair-colour rules agree with 5,113 rows that carry both forms.
"""

from collections.abc import Mapping

VARIANTS = {"facial_hair": 15, "glasses": 12, "hair_color": 10, "hair": 111}
"""Attributes that decide a label, with their number of variants."""

_NO_BEARD = {1, 5, 14}
_MUSTACHE = {0, 2, 3, 5, 6, 7, 8, 9, 10, 11}
_NO_GLASSES = {11}
_HAIR_COLORS = (0, 0, 2, 1, 0, 1, 1, 3, 4, 4)  # of variants 0 to 9: blond, blond, red, brown, blond, ...
_BALD = {0, 1, 2, 108, 109, 110}
_SHORT = {
    *(8, 11, 12, 14, *range(17, 24), 31, 32, 39, *range(43, 47), *range(49, 55), 61, 62, 66, *range(72, 75), 76, 77),
    *(83, 89, 92, 99, 105, 107),
}


def labels_of(variants: Mapping[str, int]) -> dict[str, str]:
    """Map the variants of one face to class indices.

    Args:
        variants: attribute of `VARIANTS` -> variant; attributes that are not known are left out.

    Returns:
        Canonical attribute name -> class index as text, empty where it is not known. A bald face has no hair colour,
        whatever the file says. A variant that the set does not have is returned as `name=variant`, which is no class,
        so that the suite rejects it.
    """
    labels = dict.fromkeys(("beard", "mustache", "glasses", "hair_color", "hair_length"), "")
    for name, variant in variants.items():
        known = 0 <= variant < VARIANTS[name]
        strange = f"{name}={variant}"
        if name == "facial_hair":
            labels["beard"] = str(int(variant not in _NO_BEARD)) if known else strange
            labels["mustache"] = str(int(variant in _MUSTACHE)) if known else strange
        elif name == "glasses":
            labels["glasses"] = str(int(variant not in _NO_GLASSES)) if known else strange
        elif name == "hair_color":
            labels["hair_color"] = str(_HAIR_COLORS[variant]) if known else strange
        else:
            labels["hair_length"] = str(0 if variant in _BALD else 1 if variant in _SHORT else 2) if known else strange
    if labels["hair_length"] == "0":
        labels["hair_color"] = ""
    return labels

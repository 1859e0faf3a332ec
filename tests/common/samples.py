"""Attributes for tests: those of the sample data set."""

from stages.common.schema.attributes import Attribute, Attributes, names

SAMPLE_ATTRIBUTES: Attributes = (
    Attribute("beard", ("no", "yes"), "beard", "Beard"),
    Attribute("mustache", ("no", "yes"), "mustache", "Mustache"),
    Attribute("glasses", ("no", "yes"), "glasses_binary", "Glasses"),
    Attribute(
        "hair_color",
        ("blond", "brown", "red", "dark", "gray"),
        "hair_color_label",
        "Hair colour",
        unknown_when={"hair_length": "bald"},
    ),
    Attribute("hair_length", ("bald", "short", "long"), "hair_length", "Hair length"),
)

SAMPLE_NAMES = names(SAMPLE_ATTRIBUTES)
FIRST = SAMPLE_NAMES[0]
"""It has two classes."""

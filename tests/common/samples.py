"""Attributes for tests: of samples that are made by hand, and those of the sample data set."""

from stages.common.schema.attributes import Attribute, Attributes, names
from stages.validate.attributes_file import DEFAULT, read_attributes_file

SAMPLE_ATTRIBUTES: Attributes = (
    Attribute("bag", ("no", "yes"), "bag", "Bag"),
    Attribute("scarf", ("no", "yes"), "scarf", "Scarf"),
    Attribute("bow", ("no", "yes"), "bow_binary", "Bow"),
    Attribute(
        "coat_color",
        ("beige", "blue", "red", "black", "green"),
        "coat_color_label",
        "Coat colour",
        unknown_when={"coat_length": "cropped"},
    ),
    Attribute("coat_length", ("cropped", "short", "long"), "coat_length", "Coat length"),
)
"""Others than those of the sample data set, which only data name."""

SAMPLE_NAMES = names(SAMPLE_ATTRIBUTES)
FIRST = SAMPLE_NAMES[0]
"""It has two classes."""

DEFAULT_ATTRIBUTES = read_attributes_file(DEFAULT).attributes
"""Those of data that bring no attributes.yaml."""

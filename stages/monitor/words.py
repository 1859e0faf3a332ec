"""Drift in words for people who are not statisticians."""

from stages.common.schema.attributes import Attributes
from stages.monitor.drift import EMBEDDING, Signal

SLIGHT, LARGE = 0.1, 0.25
"""PSI below which a change is slight, and above which it is large (Siddiqi 2006)."""

_STATISTICS = {
    "brightness": ("darker", "brighter"),
    "contrast": ("flatter in contrast", "richer in contrast"),
    "saturation": ("paler", "more colourful"),
    "warmth": ("bluer", "redder"),
    "sharpness": ("more blurred", "sharper or noisier"),
    "flatness": ("less evenly coloured over areas", "more evenly coloured over areas"),
    "ripple": ("less rippled", "more rippled, as JPEG makes them"),
    "white": ("less white", "more white"),
    "blockiness": ("less blocky in colour", "blockier in colour, as strong JPEG leaves them"),
}
"""Statistic -> words for images with a lower value, and with a higher one; others are named by the statistic."""


def title_of(attributes: Attributes, signal: str) -> str:
    """The name of a signal in texts."""
    for attribute in attributes:
        if signal == f"{attribute.name}_confidence":
            return f"{attribute.title}: confidence"
        if signal == f"{attribute.name}_predicted":
            return f"{attribute.title}: predicted classes"
    if signal.startswith(EMBEDDING):
        return f"Embedding, direction {signal.removeprefix(EMBEDDING)}"
    return signal.replace("_", " ").capitalize()


def size_of(psi: float) -> str:
    """The size of a change, in a word."""
    return "slightly" if psi < SLIGHT else "clearly" if psi < LARGE else "much"


def explain(attributes: Attributes, signal: Signal) -> str:
    """One sentence about a tested signal."""
    if signal.then is None or signal.now is None or signal.psi is None:
        return signal.note
    how, higher = size_of(signal.psi), signal.now > signal.then
    for attribute in attributes:
        if signal.signal == f"{attribute.name}_confidence":
            return f"the model is {how} {'more' if higher else 'less'} sure of {attribute.title.lower()}"
        if signal.signal == f"{attribute.name}_predicted":
            name = f"{attribute.title.lower()} '{signal.moved}'"
            often = f"{how} {'more' if higher else 'less'} often"
            return f"{name} is predicted {often}: {signal.then:.0%} in the reference, {signal.now:.0%} in new images"
    if signal.signal.startswith(EMBEDDING):
        return f"the images look {'very' if how == 'much' else how} different to the model"
    words = _STATISTICS.get(signal.signal)
    if words:
        return f"the images are {how} {words[higher]}"
    return f"{signal.signal.replace('_', ' ')} is {how} {'higher' if higher else 'lower'}"

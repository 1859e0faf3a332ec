"""Section `augmentation`: random changes of training pictures. A separate module, without PyTorch."""

from pydantic import Field

from stages.common.contract.params import Section


class Augmentation(Section):
    """Random changes of a training picture, drawn anew each time it is used; 0 means none.

    Attributes:
        mirror: share of the pictures that are mirrored.
        move: largest shift, as a share of the side.
        scale: largest change of width and of height, separately, as a share of 1.
        turn: largest angle, in degrees.
        light: largest change of brightness, as a share of 1.
        color: largest change of red, green and blue, separately, as a share of 1: the colour of the light.
        cut_out: side of the square that is covered with the picture's mean colour, as a share of the picture's.
    """

    mirror: float = Field(ge=0, le=1)
    move: float = Field(ge=0, le=1)
    scale: float = Field(ge=0, lt=1)
    turn: float = Field(ge=0, le=180)
    light: float = Field(ge=0, le=1)
    color: float = Field(ge=0, le=1)
    cut_out: float = Field(ge=0, lt=1)

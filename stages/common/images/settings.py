"""Settings by which files become the network's input. A separate module, for stages that only read them."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from stages.common.contract.params import Section


class ImagesSection(Section):
    """Section `images`: which files are accepted as pictures. `decode` and `crop_to_content` read these settings.

    Attributes:
        near_white: 1-255; a pixel whose channels are all at or above it is background.
        max_megapixels: larger pictures are refused before they are decoded.
    """

    near_white: int = Field(ge=1, le=255)
    max_megapixels: float = Field(gt=0)


class FaceCrop(Section):
    """Key `face` of section `data`: settings of crop face.

    Attributes:
        none: for a picture without a face: reject it, or take it whole.
        several: for a picture of several faces: reject it, or take the largest face.
        edge: for a face that the picture's edge cuts: reject the picture, or take the visible part.
        margin: margin around the face on each side, as a share of its longer side.
    """

    none: Literal["reject", "whole"] = "reject"
    several: Literal["reject", "largest"] = "largest"
    edge: Literal["reject", "take"] = "take"
    margin: float = Field(default=0.1, ge=0, le=2)


class NetworkInput(Section):
    """Settings that prepare a picture for the network; section `data` has the same keys.

    Attributes:
        image_size: side of the result in pixels.
        crop: content (the bounding box of what is not near-white), whole (the whole picture), squeeze (likewise, but
            stretched to a square), centre (a share of width and height around the middle) or face (the detected face).
            All but squeeze keep the proportions, on a white square.
        centre_share: for crop centre: the shares of width and of height, above 0 and up to 1.
        face: for crop face.
        grey: whether colours become their luma.
    """

    image_size: int = Field(ge=8, le=1024)
    crop: Literal["content", "whole", "squeeze", "centre", "face"] = "content"
    centre_share: list[Annotated[float, Field(gt=0, le=1)]] | None = Field(default=None, min_length=2, max_length=2)
    face: FaceCrop = FaceCrop()
    grey: bool = False

    @model_validator(mode="after")
    def _share_of_the_centre(self) -> Self:
        if self.crop == "centre" and self.centre_share is None:
            raise ValueError("crop centre needs centre_share: write [width, height], shares of 1 such as [0.6, 0.8]")
        if self.crop != "centre" and self.centre_share is not None:
            raise ValueError(
                f"centre_share is of crop centre alone, and crop is {self.crop}: write null, or crop: centre"
            )
        return self


class Preprocessing(ImagesSection, NetworkInput):
    """Settings of `preprocess`.

    Attributes:
        version: of the steps themselves; a model that was trained with other steps is refused. 2: a new digest of
            pictures, so images fall into other splits. 3: another library averages areas; it rounds and assigns pixels
            on a border differently, and does not average large pictures in blocks first. 4: large JPEGs are decoded to
            fewer pixels. 5: a new digest of images, so they fall into other splits; rotated JPEGs are decoded to fewer
            pixels, too.
    """

    version: Literal[5] = 5

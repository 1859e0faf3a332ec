"""The settings by which files become the network's input. Apart from the code, for those who only read them."""

from typing import Literal

from pydantic import Field

from stages.common.contract.params import Section


class ImagesSection(Section):
    """Section `images`: what is taken for a picture of a face. `decode` and `crop` read these settings.

    Attributes:
        near_white: 1-255; a pixel whose channels are all at or above it is background.
        max_megapixels: larger pictures are refused before they are decoded.
    """

    near_white: int = Field(ge=1, le=255)
    max_megapixels: float = Field(gt=0)


class Preprocessing(ImagesSection):
    """Settings of `preprocess`.

    Attributes:
        version: of the steps themselves; a model that was trained with other steps is refused. 2: the digest of a
            picture is another, so images fall into other splits. 3: another library averages areas; it rounds and
            assigns pixels on a border otherwise, and does not average large pictures in blocks first. 4: large JPEGs
            are decoded to fewer pixels. 5: images are known by another digest, so they fall into other splits; turned
            JPEGs are decoded to fewer pixels too.
        image_size: side of the result in pixels.
    """

    version: Literal[5] = 5
    image_size: int = Field(ge=8, le=1024)

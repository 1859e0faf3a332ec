"""Sheets of pictures."""

import numpy as np

from stages.common.images.thumbnails import GAP, contact_sheet, for_sheet


def test_a_sheet_takes_pictures_from_everywhere() -> None:
    assert for_sheet(3).tolist() == [0, 1, 2]
    chosen = for_sheet(1000)
    assert len(set(chosen.tolist())) == 36
    assert (chosen[0], chosen[-1]) == (0, 999)


def test_pictures_stand_in_rows_and_large_ones_are_shrunk() -> None:
    images = np.zeros((15, 20, 20, 3), np.uint8) + np.arange(15, dtype=np.uint8)[:, None, None, None]
    for most, side in ((96, 20), (10, 10)):
        sheet = np.asarray(contact_sheet(images, most))
        assert sheet.shape == (2 * (side + GAP) + GAP, 12 * (side + GAP) + GAP, 3)
        corners = [
            sheet[GAP + row * (side + GAP), GAP + column * (side + GAP), 0] for row in (0, 1) for column in range(12)
        ]
        assert corners[:15] == list(range(15))
        assert set(corners[15:]) == {208}

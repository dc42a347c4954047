"""Charts against the geometry that they promise."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageColor

from rechar_core import charts

EDGE, HEAD, BAR, GUTTER, ROOM = 8, 28, 12, 230, 60  # pixels


def places(page: Image.Image, colour: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pixels of exactly this colour."""
    return np.nonzero((np.asarray(page) == ImageColor.getrgb(colour)).all(axis=-1))


def test_losses_run_over_the_whole_width_and_highest_is_on_top():
    page = charts.loss_chart([1.0, 0.0, 0.0, 0.0], 4, (256, 200))
    rows, columns = places(page, charts.FAINT)
    assert columns.max() == 256 - EDGE
    # 1.0 of the 1.05 that the height stands for; 0 at the line above the text
    assert abs(rows.min() - (200 - 24 - (200 - 32) / 1.05)) <= 2 and rows.max() == 200 - 24
    half = charts.loss_chart([1.0, 1.0, 1.0], 5, (256, 200))
    columns = places(half, charts.COLOURS[0])[1]
    assert (columns.min(), columns.max()) == (EDGE, EDGE + (256 - 2 * EDGE) // 2)


def test_the_running_mean_moves_by_a_twentieth_of_the_difference():
    page = charts.loss_chart([1.0, 0.0], 2, (256, 200))
    rows, columns = places(page, charts.COLOURS[0])
    ends = [rows[columns == x].mean() for x in (EDGE + 1, 256 - EDGE - 1)]
    assert abs((ends[1] - ends[0]) / (200 - 32) * 1.05 - 0.05) < 0.01


def test_a_chart_without_losses_is_drawn():
    assert charts.loss_chart([], 10).size == (256, 256)
    assert charts.loss_chart([0.0, 0.0], 10).size == (256, 256)


def test_bars_are_as_long_as_their_norms():
    layers = {"structure": {"a": 4.0, "b": 2.0}, "style": {"c": 1.0}}
    page = charts.energy_chart(layers, 640)
    assert page.size == (640, 2 * HEAD + 3 * BAR + 12)
    rows, columns = places(page, charts.COLOURS[0])
    longest = 640 - GUTTER - ROOM
    by_row = {row: columns[rows == row].max() - GUTTER for row in sorted(set(rows))}
    assert set(by_row.values()) == {longest, longest // 2}
    assert columns.min() == GUTTER
    first = 6 + HEAD + 1
    assert [row for row in by_row if by_row[row] == longest] == list(range(first, first + BAR - 2))
    assert [row for row in by_row if by_row[row] < longest] == list(range(first + BAR, first + 2 * BAR - 2))
    rows, columns = places(page, charts.COLOURS[1])
    assert (columns.max() - GUTTER, rows.min()) == (longest // 4, 6 + 2 * HEAD + 2 * BAR + 1)
    assert charts.energy_chart({"structure": {"a": 0.0}}).size == (640, HEAD + BAR + 12)
    assert charts.energy_chart({}).size == (640, 12)


def test_pictures_beside_each_other_have_the_height_of_the_tallest():
    red, blue = Image.new("RGB", (10, 20), "red"), Image.new("RGB", (30, 10), "blue")
    page = np.asarray(charts.beside(red, blue))
    assert page.shape == (20, 10 + 60, 3)
    assert (page[:, :10] == (255, 0, 0)).all() and (page[:, 10:] == (0, 0, 255)).all()

"""Window grids, gathering and merging."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import UsageError
from methods.windows import Window, add_up, gather, grid, merge, sides

settings.register_profile("windows", deadline=None, max_examples=60)
settings.load_profile("windows")


@st.composite
def layouts(draw: st.DrawFn) -> tuple[int, int, int, int]:
    """(height, width, window, stride) of a canvas that holds at least one window."""
    window = draw(st.integers(1, 7))
    return (
        draw(st.integers(window, window + 6)),
        draw(st.integers(window, 30)),
        window,
        draw(st.integers(1, window)),
    )


def cover(windows: list[Window], height: int, width: int) -> torch.Tensor:
    """How many windows stand over each cell, counted cell by cell."""
    count = torch.zeros(height, width, dtype=torch.int64)
    for v in windows:
        for y in range(v.y, v.y + v.height):
            for x in range(v.x, v.x + v.width):
                count[y, x % width] += 1
    return count


def canvas(height: int, width: int) -> torch.Tensor:
    return torch.randn(
        1, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(height * 97 + width)
    )


@given(layouts())
def test_clamped_windows_cover_every_cell_and_stay_on_the_canvas(layout: tuple[int, int, int, int]) -> None:
    h, w, k, s = layout
    windows = grid(h, w, k, s, remainder="clamp")
    assert all(v.y + k <= h and v.x + k <= w for v in windows)
    assert cover(windows, h, w).min() >= 1
    assert len(set(windows)) == len(windows)


@given(layouts())
def test_official_windows_leave_exactly_the_remainder_uncovered(layout: tuple[int, int, int, int]) -> None:
    h, w, k, s = layout
    count = cover(grid(h, w, k, s, remainder="zero"), h, w)
    bottom, right = (h - k) % s, (w - k) % s
    assert (count[: h - bottom, : w - right] >= 1).all()
    assert (count[h - bottom :] == 0).all()
    assert (count[:, w - right :] == 0).all()


@given(layouts())
def test_loop_windows_cover_every_column_as_often_as_every_other(layout: tuple[int, int, int, int]) -> None:
    h, w, k, s = layout
    k, w = k * s, max(w // s, k) * s  # strides that divide both the window and the ring
    h = max(h, k)
    count = cover(grid(h, w, k, s, remainder="clamp", loop=True), h, w)
    assert (count == count[:, :1]).all()
    assert count.min() >= 1


@given(layouts(), st.booleans())
def test_clamped_loops_leave_no_cell_empty(layout: tuple[int, int, int, int], loop: bool) -> None:
    h, w, k, s = layout
    assert cover(grid(h, w, k, s, remainder="clamp", loop=loop), h, w).min() >= 1


@given(layouts(), st.booleans(), st.sampled_from(["zero", "clamp"]))
def test_merging_what_was_gathered_gives_the_canvas_back(
    layout: tuple[int, int, int, int], loop: bool, remainder: str
) -> None:
    h, w, k, s = layout
    windows = grid(h, w, k, s, remainder=remainder, loop=loop)
    x = canvas(h, w)
    merged = merge(gather(x, windows), windows, (h, w))
    covered = cover(windows, h, w) > 0
    torch.testing.assert_close(merged[..., covered], x[..., covered], atol=1e-12, rtol=0)
    assert (merged[..., ~covered] == 0).all()


@given(layouts(), st.booleans(), st.randoms(use_true_random=False))
def test_the_order_of_windows_does_not_matter_to_the_merge(
    layout: tuple[int, int, int, int], loop: bool, shuffler: object
) -> None:
    h, w, k, s = layout
    windows = grid(h, w, k, s, remainder="clamp", loop=loop)
    views = canvas(len(windows) * k, k).reshape(3, len(windows), k, k).transpose(0, 1)
    order = list(range(len(windows)))
    shuffler.shuffle(order)  # type: ignore[attr-defined]
    merged = merge(views, windows, (h, w))
    shuffled = merge(views[order], [windows[i] for i in order], (h, w))
    torch.testing.assert_close(merged, shuffled, atol=1e-12, rtol=0)


def test_a_wrapped_window_holds_the_last_columns_then_the_first() -> None:
    x = torch.arange(6.0).reshape(1, 1, 1, 6)
    assert gather(x, [Window(0, 4, 1, 4)]).flatten().tolist() == [4.0, 5.0, 0.0, 1.0]


def test_merging_averages_where_windows_overlap() -> None:
    windows = [Window(0, 0, 1, 2), Window(0, 1, 1, 2)]
    views = torch.tensor([[[[1.0, 2.0]]], [[[4.0, 8.0]]]])
    assert merge(views, windows, (1, 4)).flatten().tolist() == [1.0, 3.0, 8.0, 0.0]


def test_windows_of_different_sizes_add_up_and_wrap() -> None:
    windows = [Window(0, 0, 2, 2), Window(1, 3, 1, 2)]
    views = [torch.ones(1, 2, 2), torch.tensor([[[3.0, 5.0]]])]
    assert add_up(views, windows, (2, 4)).tolist() == [[[[1.0, 1.0, 0.0, 0.0], [6.0, 1.0, 0.0, 3.0]]]]


@pytest.mark.parametrize(
    ("window", "stride", "found"),
    [(None, None, (64, 16)), (32, None, (32, 8)), (None, 24, (64, 24)), (3, None, (3, 1))],
)
def test_sides_that_are_not_given_follow_the_network(
    window: int | None, stride: int | None, found: tuple[int, int]
) -> None:
    assert sides(64, window, stride, 4) == found


@pytest.mark.parametrize(
    ("height", "width", "stride", "views"),
    [(64, 256, 8, 25), (64, 256, 16, 13), (64, 384, 8, 41), (64, 512, 8, 57), (64, 448, 48, 9), (128, 512, 16, 145)],
)
def test_view_counts_are_the_published_ones(height: int, width: int, stride: int, views: int) -> None:
    assert len(grid(height, width, 64, stride)) == views


def test_a_canvas_that_windows_do_not_tile_is_refused_naming_widths_that_fit() -> None:
    with pytest.raises(UsageError, match=r"leave 24 of the 2072 px of width over; nearest that fit: 2048 or 2112 px"):
        grid(64, 259, 64, 8, factor=8)


def test_a_loop_of_uneven_circumference_is_refused() -> None:
    with pytest.raises(UsageError, match=r"nearest that fit: 256 or 264 px"):
        grid(8, 65, 8, 2, loop=True, factor=4)


def test_a_canvas_lower_than_the_window_is_refused() -> None:
    with pytest.raises(UsageError, match=r"height is 256 px, a window is 512 px"):
        grid(32, 256, 64, 8, factor=8)


def test_lengths_are_said_in_cells_where_nobody_says_what_a_cell_is() -> None:
    with pytest.raises(UsageError, match=r"of 64 cells at stride 8 cells leave 3 of the 259 cells of width over"):
        grid(64, 259, 64, 8)
    with pytest.raises(UsageError, match=r"nearest that fit: 256 or 264 cells\."):
        grid(64, 259, 64, 8)
    with pytest.raises(UsageError, match=r"is 32 cells, a window is 64 cells: ask for a height of at least 64 cells"):
        grid(32, 256, 64, 8)
    with pytest.raises(UsageError, match=r"height is 32 px, a window is 64 px"):
        grid(32, 256, 64, 8, factor=1)  # a cell of one pixel is something else than no word


@pytest.mark.parametrize("stride", [0, -1, 9])
def test_strides_that_leave_gaps_are_refused(stride: int) -> None:
    with pytest.raises(UsageError, match="stride must be 1 to 8"):
        grid(8, 64, 8, stride)


def test_a_misspelt_remainder_is_answered_with_the_near_miss() -> None:
    with pytest.raises(UsageError, match="did you mean 'clamp'"):
        grid(8, 64, 8, 2, remainder="clmap")

"""record and plots: what they print outside a notebook, and what they refuse."""

from __future__ import annotations

import re

import pytest

from twinlib.page import plots, record


def test_attempt_never_raises(capsys: pytest.CaptureFixture[str]) -> None:
    def check_1(answer: object) -> None:
        assert answer == 4, "count again"

    assert record.attempt("1.1", check_1, 4)
    assert not record.attempt("1.1", check_1, 5)
    assert not record.attempt("1.1", check_1)
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "Exercise 1.1: correct."
    assert shown[1] == "Exercise 1.1: not yet: count again"
    assert "not yet: TypeError" in shown[-1]


def test_stamp_line_holds_seed_and_versions_but_no_clock() -> None:
    line = record.stamp_line(seed=7)
    assert line.startswith("seed 7 · Python 3.")
    assert "numpy" in line
    assert not re.search(r"\d\d:\d\d|20\d\d-", line)


def test_say_prints_outside_a_notebook(capsys: pytest.CaptureFixture[str]) -> None:
    record.say("a **b**")
    record.glue("key", 1.0)
    assert capsys.readouterr().out == "a **b**\n"


def test_figures_are_white_and_equal_on_a_second_run() -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    def picture() -> bytes:
        plots.style()
        fig, ax = plt.subplots()
        ax.plot([1, 2], color=plots.COLOURS["control"])
        data = plots._png(fig)
        plt.close(fig)
        return data

    first = picture()
    assert first == picture()
    assert matplotlib.rcParams["figure.facecolor"] == "white"


def test_the_style_is_that_of_seaborn_where_it_is_not_the_house_s_own() -> None:
    import matplotlib.pyplot as plt
    import seaborn as sns

    with plt.rc_context():
        sns.set_theme(style="whitegrid", palette="colorblind")
        theirs = dict(plt.rcParams)
        plots.style()
        ours = dict(plt.rcParams)
    cycles = [[c["color"] for c in rc["axes.prop_cycle"]] for rc in (theirs, ours)]
    assert [sns.color_palette(cycle).as_hex() for cycle in cycles[:1]] == cycles[1:]
    same = ("axes.grid", "axes.axisbelow", "axes.linewidth", "text.color", "patch.edgecolor", "xtick.bottom")
    assert [ours[name] for name in same] == [theirs[name] for name in same]


def test_figure_html_escapes_and_scales() -> None:
    page = plots.figure_html(b"x", "a-name", 'a "quoted" <alt>', 600, "cap & tion")
    assert 'alt="a &quot;quoted&quot; &lt;alt&gt;"' in page
    assert "max-width:100%" in page
    assert "cap &amp; tion" in page
    assert 'id="fig-a-name"' in page


def test_a_phone_gets_the_panels_below_each_other() -> None:
    import matplotlib.pyplot as plt

    plots.style()
    fig, axes = plt.subplots(2, 3, figsize=(12, 6), sharey=True)
    axes[0, 0].set_ylabel("height")
    for ax in axes.flat:
        ax.plot([0, 1], label="one curve of a name that takes half of the width")
    axes[1, 2].set_xlabel("a name of an axis that is longer than a phone is wide, so that it is broken")
    plots.legend_outside(fig, columns=3)
    assert len(fig.legends[0].get_texts()) == 1
    assert plots.stack(fig)
    fig.canvas.draw()
    boxes = [ax.get_position() for ax in axes.flat]
    assert all(upper.y0 > lower.y1 for upper, lower in zip(boxes, boxes[1:], strict=False))
    assert {ax.get_ylabel() for ax in axes.flat} == {"height"}
    assert fig.get_figwidth() == plots.COLUMN
    assert "\n" in axes[1, 2].get_xlabel()
    pixels = fig.bbox.width
    assert fig.legends[0].get_window_extent().x1 <= pixels
    plt.close(fig)


def test_a_dot_without_an_interval_is_hollow() -> None:
    import matplotlib.pyplot as plt
    import pandas as pd

    fig, ax = plt.subplots()
    rows = pd.DataFrame({"mean": [0.1, 0.2], "low": [0.0, float("nan")], "high": [0.3, float("nan")]})
    plots.interval_dots(ax, rows, [4, 7], "#000000", "a row")
    known, few = ax.get_lines()
    assert (known.get_xydata().tolist(), few.get_xydata().tolist()) == ([[0.1, 4]], [[0.2, 7]])
    assert (known.get_fillstyle(), few.get_fillstyle()) == ("full", "none")
    assert [line.tolist() for line in ax.collections[0].get_segments()] == [[[0.0, 4.0], [0.3, 4.0]]]
    plt.close(fig)


def test_names_of_crowded_dots_cover_neither_dots_nor_each_other() -> None:
    import itertools

    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(7, 4))
    dots, cross = [(0.5, 0.5), (0.54, 0.52), (0.98, 0.5), (0.52, 0.45)], (0.45, 0.5)
    ax.set(xlim=(0, 1), ylim=(0, 1))
    plots.name_dots(ax, dots, ["IFNGR1", "IFNGR2", "at the edge", "STAT1"], others=[cross])
    boxes = [text.get_window_extent() for text in ax.texts]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    places = ax.transData.transform([*dots, cross])
    assert not any(box.contains(*place) for box in boxes for place in places)
    assert all(box.x1 <= ax.get_window_extent().x1 for box in boxes)
    plt.close(fig)


def test_a_figure_of_one_column_is_made_as_narrow_where_there_is_room() -> None:
    import matplotlib.pyplot as plt

    plots.style()
    fig, ax = plt.subplots(figsize=(9, 3))
    ax.set_xlabel("a name of an axis that is longer than a phone is wide, so that it is broken")
    ax.set_ylabel("a name that is longer than such a low panel is high, broken too")
    ax.plot([0, 1], label="a name in a legend that has no room for so many letters in one line")
    plots.legend_outside(fig, columns=1)
    assert plots.stack(fig) and fig.get_size_inches().tolist() == [plots.COLUMN, 3]
    fig.canvas.draw()
    for text in (ax.xaxis.label, ax.yaxis.label, *fig.legends[0].get_texts()):
        box = text.get_window_extent()
        assert "\n" in text.get_text()
        assert box.x0 >= 0 and box.x1 <= fig.bbox.width and box.y0 >= 0 and box.y1 <= fig.bbox.height
    plt.close(fig)


def test_a_figure_without_room_to_be_narrow_stays_as_it_is() -> None:
    import matplotlib.pyplot as plt

    plots.style()
    longer, longest, numbers, ticks, small = (plt.subplots(figsize=(w, 4))[0] for w in (9, 9, 9, 9, 4))
    ticks.axes[0].set_xticks([k / 30 for k in range(30)], range(100, 130))
    longer.axes[0].set_yticks([0], ["a row whose name leaves little of the panel"])
    longest.axes[0].set_yticks([0], ["a row with a name that leaves next to nothing of the panel"])
    for place in range(plots.NUMBERS + 1):
        numbers.axes[0].text(0, place / 40, "0.25")
    solid = plt.figure(figsize=(9, 4))
    solid.add_subplot(projection="3d")
    for fig, width in ((longer, 9), (longest, 9), (numbers, 9), (ticks, 9), (solid, 9), (small, 4)):
        assert not plots.stack(fig) and fig.get_figwidth() == width
        plt.close(fig)


def test_a_name_does_not_run_below_a_colour_bar() -> None:
    import matplotlib.pyplot as plt

    plots.style()
    fig, (upper, lower) = plt.subplots(1, 2, figsize=(9, 4))
    drawn = upper.scatter([0, 1], [0, 1], c=[0, 1])
    bar = fig.colorbar(drawn, ax=[upper, lower])
    upper.set_xlabel("energy distance, mean over folds (logarithmic above 0.01)")
    assert plots.stack(fig)
    fig.canvas.draw()
    assert upper.xaxis.label.get_window_extent().x1 <= bar.ax.bbox.x0
    plt.close(fig)


@pytest.mark.parametrize(("name", "alt"), [("Bad Name", "a long enough alternative text"), ("ok", "short")])
def test_show_refuses_what_would_not_work_on_a_page(name: str, alt: str) -> None:
    import matplotlib.pyplot as plt

    fig = plt.figure()
    with pytest.raises(ValueError, match="figure"):
        plots.show(fig, name, alt)
    plt.close(fig)

"""The surface that turns: self-contained, small, readable without sight or scripts."""

import base64
import html.parser
import re
import shutil
import subprocess

import numpy as np
import pytest

from twinlib.page.surface import LARGEST, Frame, surface_html

ALT = "Two valleys, named A and B, with a ridge between them."


def page(**options):
    x = np.linspace(0, 1, 40)
    height = (x[:, None] - 0.5) ** 2 + x[None] * 0.1
    frames = [Frame(height, "u = 0", [(0.2, 0.4, "A")]), Frame(2 * height, "u = 1 <script>")]
    return surface_html(frames, "demo", ALT, upper=1.0, ceiling=0.5, **options)


def test_nothing_is_fetched_and_the_size_is_bounded():
    text = page(paths=np.random.default_rng(0).random((20, 5, 2)))
    assert not re.search(r'https?:|["(]//|src=|@import|url\(', text)
    assert len(text.encode()) < LARGEST


def test_controls_have_labels_and_the_canvas_has_alt_text():
    class Reader(html.parser.HTMLParser):
        inside, labelled, canvas = 0, [], {}

        def handle_starttag(self, tag, attrs):
            self.inside += tag == "label"
            if tag == "input":
                self.labelled.append(self.inside > 0)
            if tag == "canvas":
                self.canvas.update(attrs)

        def handle_endtag(self, tag):
            self.inside -= tag == "label"

    reader = Reader()
    reader.feed(page())
    assert reader.labelled and all(reader.labelled)
    assert reader.canvas["role"] == "img" and reader.canvas["aria-label"] == ALT
    assert "<noscript>" in page() and "<li>u = 0</li>" in page()


def test_labels_cannot_break_out_of_the_script():
    assert page().count("<script>") == 1
    assert "<li>u = 1 &lt;script&gt;</li>" in page()


def test_heights_come_back_from_the_page():
    packed = re.search(r'"heights":"([^"]+)"', page())[1]
    heights = np.frombuffer(base64.b64decode(packed), np.uint8).reshape(2, 40, 40) / 255 * 0.5
    x = np.linspace(0, 1, 40)
    np.testing.assert_allclose(heights[0], (x[:, None] - 0.5) ** 2 + x[None] * 0.1, atol=0.5 / 255)


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_script_parses(tmp_path):
    script = re.search(r"<script>(.*?)</script>", page(), re.S)[1]
    file = tmp_path / "surface.js"
    file.write_text(script)
    done = subprocess.run(["node", "--check", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_bad_surfaces_are_refused():
    with pytest.raises(ValueError, match="alt text"):
        surface_html([Frame(np.zeros((4, 4)), "")], "x", "short", upper=1, ceiling=1)
    with pytest.raises(ValueError, match="coarser grid"):
        surface_html([Frame(np.zeros((600, 600)), "")], "x", ALT, upper=1, ceiling=1)

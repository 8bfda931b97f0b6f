"""Names in backquotes lead to the source of the package; a folded cell carries its title as label."""

from __future__ import annotations

import collections
import json

import pytest
import source_links

Entry = collections.namedtuple("Entry", "objtype")
Domain = collections.namedtuple("Domain", "modules objects")
DOMAIN = Domain(
    {"twinlib.policy.trust_region": None, "twinlib.policy": None},
    {
        "twinlib.policy.trust_region.mean_kl": Entry("function"),
        "twinlib.policy.trust_region.train": Entry("function"),
        "twinlib.policy.trust_region.Step": Entry("class"),
        "twinlib.policy.trust_region.Step.size": Entry("method"),
        "twinlib.policy.Step": Entry("class"),
    },
)
PAGE = "_modules/twinlib/policy/trust_region"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("mean_kl", f"{PAGE}#mean_kl"),
        ("mean_kl(old, new)", f"{PAGE}#mean_kl"),
        ("twinlib.policy.trust_region", PAGE),
        ("twinlib.policy.trust_region.Step.size", f"{PAGE}#Step.size"),
        ("train(...)", f"{PAGE}#train"),
        ("train", None),  # a word
        ("Step", None),  # two classes have this name
        ("size", None),
        ("mean_kl + 1", None),
        ("no_such_name", None),
    ],
)
def test_place_of_a_name(text: str, place: str | None) -> None:
    assert source_links.place(text, source_links.pages(DOMAIN)) == place


def test_folded_cells_get_their_title_as_label() -> None:
    title = '# @title Draw it { display-mode: "form" }\nprint(1)'
    cells = [
        {"source": title, "metadata": {"tags": ["hide-input"]}},
        {"source": title, "metadata": {}},
        {"source": "print(1)", "metadata": {"tags": ["hide-input"]}},
    ]
    source = [json.dumps({"cells": cells})]
    source_links.label_folds(None, "notebooks/01", source)
    labels = [
        cell["metadata"].get("mystnb", {}).get("code_prompt_show") for cell in json.loads(source[0])["cells"]
    ]
    assert labels == ["Code: Draw it", None, None]

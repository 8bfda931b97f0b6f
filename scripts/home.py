"""Write the setup cell (and the address) everywhere: python scripts/home.py [URL]"""

from __future__ import annotations

import pathlib
import re
import sys

import ipynb
import stamp

_TITLE = '# @title Install the package where it is missing { display-mode: "form" }\n'
_UNSET = """import importlib.util
import pathlib
import subprocess
import sys

if importlib.util.find_spec("twinlib") is None:
    copies = sorted(pathlib.Path().glob("twin-book*.zip"))
    if not copies:
        raise ModuleNotFoundError(
            "twinlib is not installed: run `make environment` in a copy of the book, "
            "or `make zip`, and upload twin-book.zip to the folder of this notebook."
        )
    pip = [sys.executable, "-m", "pip", "install", "-q"]
    subprocess.run([*pip, str(copies[-1])], check=True)
    importlib.invalidate_caches()
import twinlib"""
_SET = """import importlib.util
import subprocess
import sys

HOME = "{url}"
if importlib.util.find_spec("twinlib") is None:
    pip = [sys.executable, "-m", "pip", "install", "-q"]
    subprocess.run([*pip, f"git+{{HOME}}"], check=True)
    importlib.invalidate_caches()
import twinlib"""
_BLOCK = re.compile(r"# >>> home\n.*?# <<< home\n", re.S)
_BADGES = re.compile(r"<!-- >>> home -->\n.*?<!-- <<< home -->\n", re.S)
_SETUP = re.compile(r"^# %%[^\n]*\"setup\"[^\n]*\n.*?(?=^# %%)", re.S | re.M)


def address() -> str:
    """Return the repository's address from the one place that holds it (_config.yml), or an empty string."""
    import yaml

    config = yaml.safe_load((stamp.ROOT / "_config.yml").read_text(encoding="utf-8"))
    return str(config.get("repository", {}).get("url", ""))


def setup_cell() -> str:
    """Return the canonical text of every notebook's setup cell."""
    return _TITLE + (_SET.format(url=address()) if address() else _UNSET)


def write_setup(source: pathlib.Path, text: str) -> None:
    """Write the canonical setup cell into a py:percent source."""
    before = source.read_text(encoding="utf-8")
    cell = f'# %% tags=["setup", "hide-input"]\n{text}\n\n'
    after, count = _SETUP.subn(lambda match: cell, before, count=1)
    if not count:
        raise SystemExit(f'{source.name} has no code cell with the tag "setup".')
    if after != before:
        source.write_text(after, encoding="utf-8")


def _config_block(url: str) -> str:
    inside = ""
    if url:
        inside = (
            f"repository:\n  url: {url}\n  branch: main\n"
            "launch_buttons:\n  notebook_interface: classic\n  colab_url: https://colab.research.google.com\n"
        )
    return f"# >>> home\n{inside}# <<< home\n"


def _badge_block(url: str) -> str:
    inside = "The book has no public address yet; `make home URL=...` sets it here and in every setup cell.\n"
    if url:
        where = re.sub(r"^https?://github\.com/|^file://|\.git$", "", url).strip("/")
        colab = f"https://colab.research.google.com/github/{where}/blob/main/notebooks"
        links = [f"- [{path.stem}]({colab}/{path.stem}.ipynb)" for path in stamp.sources()]
        inside = f"Repository: <{url}>\n\nOpen a chapter in Colab:\n\n" + "\n".join(links) + "\n"
    return f"<!-- >>> home -->\n{inside}<!-- <<< home -->\n"


def _swap(path: pathlib.Path, pattern: re.Pattern[str], text: str) -> None:
    before = path.read_text(encoding="utf-8")
    if not pattern.search(before):
        raise SystemExit(f"{path.name} lost the markers between which the address is written.")
    path.write_text(pattern.sub(lambda _: text, before), encoding="utf-8")


def write_address(url: str) -> None:
    """Write the address into _config.yml and CITATION.cff; an empty one takes it out."""
    if url and not re.fullmatch(r"(https|file)://[^\s\"'\\{}]+", url):
        raise SystemExit("The address must look like https://HOST/OWNER/NAME.")
    _swap(stamp.ROOT / "_config.yml", _BLOCK, _config_block(url))
    cited = f"repository-code: {url}\n" if url else ""
    _swap(stamp.ROOT / "CITATION.cff", _BLOCK, f"# >>> home\n{cited}# <<< home\n")


def main() -> int:
    """Write the address (when given) where it belongs, and the setup cell into every notebook."""
    if len(sys.argv) > 2:
        raise SystemExit("Give one address: python scripts/home.py https://HOST/OWNER/NAME")
    if len(sys.argv) == 2:
        write_address(sys.argv[1])
    _swap(stamp.ROOT / "README.md", _BADGES, _badge_block(address()))
    for source in stamp.sources():
        write_setup(source, setup_cell())
        if source.with_suffix(".ipynb").is_file():
            ipynb.write(ipynb.paired(source), source.with_suffix(".ipynb"))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`make docs`: the site builds without a warning and without the network, and has every page and every public name."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

import sieverl

# A build in which a connection is an error
OFFLINE = """
import socket, sys
def refuse(*_): raise OSError("the site asked for the network")
socket.socket.connect = socket.getaddrinfo = refuse
from sphinx.cmd.build import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("furo", reason="pip install 'sieverl[docs]'")
    options = re.findall(r"-m sphinx (.*?) -d ", (ROOT / "Makefile").read_text())[0].split()
    assert "-W" in options
    argv = [*options, "-d", str(tmp_path / "doctrees"), str(ROOT / "docs"), str(tmp_path / "html")]
    done = subprocess.run([sys.executable, "-c", OFFLINE, *argv], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    for page in ROOT.glob("docs/*.md"):
        assert (tmp_path / "html" / f"{page.stem}.html").is_file()
    reference = (tmp_path / "html" / "api.html").read_text()
    assert not [name for name in sieverl.__all__ if name != "__version__" and f'id="sieverl.{name}"' not in reference]
    shown = (tmp_path / "html" / "index.html").read_text()
    assert not re.findall(r'(?:src|href)="https?://[^"]+\.(?:js|css|woff2?)', shown), "nothing is loaded from elsewhere"


def test_every_page_is_in_the_contents() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    trees = "".join(re.findall(r"```\{toctree\}(.*?)```", index, re.DOTALL))
    listed = re.findall(r"^(?:[^`\n]*<)?([\w-]+)>?$", trees, re.MULTILINE)
    assert sorted(listed) == sorted(page.stem for page in ROOT.glob("docs/*.md") if page.stem != "index")

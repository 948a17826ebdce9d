"""The commands and the code of docs/data.md run as they stand."""

import os
import re
import subprocess
import sys
from pathlib import Path

from conftest import ROOT

PAGE = ROOT / "docs" / "data.md"


def test_every_command_of_the_page_works(tmp_path):
    blocks = re.findall(r"^```(sh|python)\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert [kind for kind, _ in blocks] == ["sh", "sh", "sh", "python"]
    bin_first = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": bin_first, "HF_HUB_OFFLINE": "1"}
    printed = ""
    for kind, text in blocks:
        command = ["bash", "-euc", text] if kind == "sh" else [sys.executable, "-c", text]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, text + done.stderr
        printed += done.stdout
    assert "1 │ duplicate" in printed
    assert "1 │ no answer" in printed
    assert "2 │ kept" in printed
    assert r"What is half of 7? \frac{7}{2}" in printed

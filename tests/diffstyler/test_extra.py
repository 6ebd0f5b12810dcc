from __future__ import annotations

import subprocess
import sys


def test_the_missing_extra_is_named() -> None:
    code = """
import sys
from osasis.errors import UserError
sys.modules["diffusers"] = None
try:
    import diffstyler.base
except UserError as e:
    print(e)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    expected = "DiffStyler needs the package diffusers: pip install 'style-factory[diffstyler]'"
    assert out.stdout.strip() == expected

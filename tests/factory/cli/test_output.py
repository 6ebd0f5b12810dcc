"""Standard output holds only the result."""

from __future__ import annotations

import os
import subprocess
import sys


def test_output_of_libraries_goes_to_standard_error() -> None:
    code = (
        "import os\n"
        "from factory.cli import output\n"
        "with output.results_only_on_stdout():\n"
        "    print('a notice')\n"
        "    os.write(1, b'a notice of C code\\n')\n"
        "    output.print_result('{}')\n"
    )
    # As in a pipe: Python buffers standard output.
    buffered = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, env=buffered)
    assert ran.stdout == "{}\n"
    assert sorted(ran.stderr.splitlines()) == ["a notice", "a notice of C code"]

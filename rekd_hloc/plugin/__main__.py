"""hloc's own command lines with the rekd confs: ``python -m rekd_hloc.plugin extract_features``.

The first argument names a module of hloc, the rest is for that module, ``--help`` included.
"""

import importlib.util
import runpy
import sys
from collections.abc import Sequence

from rekd_hloc.plugin import register

USAGE = """\
usage: python -m rekd_hloc.plugin MODULE [arguments of hloc's MODULE]

Runs `python -m hloc.MODULE` with the rekd confs among its choices; for example
  python -m rekd_hloc.plugin extract_features --image_dir photos --export_dir out --conf rekd
  python -m rekd_hloc.plugin match_features --pairs out/pairs.txt --export_dir out \\
      --features feats-rekd-n2048-r1600 --conf NN-rekd
"""


def main(argv: Sequence[str]) -> int:
    """Run a module of hloc.

    Returns:
        0, or 2 if hloc or the module is not there; hloc itself may raise SystemExit.
    """
    if not argv or argv[0] in ("-h", "--help"):
        sys.stderr.write(USAGE)
        return 0 if argv else 2
    try:
        register()
    except ImportError as error:
        sys.stderr.write(f"rekd_hloc.plugin: error: {error}\n")
        return 2
    name = f"hloc.{argv[0]}"
    if not argv[0].isidentifier() or importlib.util.find_spec(name) is None:
        sys.stderr.write(f"rekd_hloc.plugin: error: hloc has no module {argv[0]!r}\n\n{USAGE}")
        return 2
    sys.argv = [name, *argv[1:]]
    runpy.run_module(name, run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

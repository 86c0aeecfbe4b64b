"""An opt-in for the shell: stock ``python -m hloc.extract_features --conf rekd`` works too.

Two files go into the environment's site-packages. Python runs a ``.pth`` line at every start; this
one installs an import hook that waits for the first ``import hloc`` and only then loads the plugin.
The hook imports ``rekd_hloc.plugin`` and nothing else, so that it fits other versions too.
"""

import importlib.metadata
import importlib.util
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from rekd_hloc.files import write_text
from rekd_hloc.plugin import HLOC_REMEDY, hloc_is_importable

STARTER = "rekd_hloc_hook.pth"
HOOK = "_rekd_hloc_hook.py"
FILES = {
    HOOK: '''\
"""Written by `rekd-hloc hloc enable`; `rekd-hloc hloc disable` removes it."""

import sys


class _WaitForHloc:
    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        if fullname == "hloc":
            sys.meta_path.remove(cls)
            try:
                import rekd_hloc.plugin
            except ImportError:
                pass


sys.meta_path.insert(0, _WaitForHloc)
''',
    STARTER: "import _rekd_hloc_hook\n",
}


def enable(site_dir: Path | None = None) -> str:
    """Write the hook and return what was installed where.

    Raises:
        OSError: the folder cannot be written; a virtual environment can.
    """
    folder = _site_packages(site_dir)
    for name, text in FILES.items():  # the starter last: it needs the hook
        try:
            write_text(folder / name, text)
        except OSError as error:
            raise OSError(f"cannot write {folder / name}; use a virtual environment") from error
    written = "".join(f"  {folder / name}\n" for name in FILES)
    return (
        f"installed\n{written}`python -m hloc.extract_features --conf rekd` now works in this "
        f"environment; `rekd-hloc hloc disable` removes both files\n{_describe_hloc()}"
    )


def disable(site_dir: Path | None = None) -> str:
    """Remove the hook and return what was removed."""
    folder = _site_packages(site_dir)
    removed = [folder / name for name in reversed(FILES) if (folder / name).exists()]
    for path in removed:  # the starter first
        path.unlink()
    for cached in (folder / "__pycache__").glob(f"{Path(HOOK).stem}.*.pyc"):
        cached.unlink()
    if not removed:
        return f"nothing to remove in {folder}"
    return "removed\n" + "\n".join(f"  {path}" for path in removed)


@dataclass(frozen=True)
class HookStatus:
    """Whether the hook is installed, and where hloc is.

    Attributes:
        folder: this environment's site-packages.
        present: files of the hook in it.
        is_enabled: all are there, as this version writes them.
        is_damaged: some are there, but not so.
        hloc_is_installed: hloc can be imported.
        hloc: what it is and where, or what to install.
    """

    folder: str
    present: list[str]
    is_enabled: bool
    is_damaged: bool
    hloc_is_installed: bool
    hloc: str

    def __str__(self) -> str:
        """Return it in lines for a person."""
        if self.is_enabled:
            state = "enabled: " + ", ".join(str(Path(self.folder) / name) for name in FILES)
        elif self.is_damaged:
            state = f"damaged, or of another version: {', '.join(self.present)}; enable it again"
        else:
            state = "not enabled"
        return f"hook in {self.folder}: {state}\n{self.hloc}"


def status(site_dir: Path | None = None) -> HookStatus:
    """Return whether the hook is installed, and where hloc is."""
    folder = _site_packages(site_dir)
    present = [name for name in FILES if (folder / name).exists()]
    is_enabled = all(
        name in present and (folder / name).read_text() == FILES[name] for name in FILES
    )
    return HookStatus(
        str(folder),
        present,
        is_enabled,
        bool(present) and not is_enabled,
        hloc_is_importable(),
        _describe_hloc(),
    )


def _site_packages(site_dir: Path | None) -> Path:
    return site_dir or Path(sysconfig.get_path("purelib"))


def _describe_hloc() -> str:
    if not hloc_is_importable():
        return f"hloc is not installed; {HLOC_REMEDY}"
    spec = importlib.util.find_spec("hloc")
    folder = Path(spec.origin).parent if spec and spec.origin else "an unknown folder"
    try:
        version = importlib.metadata.version("hloc")
    except importlib.metadata.PackageNotFoundError:
        version = "of unknown version"
    return f"hloc {version} in {folder}"

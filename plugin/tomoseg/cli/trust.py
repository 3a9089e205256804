"""The question whether a bundle's code may run."""

import sys

from tomoseg.bundle.metadata import Bundle
from tomoseg.bundle.registry import as_folder, find_bundle
from tomoseg.bundle.trust import hash_code, is_trusted, record, require_trusted
from tomoseg.bundle.unusual import find_unusual
from tomoseg.core.errors import UsageError, printable

MAX_FINDINGS = 20


def find_trusted(name_or_folder: Bundle | str, trust: bool) -> Bundle:
    """Return a bundle whose code may run; ask the user on the terminal where it is unknown.

    Args:
        name_or_folder: as `find_bundle` takes it.
        trust: let it run without asking.

    Raises:
        UntrustedBundleError: it is unknown, and there is no terminal to ask at.
        UsageError: the user said no.
    """
    bundle = find_bundle(name_or_folder, trust=trust)
    if sys.stdin.isatty() and sys.stderr.isatty() and not is_trusted(bundle):
        code = hash_code(bundle.root)
        _describe(bundle)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise UsageError(f"{bundle.root}: not run, because it is not trusted")
        record(bundle.root, code)
    require_trusted(bundle)
    return bundle


def _describe(bundle: Bundle) -> None:
    """Print what the user should know before the answer."""
    found = find_unusual(bundle.root)
    lines = [
        f"{bundle.root}: a bundle is code, and may do what you may do. This one is not trusted yet. A reading finds:",
        *(f"  {line}" for line in found[:MAX_FINDINGS] or ["nothing unusual"]),
    ]
    if len(found) > MAX_FINDINGS:
        lines.append(f"  and {len(found) - MAX_FINDINGS} more; see tomoseg info {as_folder(bundle.root)}")
    lines.append("Run it, and remember that it is trusted? [y/N] ")
    print("\n".join(map(printable, lines)), end="", file=sys.stderr, flush=True)

"""Clients that pip does not bring, into build/clients, without root: transformers.js from npm, Chromium from Debian.

    python tests/clients/programs.py                     # again: what is there stays

What cannot be had here is said in a sentence, and its rows are then missing.
"""

import shutil
import subprocess
import sys

from browser import UNPACKED, chromium
from javascript import PACKAGES, node_library

START = """#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
export LD_LIBRARY_PATH=$(find "$here/root" -name '*.so*' -printf '%h\\n' | sort -u | tr '\\n' ':')
exec "$here/root/usr/lib/chromium/chromium" "$@"
"""


def install_npm():
    from yxanul.hub_export.web import TRANSFORMERS

    PACKAGES.parent.mkdir(parents=True, exist_ok=True)
    # a script of onnxruntime-node would fetch CUDA
    done("npm", "install", "--ignore-scripts", "--silent", "--no-fund", TRANSFORMERS, cwd=PACKAGES.parent)


def install_chromium():
    """The packages that `apt-get install` would add, unpacked."""
    place = UNPACKED.parent
    (place / "packages").mkdir(parents=True, exist_ok=True)
    plan = done("apt-get", "install", "--simulate", "--no-install-recommends", "chromium", cwd=place)
    names = [line.split()[1] for line in plan.splitlines() if line.startswith("Inst ")]
    done("apt-get", "download", *names, cwd=place / "packages")
    for package in (place / "packages").iterdir():
        done("dpkg-deb", "-x", str(package), str(place / "root"), cwd=place)
    shutil.rmtree(place / "packages")
    UNPACKED.write_text(START)
    UNPACKED.chmod(0o755)
    done(str(UNPACKED), "--version", cwd=place)


def done(*words, cwd):
    return subprocess.run(words, cwd=cwd, check=True, capture_output=True, text=True).stdout


def main():
    for what, there, install in (
        ("transformers.js in Node (Node.js with npm; or NODE_PACKAGES)", node_library, install_npm),
        ("Chromium (Debian's package chromium; or CHROMIUM)", chromium, install_chromium),
    ):
        if there():
            continue
        try:
            install()
        except (OSError, subprocess.CalledProcessError) as error:
            said = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
            print(f"not run: {what}: {said[-1]}", file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    main()

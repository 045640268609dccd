"""Downloads hnswlib's headers: python hnswlib.py VERSION SHA256 FOLDER.

pip fetches the source package from the index that the user has set up and checks its hash; the
headers go to FOLDER/hnswlib, nothing of the package is run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

# pip asks a source package's build backend for metadata before it hands the package over. hnswlib
# names setuptools.build_meta, which would need setuptools, numpy and pybind11 and run setup.py.
# With this module of that name first in the search path there is nothing to install or to run.
BACKEND = """
import os

def prepare_metadata_for_build_wheel(folder, config_settings=None):
    name = "hnswlib-{version}.dist-info"
    os.mkdir(os.path.join(folder, name))
    with open(os.path.join(folder, name, "METADATA"), "w") as file:
        file.write("Metadata-Version: 2.1\\nName: hnswlib\\nVersion: {version}\\n")
    return name

def build_wheel(*_):
    raise NotImplementedError
"""


def download(version: str, sha256: str, folder: Path) -> Path:
    """The source package, in ``folder``.

    Raises:
        SystemExit: pip did not get it, or it is another file.
    """
    backend = folder / "backend"
    (backend / "setuptools").mkdir(parents=True)
    (backend / "setuptools" / "__init__.py").touch()
    (backend / "setuptools" / "build_meta.py").write_text(BACKEND.format(version=version))
    requirements = folder / "requirements.txt"
    requirements.write_text(f"hnswlib=={version} --hash=sha256:{sha256}\n")
    search = [str(backend), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--disable-pip-version-check"),
            *("--no-deps", "--no-binary", "hnswlib", "--no-build-isolation", "--require-hashes"),
            *("--dest", str(folder), "--requirement", str(requirements)),
        ],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(search)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode == 0:
        return folder / f"hnswlib-{version}.tar.gz"
    sys.stderr.write(done.stdout)
    if "DO NOT MATCH THE HASHES" in done.stdout:
        sys.exit(
            f"hnswlib {version} of your package index is another file than the one this build was "
            f"made for, whose SHA-256 is {sha256}"
        )
    sys.exit(
        f"pip cannot download hnswlib {version}; to build without it, set HNSWLIB_INCLUDE_DIR to a "
        "folder that holds hnswlib/hnswlib.h"
    )


def main(version: str, sha256: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # Whole or not at all: the build takes headers that are there for complete.
    with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
        package = download(version, sha256, Path(temporary))
        headers = Path(temporary) / "headers"
        (headers / "hnswlib").mkdir(parents=True)
        with tarfile.open(package) as archive:
            for member in archive:
                path = PurePosixPath(member.name)
                if path.match("hnswlib-*/hnswlib/*.h") and (file := archive.extractfile(member)):
                    (headers / "hnswlib" / path.name).write_bytes(file.read())
        shutil.rmtree(target, ignore_errors=True)
        headers.rename(target)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))

"""A folder of wheels for pip on hosts without a network: what is installed here, by reference.

TensorFlow alone takes two gigabytes, so the wheels hold no code. Each has the metadata, by which pip
resolves what depends on what, and the commands of a package that is installed here, and one line that
tells Python to look for the code where it is.
"""

import base64
import hashlib
import re
import site
import sysconfig
import zipfile
from importlib.metadata import distributions

_WHEEL = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def write_wheelhouse(folder):
    """Writes a wheel for every package that is installed here, but for this project's own."""
    folders = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()}
    for distribution in distributions(path=sorted(folders)):
        metadata = distribution.read_text("METADATA")
        if metadata and distribution.name != "distdqn":
            _write_wheel(folder, distribution, metadata)


def _write_wheel(folder, distribution, metadata):
    stem = f"{re.sub('[-_.]+', '_', distribution.name)}-{distribution.version}"
    files = {
        f"{stem}.pth": f"{distribution.locate_file('')}\n",
        f"{stem}.dist-info/METADATA": metadata,
        f"{stem}.dist-info/WHEEL": _WHEEL,
        f"{stem}.dist-info/entry_points.txt": distribution.read_text("entry_points.txt") or "",
    }
    record = f"{stem}.dist-info/RECORD"
    lines = [f"{name},sha256={_digest(text)},{len(text.encode())}\n" for name, text in files.items()]
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
        for name, text in {**files, record: f"{''.join(lines)}{record},,\n"}.items():
            wheel.writestr(name, text)


def _digest(text):
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()

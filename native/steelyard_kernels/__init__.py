"""Where the compiled routines lie. Everything else about them is `steelyard.kernels.native`'s business."""

from pathlib import Path

__version__ = "0.1.0"


def library() -> Path:
    """The shared library built with this package.

    Raises:
        FileNotFoundError: the package was installed without it.
    """
    found = sorted(Path(__file__).parent.glob("libsteelyard_kernels.*"))
    if not found:
        raise FileNotFoundError(f"no compiled library in {Path(__file__).parent}")
    return found[0]

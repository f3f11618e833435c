"""The ``radio`` command, and a check for other packages called ``radio``.

It lies outside the package on purpose: where Python finds another package of that name first, no module inside ours
can say so.
"""

from __future__ import annotations


def check_package() -> None:
    """Make sure that ``import radio`` gives this library.

    Raises:
        ImportError: Another package called ``radio`` is loaded or found first; the message says where it lies.
    """
    import radio

    if "load_model" in getattr(radio, "__all__", ()):
        return
    place = radio.__file__ or next(iter(radio.__path__), "an unknown place")
    raise ImportError(
        f"another package called 'radio' comes first in this process: {place}. Python keeps one package of a name. Use "
        "the two in processes of their own (for torch.hub: do not load the other one before), or remove the other one "
        "(an internet radio player goes with: pip uninstall radio; then install radio-vision again)"
    )


def main() -> int:
    """Run the ``radio`` command."""
    check_package()
    from radio.cli import main as run

    return run()

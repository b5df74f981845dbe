"""The API reference as HTML, from the docstrings: `python docs/reference.py OUT`, which `make docs` does.

Whatever pdoc warns of is an error here: a name it cannot find, an annotation it cannot resolve.
"""

import sys
import warnings
from collections.abc import Iterable
from pathlib import Path

import pdoc

import icce_ray

#: What people import, and the method itself.
MODULES = ("icce_ray", "icce_ray.settings", "icce_ray.core")


def main(out: str | Path, modules: Iterable[str] = MODULES) -> None:
    """Write the pages of the modules below the folder `out`. Raises Warning for what pdoc would only warn of."""
    for name in icce_ray.__all__:  # they are imported on first use, and pdoc looks at what is there
        setattr(icce_ray, name, getattr(icce_ray, name))
    parts = sorted(f"icce_ray.{path.stem}" for path in Path(icce_ray.__path__[0]).iterdir())
    left_out = [f"!{name}" for name in parts if name not in MODULES]
    pdoc.render.configure(docformat="google numpy", footer_text=f"icce-ray {icce_ray.__version__}")  # type: ignore
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pdoc.pdoc(*modules, *left_out, output_directory=Path(out))


if __name__ == "__main__":
    main(*sys.argv[1:])

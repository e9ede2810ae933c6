"""naturaltone enhances the tone of photos, and learns to do so without a single retouched example.

`from naturaltone import Enhancer` is the Python API; the command line is in `cli`. `import naturaltone` loads no heavy
package. The folders `pipeline`, `training`, `serving` and `infra` of the repository are its subpackages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from naturaltone.serving.enhancer import Enhancer

__version__ = "0.1.0"
__all__ = ["Enhancer", "__version__"]


def __getattr__(name: str) -> Any:
    # The import of the enhancer takes seconds, because of torch. --version and --help must not wait for it.
    if name == "Enhancer":
        from naturaltone.serving.enhancer import Enhancer

        return Enhancer
    raise AttributeError(f"module 'naturaltone' has no attribute '{name}'")

"""torchvision by name only: transformers and SGLang import it for image models, not served here."""

import enum

from placeholder import stand_in_for, submodule

_torchvision = stand_in_for("torchvision", version="0.28.0")


class InterpolationMode(enum.Enum):
    """Resampling filters; transformers builds a table from them at import."""

    NEAREST = "nearest"
    NEAREST_EXACT = "nearest-exact"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    BOX = "box"
    HAMMING = "hamming"
    LANCZOS = "lanczos"


_transforms = submodule(_torchvision, "transforms")
_v2 = submodule(_transforms, "v2")
for _module in (
    _transforms,
    _v2,
    submodule(_transforms, "functional"),
    submodule(_v2, "functional"),
):
    _module.InterpolationMode = InterpolationMode

"""The handwritten digits bundled with scikit-learn: 1,797 grey images of 8 x 8, 10 classes; no download.

Source: Alpaydin and Kaynak, Optical recognition of handwritten digits, UCI machine learning repository, 1998
(its test part).
"""

from __future__ import annotations

import torch
from torch import Tensor

from tardigrad.errors import MissingDependencyError
from tardigrad.seeding import random_stream

_TEST, _VALIDATION = 360, 180
_MEAN, _DEVIATION = 0.305, 0.376  # of all pixels, after division by 16


def load_digits() -> dict[str, tuple[Tensor, Tensor]]:
    """Splits ``train`` (1,257), ``validation`` (180) and ``test`` (360), always the same.

    Each is (images, labels): float32 (n, 1, 8, 8) of mean 0 and deviation 1, and int64 (n,).
    """
    try:
        from sklearn import datasets  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise MissingDependencyError("scikit-learn", extra="digits", purpose="the task 'digits'") from error
    bundle = datasets.load_digits()
    order = torch.from_numpy(random_stream(0, "digits split").permutation(len(bundle.target)))
    images = (
        torch.tensor(bundle.images, dtype=torch.float32).div_(16.0).sub_(_MEAN).div_(_DEVIATION).unsqueeze_(1)[order]
    )
    labels = torch.tensor(bundle.target, dtype=torch.int64)[order]
    ends = {"test": (0, _TEST), "validation": (_TEST, _TEST + _VALIDATION), "train": (_TEST + _VALIDATION, None)}
    return {name: (images[a:b].clone(), labels[a:b].clone()) for name, (a, b) in ends.items()}

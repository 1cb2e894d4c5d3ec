# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Open-set face indexation over a "video", with digits in the place of faces.

Real are the images: 1797 scans of digits, written by 43 people, 8 x 8 pixels, inside scikit-learn's package. A digit
stands for an identity, its many scans for the many looks of one person. Two photographs inside the package give the
pictures without a person: their left halves in training, their right halves in tests. Made is the video: the order
of shots, and the shots with two people, in which the pixel is the brighter one of two scans. There are real sets of
faces, but none that is free, small and without a download.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nemo_sortformer.data.tasks.sequences import LabelTask, SequenceConfig, Split, Turn

_SIDE = 8
_HELD_BACK = 5  # every fifth scan of a training digit is kept for sequences that are tested on


class FaceTask(LabelTask):
    """Frames are the 64 pixels of an image in [0, 1]; void is a piece of a photograph without a digit.

    Args:
        sequences: how identities take turns.
        seed: start of all draws.
        train: the digits to train on; the others are unseen.
        noise: standard deviation of the noise on every pixel, over the brightest value.
    """

    def __init__(
        self,
        sequences: SequenceConfig | None = None,
        *,
        seed: int = 0,
        train: Sequence[int] = (0, 1, 2, 3, 4, 5),
        noise: float = 0.05,
    ) -> None:
        from sklearn.datasets import load_digits, load_sample_image

        digits = load_digits()
        images = (digits.data / 16).astype(np.float32)
        unseen = [digit for digit in range(10) if digit not in train]
        super().__init__(
            {"train": [str(k) for k in train], "unseen": [str(k) for k in unseen]}, sequences or SequenceConfig(), seed
        )
        held_back = np.arange(len(images)) % _HELD_BACK == 0
        self.images: dict[Split, dict[str, NDArray[np.float32]]] = {
            split: {name: images[(digits.target == int(name)) & (chosen)] for name in self.classes[split]}
            for split, chosen in (("train", ~held_back), ("seen", held_back), ("unseen", np.ones_like(held_back)))
        }
        photos = [_gray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")]
        left = [photo[:, : photo.shape[1] // 2] for photo in photos]
        right = [photo[:, photo.shape[1] // 2 :] for photo in photos]
        self.photos: dict[Split, list[NDArray[np.float32]]] = {"train": left, "seen": right, "unseen": right}
        self.noise = noise

    def render(
        self, classes: Sequence[str], turns: Sequence[Turn], split: Split, rng: np.random.Generator
    ) -> NDArray[np.float32]:
        """Show another scan of the digit in each frame."""
        num_frames = self.sequences.num_frames
        frames = np.full((num_frames, _SIDE * _SIDE), -1.0, dtype=np.float32)
        for column, start, end in turns:
            scans = self.images[split][classes[column]]
            shown = scans[rng.integers(len(scans), size=end - start)]
            frames[start:end] = np.maximum(frames[start:end], shown)
        for frame in np.flatnonzero(frames[:, 0] < 0):
            photo = self.photos[split][int(rng.integers(len(self.photos[split])))]
            row, column = (int(rng.integers(size - _SIDE + 1)) for size in photo.shape)
            frames[frame] = photo[row : row + _SIDE, column : column + _SIDE].ravel()
        return frames + self.noise * rng.standard_normal(frames.shape).astype(np.float32)


def _gray(photo: NDArray[np.uint8]) -> NDArray[np.float32]:
    """A photograph at a sixteenth of its size, gray, in [0, 1]: at full size, 64 pixels hardly differ."""
    gray = photo.mean(axis=2) / 255
    rows, columns = (size // 4 * 4 for size in gray.shape)
    return gray[:rows, :columns].reshape(rows // 4, 4, columns // 4, 4).mean(axis=(1, 3)).astype(np.float32)

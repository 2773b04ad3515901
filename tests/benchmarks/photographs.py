"""What it takes to make a photograph ready, for docs/calibration.md: `python -m tests.benchmarks.photographs`.

Pillow with torchvision's transforms, as the workers of ParM's artifact use them, and OpenCV, as its frontend does, if
that is installed (`pip install opencv-python-headless`). Milliseconds on one thread, the median of 80.
"""

from __future__ import annotations

import importlib
import io
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torchvision import transforms

SIZES = ((100, 75), (200, 150), (300, 225), (400, 300), (500, 375), (600, 450))
"""Width and height."""


def photograph(width: int, height: int) -> bytes:
    """Return a JPEG file of smooth noise with a quarter of a byte for each pixel, as photographs have."""
    generator = np.random.default_rng(0)
    small = generator.integers(0, 255, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC), dtype=float)
    noisy = np.clip(smooth + generator.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noisy).save(file, "JPEG", quality=80)
    return file.getvalue()


def milliseconds(work: Callable[[], object]) -> float:
    """Return the median time of `work`."""
    taken = []
    for _ in range(90):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return 1e3 * float(np.median(taken[10:]))


def main() -> None:
    """Print a line for each size."""
    torch.set_num_threads(1)
    ready = transforms.Compose(
        [
            transforms.Resize((224, 224)),
            transforms.ToTensor(),
            transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        ]
    )
    try:
        opencv = importlib.import_module("cv2")
        opencv.setNumThreads(1)
    except ImportError:
        opencv = None
    for width, height in SIZES:
        file = photograph(width, height)
        line = (
            f"{width} x {height}: Pillow {milliseconds(lambda file=file: ready(Image.open(io.BytesIO(file)))):.2f} ms"
        )
        if opencv is not None:
            raw = np.frombuffer(file, np.uint8)

            def decoded(raw: np.ndarray[tuple[int], np.dtype[np.uint8]] = raw) -> object:
                resized = opencv.resize(opencv.imdecode(raw, opencv.IMREAD_COLOR), (224, 224))
                return resized.astype(np.float32) * (1 / 255)

            line += f", OpenCV {milliseconds(decoded):.2f} ms"
        print(line)


if __name__ == "__main__":
    main()

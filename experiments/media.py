"""Random media of two phases, and how well they conduct: a regression with exact labels."""

import numpy as np


def conductivities(
    count: int, side: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return media `float32[N, side, side, 1]` of -1 and 1, and their labels `float32[N, 3]`.

    The labels are the logarithms of the effective conductivities along both axes and the entry
    between them, each with mean 0 and variance 1 over the media.
    """
    # Blobs of a random share: smooth noise above a threshold.
    frequencies = np.fft.fftfreq(side) * side
    smooth = np.exp(-(frequencies[:, None] ** 2 + frequencies**2) / 8)
    noise = np.fft.ifft2(np.fft.fft2(rng.normal(size=(count, side, side))) * smooth).real
    threshold = rng.normal(scale=0.5, size=(count, 1, 1)) * noise.std()
    phases = np.where(noise > threshold, 1.0, -1.0)

    entries = np.array([effective(medium) for medium in np.where(phases > 0, 10.0, 1.0)])
    entries[:, :2] = np.log(entries[:, :2])
    labels = (entries - entries.mean(0)) / entries.std(0)
    return phases[..., None].astype(np.float32), labels.astype(np.float32)


def effective(a: np.ndarray) -> tuple[float, float, float]:
    """Return the conductivities along both axes and across of a periodic medium `a` `[n, n]`.

    `div(a (e + grad w)) = 0` is solved for the unit gradients e along both axes.
    """
    # Differences to the next pixel, `[n^2, n^2]`, and what the face between the two conducts.
    one = np.eye(a.size)
    pixels = one.reshape(-1, *a.shape)
    steps = [np.roll(pixels, 1, axis).reshape(one.shape) - one for axis in (1, 2)]
    nexts = [np.roll(a, -1, axis) for axis in (0, 1)]
    faces = [(2 * a * after / (a + after)).ravel() for after in nexts]

    # The constant that w is free to have is fixed by its mean, 0.
    pairs = list(zip(steps, faces, strict=True))
    flow = sum(step.T @ (face[:, None] * step) for step, face in pairs)
    w = np.linalg.solve(flow + 1 / a.size, np.stack([-step.T @ face for step, face in pairs], 1))
    rows = [
        (face * (1 + step @ each)).mean() for (step, face), each in zip(pairs, w.T, strict=True)
    ]
    return rows[0], rows[1], (faces[1] * (steps[1] @ w[:, 0])).mean()

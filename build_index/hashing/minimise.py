"""Adam for several parameters, each at a rate of its own: what codewords and routers are trained by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ..progress import Progress

WARM_UP = 8  # steps
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8  # of Adam, as everywhere


def minimise(
    loss: Callable[..., Any],
    parameters: dict[str, Any],
    rates: dict[str, float],
    steps: int,
    batch: Callable[[], tuple[Any, ...]],
    progress: Progress,
) -> dict[str, npt.NDArray[np.float32]]:
    """The parameters after so many steps down loss(parameters, *batch()), each step on a batch of its own.

    rates: the peak of each parameter's rate; rates rise for 8 steps and fall as a cosine.
    """
    import jax
    import jax.numpy as jnp
    import optax

    def curve(peak: float) -> Any:
        return optax.warmup_cosine_decay_schedule(0.0, peak, WARM_UP, max(steps, WARM_UP + 1))

    optimiser = optax.multi_transform(
        {name: optax.adam(curve(rate)) for name, rate in rates.items()}, {name: name for name in parameters}
    )

    @jax.jit
    def step(now: Any, state: Any, *batch: Any) -> Any:
        change, state = optimiser.update(jax.grad(loss)(now, *batch), state, now)
        return optax.apply_updates(now, change), state

    now: Any = {name: jnp.asarray(value) for name, value in parameters.items()}
    state = optimiser.init(now)
    for turn in range(steps):
        now, state = step(now, state, *batch())
        progress((turn + 1) / steps)
    return {name: np.asarray(value) for name, value in now.items()}


def adam(
    parameters: dict[str, npt.NDArray[np.float32]], rates: dict[str, float], steps: int
) -> Callable[[dict[str, npt.NDArray[np.float32]]], None]:
    """The same steps in numpy: each call moves the parameters, where they lie, down slopes of the same names.

    Kingma and Ba, arXiv 1412.6980, with the rates of `minimise`.
    """
    first, second = ({name: np.zeros_like(value) for name, value in parameters.items()} for _ in range(2))
    turn = 0

    def step(slopes: dict[str, npt.NDArray[np.float32]]) -> None:
        nonlocal turn
        share = turn / WARM_UP
        if turn >= WARM_UP:
            share = 0.5 * (1 + np.cos(np.pi * min(1.0, (turn - WARM_UP) / max(steps - WARM_UP, 1))))
        turn += 1
        for name, value in parameters.items():
            slope, rate = slopes[name], rates[name] * share / (1 - BETA_1**turn)
            first[name] += np.float32(1 - BETA_1) * (slope - first[name])
            second[name] += np.float32(1 - BETA_2) * (slope * slope - second[name])
            spread = np.sqrt(second[name] * np.float32(1 / (1 - BETA_2**turn))) + np.float32(EPSILON)
            value -= np.float32(rate) * first[name] / spread

    return step

"""Wrappers that make environments reproducible; observations are for Gymnasium's own wrappers."""

from __future__ import annotations

import sys
from typing import Any

import gymnasium


class FreshWorld(gymnasium.Wrapper):
    """Give Box2D walkers a new physics world at each reset.

    As shipped, their world survives `reset` and keeps traces of earlier episodes (contact and body
    order): of eight seeded episodes about three ran differently on a used and on a new instance, so
    that an episode's seed and actions did not reproduce it. With a new world they do.

    Args:
        env: An environment for which `applies` holds.
    """

    @staticmethod
    def applies(env: gymnasium.Env) -> bool:
        """Whether `env` is a Box2D walker (or derives from one) without this wrapper."""
        module = sys.modules.get("gymnasium.envs.box2d.bipedal_walker")
        if module is None or not isinstance(env.unwrapped, module.BipedalWalker):
            return False
        while isinstance(env, gymnasium.Wrapper):
            if isinstance(env, FreshWorld):
                return False
            env = env.env
        return True

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Reset in a new world; arguments and result as in Gymnasium."""
        walker: Any = self.unwrapped
        walker._destroy()  # while the old world still holds its bodies
        walker.world = type(walker.world)()
        return self.env.reset(seed=seed, options=options)

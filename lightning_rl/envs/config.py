"""The description of an environment, and how one instance is built from it."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import gymnasium
from gymnasium.envs.registration import EnvSpec, VectorizeMode
from gymnasium.spaces import Space
from gymnasium.vector import VectorEnv
from gymnasium.wrappers import FrameStackObservation, TimeLimit

from lightning_rl.envs.masks import ActionMaskObservation, BatchedActionMask
from lightning_rl.envs.registry import import_provider, todays_id
from lightning_rl.envs.spaces import ActionMode, action_adapter, flatten_space
from lightning_rl.envs.wrappers import FreshWorld
from lightning_rl.errors import ConfigError, check_choice, did_you_mean, nearest
from lightning_rl.trust import import_object

Made = TypeVar("Made", gymnasium.Env, VectorEnv)


@dataclass
class EnvConfig:
    """Everything that is needed to build the environments of a run.

    Exactly one of `id` and `factory` is given.

    Args:
        id: Registered Gymnasium id such as `CartPole-v1`, or `module:Id`.
        factory: Environment class or function that returns an environment; from Python only.
        num_envs: Environments stepped together, per rank; at least 1.
        vectorization: `sync` steps them in this process, `async` in one process each, `vector` uses
            the id's own batched implementation.
        kwargs: Keyword arguments of the environment.
        wrappers: Wrapper classes laid over each environment, first innermost: `module.Class`, or
            `{class_path: module.Class, init_args: {...}}`. One whose constructor takes `evaluation`
            is told whether it is laid over an environment of evaluation.
        max_episode_steps: Time limit in env steps; overrides the registered one.
        normalize_observation: Normalise float observations by running mean and standard deviation.
        normalize_reward: Divide rewards by the running standard deviation of the discounted return.
        frame_stack: Number of successive observations stacked into one, outside all wrappers.
        imports: Modules imported first, for the ids they register.
        eval_kwargs: Keyword arguments laid over `kwargs` in evaluation.
        action: What happens to Box actions: `clip` to the bounds, or `rescale` from [-1, 1] to
            them.

    Raises:
        ConfigError: For values outside their range, or when not exactly one of `id` and `factory`
            is given.

    Attributes:
        shows_action_mask: Whether observations hold the mask of valid actions; see
            `showing_action_mask`.
    """

    id: str | None = None
    factory: Callable[..., gymnasium.Env] | None = None
    num_envs: int = 1
    vectorization: Literal["sync", "async", "vector"] = "sync"
    kwargs: dict[str, Any] = field(default_factory=dict)
    wrappers: list[Any] = field(default_factory=list)
    max_episode_steps: int | None = None
    normalize_observation: bool = False
    normalize_reward: bool = False
    frame_stack: int | None = None
    imports: list[str] = field(default_factory=list)
    eval_kwargs: dict[str, Any] = field(default_factory=dict)
    action: ActionMode = "clip"

    def __post_init__(self) -> None:
        self._spaces: tuple[Space, Space] | None = None
        self._has_probed_spaces = False
        self.shows_action_mask = False
        if (self.id is None) == (self.factory is None):
            raise ConfigError(
                "expected exactly one of env.id and env.factory, "
                f"received {self.id!r}, {self.factory!r}"
            )
        if self.id is not None and not isinstance(self.id, str):
            raise ConfigError(
                f"expected env.id to be a registered id, received {self.id!r}; "
                "a class or function goes into env.factory"
            )
        if isinstance(self.factory, str):  # a checkpoint's note of what the factory was called
            self.factory = _Missing(self.factory)
        for name, lowest in (("num_envs", 1), ("max_episode_steps", 1), ("frame_stack", 1)):
            value = getattr(self, name)
            if value is not None and value < lowest:
                raise ConfigError(f"expected env.{name} to be at least {lowest}, received {value}")
        check_choice("env.vectorization", self.vectorization, ("sync", "async", "vector"))
        if self.vectorization == "vector" and self.normalize_reward:
            # The batch's resets pass through the running statistics as rewards of zero.
            raise ConfigError("env.normalize_reward needs vectorization: sync or async")
        check_choice("env.action", self.action, ("clip", "rescale"))

    @classmethod
    def coerce(cls, env: EnvLike) -> EnvConfig:
        """Return an `EnvConfig` for an id, a mapping of its fields, a class or a factory.

        Raises:
            ConfigError: For anything else, or an unknown key of a mapping.
        """
        if isinstance(env, EnvConfig):
            return env
        if isinstance(env, str):
            return cls(id=env)
        if isinstance(env, Mapping):
            known = [item.name for item in dataclasses.fields(cls)]
            for key in env:
                if key not in known:
                    raise ConfigError(
                        f"unknown key {key!r} of env{did_you_mean(key, known)}; "
                        f"expected among {known}"
                    )
            return cls(**env)
        if callable(env):
            return cls(factory=env)
        raise ConfigError(
            f"expected env to be an id, an EnvConfig, a mapping or a factory, received {env!r}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults; a factory as its qualified name."""
        values = {}
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            default = item.default_factory() if callable(item.default_factory) else item.default
            if value != default:
                values[item.name] = copy.deepcopy(value) if item.name != "factory" else self.name
        return values

    @property
    def name(self) -> str:
        """Id of the environment, or the qualified name of its factory."""
        if self.id is not None:
            return self.id
        return str(getattr(self.factory, "__qualname__", None) or type(self.factory).__qualname__)

    def make(self, evaluation: bool = False, **overrides: Any) -> gymnasium.Env:
        """Build one environment with its wrappers.

        Args:
            evaluation: Lay `eval_kwargs` over `kwargs`.
            **overrides: Laid over both, for example `render_mode`.

        Raises:
            ConfigError: For an unknown id (the three nearest are named), a package that is not
                trusted, or keyword arguments that the environment refuses.
        """
        self._import_modules()
        kwargs = {**self.kwargs, **(self.eval_kwargs if evaluation else {}), **overrides}
        env = (
            self._make_registered(kwargs)
            if self.factory is None
            else self._make_from_factory(kwargs)
        )
        if FreshWorld.applies(env):
            env = FreshWorld(env)
        for wrapper in self.wrappers:
            env = _wrap(env, wrapper, evaluation)
        if self.frame_stack:
            # The stack copies the space's generator, which would be seeded from the clock otherwise
            # and make the saved states of equal runs differ.
            env.observation_space.seed(0)
            # Behind the wrappers, so that those that make the frames come before what stacks them.
            env = FrameStackObservation(env, self.frame_stack)
        return ActionMaskObservation(env) if self.shows_action_mask else env

    def make_vector(self, num_envs: int) -> VectorEnv:
        """Build the id's own batched implementation with `num_envs` rows.

        Raises:
            ConfigError: When there is none, or something is asked for that needs single
                environments.
        """
        for name in ("factory", "wrappers", "frame_stack"):
            if getattr(self, name):
                raise ConfigError(
                    f"env.{name} needs single environments; use vectorization: sync or async"
                )
        spec = self._limited_spec()
        if spec.vector_entry_point is None:
            raise ConfigError(
                f"environment {self.id!r} has no batched implementation of its own; "
                "use vectorization: sync or async"
            )
        mode = VectorizeMode.VECTOR_ENTRY_POINT
        env = self._made(lambda: gymnasium.make_vec(spec, num_envs, mode, **self.kwargs))
        return BatchedActionMask(env) if self.shows_action_mask else env

    def spaces(self) -> tuple[Space, Space]:
        """Return the flat observation space and the action space, from a scratch instance.

        Raises:
            ConfigError: When one of them is not supported; the supported ones are named.
        """
        if self._spaces is None:
            env = self.make()
            try:
                action_adapter(env.action_space, self.action)
                self._has_probed_spaces = True
                self._spaces = flatten_space(env.observation_space), env.action_space
            finally:
                env.close()
        return self._spaces

    def remember_spaces(self, observation_space: Space, action_space: Space) -> None:
        """Take the spaces from a checkpoint: a policy can be rebuilt without its environment."""
        self._spaces = observation_space, action_space

    def showing_action_mask(self, shown: bool = True) -> EnvConfig:
        """Return this description, of environments whose observations hold the mask or do not.

        It is for algorithms that mask actions: they set it, not the fields, so that the saved
        configuration says so in one place.
        """
        if shown == self.shows_action_mask:
            return self
        config = copy.copy(self)
        config.shows_action_mask = shown
        if self._has_probed_spaces:  # they are those of an instance of the other kind
            config._spaces, config._has_probed_spaces = None, False
        return config

    def spec(self) -> EnvSpec:
        """Return Gymnasium's specification of the id.

        Raises:
            ConfigError: When no such id is registered; names the three nearest.
        """
        self._import_modules()
        identifier = todays_id(self.id or "")
        if ":" in identifier:
            module, identifier = identifier.split(":", 1)
            import_object(module)
        import_provider(identifier)
        try:
            return gymnasium.spec(identifier)
        except gymnasium.error.Error as error:
            choices = nearest(identifier, gymnasium.registry)
            hint = (
                f"nearest: {', '.join(choices)}"
                if choices
                else "`lightning-rl list environments` shows them"
            )
            raise ConfigError(f"unknown environment {identifier!r}; {hint}") from error

    def _import_modules(self) -> None:
        for module in self.imports:
            import_object(module)

    def _make_registered(self, kwargs: dict[str, Any]) -> gymnasium.Env:
        spec = self._limited_spec()
        # Both wrappers cost time in every step; the collector guarantees what they check.
        spec.disable_env_checker, spec.order_enforce = True, False
        return self._made(lambda: gymnasium.make(spec, **kwargs), kwargs)

    def _limited_spec(self) -> EnvSpec:
        spec = copy.deepcopy(self.spec())
        if self.max_episode_steps:
            spec.max_episode_steps = self.max_episode_steps
        return spec

    def _made(self, make: Callable[[], Made], kwargs: dict[str, Any] | None = None) -> Made:
        try:
            return make()
        except (gymnasium.error.Error, TypeError, ImportError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            received = self.kwargs if kwargs is None else kwargs
            raise ConfigError(
                f"environment {self.id!r} could not be made with {received}: {reason}"
            ) from error

    def _make_from_factory(self, kwargs: dict[str, Any]) -> gymnasium.Env:
        env = self.factory(**kwargs) if self.factory else None
        if not isinstance(env, gymnasium.Env):
            raise ConfigError(
                f"expected {self.name} to return a gymnasium.Env, received {type(env).__name__}"
            )
        return TimeLimit(env, self.max_episode_steps) if self.max_episode_steps else env


EnvLike = str | EnvConfig | Mapping[str, Any] | Callable[..., gymnasium.Env]
"""What algorithms take as `env`."""


class _Missing:
    """Stands for an environment factory whose name, but not code, a checkpoint holds."""

    def __init__(self, name: str) -> None:
        self.__qualname__ = name

    def __call__(self, **kwargs: Any) -> gymnasium.Env:
        raise ConfigError(
            f"this checkpoint was made with the environment factory {self.__qualname__}; "
            "pass it as env="
        )


def _wrap(env: gymnasium.Env, wrapper: Any, evaluation: bool) -> gymnasium.Env:
    path, init_args = wrapper, {}
    if isinstance(wrapper, Mapping) and wrapper.keys() <= {"class_path", "init_args"}:
        path, init_args = wrapper.get("class_path"), wrapper.get("init_args", {})
    make = import_object(path) if isinstance(path, str) else path
    if not callable(make):
        raise ConfigError(
            "expected a wrapper as module.Class or {class_path: module.Class, init_args: {...}}, "
            f"received {wrapper!r}"
        )
    if "evaluation" in inspect.signature(make).parameters:
        init_args = {"evaluation": evaluation, **init_args}
    try:
        return make(env, **init_args)
    except TypeError as error:
        raise ConfigError(f"wrapper {path} could not be laid over {env}: {error}") from error

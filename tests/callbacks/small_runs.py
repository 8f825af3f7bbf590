"""Runs of a second, for tests of callbacks that need a whole one."""

from lightning_rl import DQN, PPO, Trainer
from lightning_rl.storage.sealed import load_sealed


def ppo(**settings):
    defaults = {"total_env_steps": 320, "seed": 1, "num_steps": 32, "minibatch_size": 32}
    return PPO(**{"env": "CartPole-v1", **defaults, **settings})


def dqn(**settings):
    defaults = {"total_env_steps": 500, "seed": 1, "capacity": 200, "learning_starts": 50}
    steps = {"env_steps_per_iteration": 50, "train_frequency": 10, "batch_size": 16}
    return DQN(**{"env": "CartPole-v1", **defaults, **steps, **settings})


def fit(tmp_path, agent=None, *callbacks, ckpt_path=None, **settings):
    trainer = Trainer(
        run={"root": str(tmp_path), "experiment": "e", "name": "r"},
        callbacks=list(callbacks),
        accelerator="cpu",
        enable_progress_bar=False,
        **{"logger": False, "eval_every_env_steps": 0, "eval_episodes": 1, **settings},
    )
    trainer.fit(agent or ppo(), ckpt_path=ckpt_path)
    return trainer


def folder(tmp_path):
    return tmp_path / "e" / "r" / "checkpoints"


def names(tmp_path):
    return sorted(path.name for path in folder(tmp_path).glob("*.ckpt"))


def env_steps(path):
    return load_sealed(path)["lightning_rl"]["env_steps"]

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, Timer
from lightning.pytorch.demos.boring_classes import BoringModel

from lightning_rl.errors import CheckpointError
from lightning_rl.storage.checkpoint_io import SealedCheckpointIO, pack_volatile, unpack_volatile
from lightning_rl.storage.sealed import is_sealed, load_sealed, save_sealed

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec.* is deprecated:FutureWarning",  # from inside Lightning
    "ignore:.*does not have many workers:UserWarning",
    "ignore:Checkpoint directory .* exists and is not empty:UserWarning",
    "ignore:.*:lightning.pytorch.utilities.warnings.PossibleUserWarning",
)


def _trainer(folder, max_steps, callbacks=()):
    return Trainer(
        default_root_dir=folder,
        max_steps=max_steps,
        accelerator="cpu",
        callbacks=list(callbacks),
        plugins=[SealedCheckpointIO()],
        logger=False,
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )


def test_lightnings_own_entries_go_under_volatile_and_back():
    checkpoint = {
        "loops": {"fit_loop": {"n": 1}},
        "callbacks": {
            "ModelCheckpoint{'monitor': None}": {"dirpath": "/x"},
            "Timer": {"time_elapsed": 1.0},
            "EarlyStopping{'monitor': 'a'}": {"wait_count": 2},
            "TimerOfMine": {"n": 3},
        },
        "volatile": {"elapsed_s": 4.0},
        "state_dict": {"w": 5},
    }
    packed = pack_volatile(checkpoint)
    assert packed == {
        "state_dict": {"w": 5},
        "callbacks": {"EarlyStopping{'monitor': 'a'}": {"wait_count": 2}, "TimerOfMine": {"n": 3}},
        "volatile": {
            "elapsed_s": 4.0,
            "loops": {"fit_loop": {"n": 1}},
            "callbacks": {
                "ModelCheckpoint{'monitor': None}": {"dirpath": "/x"},
                "Timer": {"time_elapsed": 1.0},
            },
        },
    }
    assert "loops" in checkpoint
    assert checkpoint["volatile"] == {"elapsed_s": 4.0}
    assert unpack_volatile(packed) == checkpoint
    assert unpack_volatile(pack_volatile({"lr": 1})) == {"lr": 1, "volatile": {}}


def test_the_file_holds_the_loops_under_volatile_only(tmp_path):
    plugin = SealedCheckpointIO()
    plugin.save_checkpoint({"loops": {"a": 1}}, str(tmp_path / "new" / "a.ckpt"))
    assert load_sealed(tmp_path / "new" / "a.ckpt") == {"volatile": {"loops": {"a": 1}}}
    loaded = plugin.load_checkpoint(str(tmp_path / "new" / "a.ckpt"), weights_only=False)
    # where its replay segments are
    assert loaded == {"loops": {"a": 1}, "volatile": {"directory": str(tmp_path / "new")}}


def test_a_list_takes_the_function_that_publishes(tmp_path):
    path, publications = tmp_path / "a.ckpt", []
    SealedCheckpointIO().save_checkpoint({"a": 1}, path, storage_options=publications)
    assert not path.exists()
    (publish,) = publications
    publish()
    assert load_sealed(path) == {"a": 1, "volatile": {}}


def test_what_loggers_hold_is_written_before_the_file_is_seen(tmp_path):
    path, publications, seen = tmp_path / "a.ckpt", [], []
    checkpoint = {"a": 1, "flush_loggers": [lambda: seen.append(path.exists())]}
    SealedCheckpointIO().save_checkpoint(checkpoint, path, storage_options=publications)
    assert seen == []
    publications[0]()
    assert seen == [False]
    assert load_sealed(path) == {"a": 1, "volatile": {}}


def test_storage_options_are_refused(tmp_path):
    with pytest.raises(TypeError, match="expected storage_options=None"):
        SealedCheckpointIO().save_checkpoint({}, tmp_path / "a.ckpt", storage_options={"a": 1})


def test_removal_takes_links_and_files_and_nothing_else(tmp_path):
    plugin = SealedCheckpointIO()
    target = tmp_path / "env_steps=1.ckpt"
    save_sealed({}, target)
    (tmp_path / "last.ckpt").symlink_to(target.name)
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    plugin.remove_checkpoint(str(tmp_path / "last.ckpt"))
    plugin.remove_checkpoint(tmp_path / "link")
    plugin.remove_checkpoint(tmp_path / "missing.ckpt")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["env_steps=1.ckpt", "folder"]
    with pytest.raises(CheckpointError, match="is a directory"):
        plugin.remove_checkpoint(tmp_path / "folder")


def test_a_trainer_saves_and_resumes_through_it(tmp_path):
    first = _trainer(tmp_path, 3, [Timer()])
    first.fit(BoringModel())
    path = tmp_path / "a.ckpt"
    first.save_checkpoint(path)
    assert is_sealed(path)
    assert "loops" not in load_sealed(path)

    model = BoringModel()
    second = _trainer(tmp_path, 5, [Timer()])
    second.fit(model, ckpt_path=str(path))
    assert second.global_step == 5
    assert second.fit_loop.epoch_loop.batch_progress.total.completed == 5

    loaded = BoringModel.load_from_checkpoint(path, weights_only=True)
    assert torch.equal(loaded.layer.weight, first.lightning_module.layer.weight)


def test_a_trainer_refuses_a_flipped_file_for_fit_and_test(tmp_path):
    trainer = _trainer(tmp_path, 1)
    trainer.fit(BoringModel())
    path = tmp_path / "a.ckpt"
    trainer.save_checkpoint(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    for use in (_trainer(tmp_path, 2).fit, _trainer(tmp_path, 2).test):
        with pytest.raises(CheckpointError, match=r"a\.ckpt: is damaged"):
            use(BoringModel(), ckpt_path=str(path))


def test_model_checkpoint_works_with_links_and_top_k(tmp_path):
    callback = ModelCheckpoint(
        tmp_path / "ckpt",
        every_n_train_steps=1,
        save_top_k=2,
        monitor="step",
        mode="max",
        save_last="link",
        filename="{step}",
    )
    _trainer(tmp_path, 4, [callback]).fit(BoringModel())
    folder = tmp_path / "ckpt"
    assert sorted(p.name for p in folder.iterdir()) == ["last.ckpt", "step=3.ckpt", "step=4.ckpt"]
    assert (folder / "last.ckpt").is_symlink()
    assert load_sealed(folder / "last.ckpt")["global_step"] == 4
    trainer = _trainer(tmp_path, 6, [callback])
    trainer.fit(BoringModel(), ckpt_path="last")
    assert trainer.global_step == 6

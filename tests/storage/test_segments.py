import os

import pytest
import torch

from lightning_rl.errors import CheckpointError
from lightning_rl.storage import segments
from lightning_rl.storage.sealed import save_sealed
from lightning_rl.storage.segments import (
    SegmentStore,
    checkpoint_env_steps,
    list_checkpoints,
    newest_good_checkpoint,
)


def _columns(start, end):
    index = torch.arange(start, end)
    return {"reward": index.float(), "observation": index[:, None] * torch.tensor([1, 10])}


@pytest.fixture
def store(tmp_path):
    return SegmentStore(tmp_path / "replay")


def _flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def test_append_then_read_any_range(store):
    refs = [store.append(a, _columns(a, b)) for a, b in ((0, 5), (5, 6), (6, 20))]
    assert [(ref["start"], ref["end"]) for ref in refs] == [(0, 5), (5, 6), (6, 20)]
    assert refs[0]["file"] == f"0-5-{refs[0]['sha256'][:12]}.segment"
    read = store.read(refs[::-1], 3, 9)
    assert read["reward"].tolist() == [3, 4, 5, 6, 7, 8]
    assert read["observation"].tolist() == [[i, 10 * i] for i in range(3, 9)]
    assert store.read(refs, 4, 4) == {}


def test_what_is_deferred_appears_when_it_is_published(store):
    deferred = []
    later = SegmentStore(store.directory, deferred)
    ref = later.append(0, _columns(0, 4))
    assert not later.holds(ref)
    for segment in deferred:
        segment.publish()
    assert later.holds(ref)
    assert ref == store.append(0, _columns(0, 4))
    assert store.read([ref], 0, 4)["reward"].tolist() == [0, 1, 2, 3]


def test_no_more_wait_than_may_be_open(store, monkeypatch):
    monkeypatch.setattr(segments, "MAX_DEFERRED", 2)
    deferred = []
    later = SegmentStore(store.directory, deferred)
    refs = [later.append(start, _columns(start, start + 1)) for start in range(4)]
    assert [later.holds(ref) for ref in refs] == [False, False, True, True]
    assert len(deferred) == 2
    for segment in deferred:
        segment.discard()
    assert len(list(store.directory.iterdir())) == 2


def test_equal_content_is_one_file(store):
    first = store.append(0, _columns(0, 4))
    order = dict(reversed(_columns(0, 4).items()))
    assert store.append(0, order) == first
    assert len(list(store.directory.iterdir())) == 1
    assert store.append(0, _columns(1, 5)) != first


def test_a_segment_costs_its_own_rows_not_the_buffers(store):
    buffer = torch.zeros(1_000_000)
    ref = store.append(0, {"reward": buffer[10:20]})
    assert (store.directory / ref["file"]).stat().st_size < 5_000


def test_columns_of_different_length_are_refused(store):
    for columns in ({}, {"a": torch.zeros(0)}, {"a": torch.zeros(2), "b": torch.zeros(3)}):
        with pytest.raises(ValueError, match="expected columns of one positive length"):
            store.append(0, columns)
    with pytest.raises(ValueError, match="start -1"):
        store.append(-1, {"a": torch.zeros(2)})


def test_a_damaged_segment_is_named(store):
    refs = [store.append(0, _columns(0, 5)), store.append(5, _columns(5, 9))]
    store.verify(refs)
    _flip(store.directory / refs[1]["file"])
    assert len(store.read(refs, 0, 5)["reward"]) == 5  # the damaged one is not needed
    with pytest.raises(CheckpointError, match=f"{refs[1]['file']}: is damaged"):
        store.read(refs, 0, 6)
    with pytest.raises(CheckpointError, match=f"{refs[1]['file']}: is damaged"):
        store.verify(refs)


def test_another_good_segment_under_the_name_is_refused(store):
    ref = store.append(0, _columns(0, 5))
    other = store.append(0, _columns(7, 12))
    os.replace(store.directory / other["file"], store.directory / ref["file"])
    with pytest.raises(CheckpointError, match="not the file referred to"):
        store.read([ref], 0, 5)
    with pytest.raises(CheckpointError, match="not the segment"):
        store.verify([ref])


@pytest.mark.parametrize(
    "change",
    [
        {"file": "../0-5-000000000000.segment"},
        {"file": "/etc/passwd"},
        {"start": "0"},
        {"end": None},
    ],
)
def test_a_crafted_reference_is_refused(store, change):
    ref = {**store.append(0, _columns(0, 5)), **change}
    for use in (lambda: store.read([ref], 0, 5), lambda: store.verify([ref])):
        with pytest.raises(CheckpointError, match=r"malformed|no segment's name"):
            use()


def test_a_reference_with_shifted_indices_is_refused(store):
    ref = store.append(0, _columns(0, 5))
    with pytest.raises(CheckpointError, match="other transitions"):
        store.read([{**ref, "start": 1, "end": 6}], 1, 6)


def test_a_gap_is_named(store):
    refs = [store.append(0, _columns(0, 5)), store.append(6, _columns(6, 9))]
    for wanted in ((0, 9), (5, 6), (8, 10)):
        with pytest.raises(CheckpointError, match="no segment holds transition"):
            store.read(refs, *wanted)
    (store.directory / refs[0]["file"]).unlink()
    with pytest.raises(CheckpointError, match="no such file"):
        store.read(refs, 0, 5)


def test_segments_with_different_columns_are_refused(store):
    refs = [store.append(0, {"a": torch.zeros(1)}), store.append(1, {"b": torch.zeros(1)})]
    with pytest.raises(CheckpointError, match="different columns"):
        store.read(refs, 0, 2)
    refs[1] = store.append(1, {"a": torch.zeros(1, 3)})
    with pytest.raises(CheckpointError, match="differ in shape"):
        store.read(refs, 0, 2)


def test_prune_keeps_what_is_named_and_foreign_files(store):
    refs = [store.append(i, _columns(i, i + 1)) for i in range(3)]
    (store.directory / "notes.txt").write_text("mine")
    removed = store.prune({refs[1]["file"]})
    assert removed == [refs[0]["file"], refs[2]["file"]]
    assert {p.name for p in store.directory.iterdir()} == {refs[1]["file"], "notes.txt"}
    assert SegmentStore(store.directory / "missing").prune(()) == []


def _checkpoint(path, env_steps):
    save_sealed({"lightning_rl": {"env_steps": env_steps}}, path)
    return path


@pytest.fixture
def folder(tmp_path):
    for steps in (100, 200, 1000):
        _checkpoint(tmp_path / f"env_steps={steps}.ckpt", steps)
    _checkpoint(tmp_path / "last.ckpt", 1100)
    _checkpoint(tmp_path / "best.ckpt", 200)
    (tmp_path / ".tmp-0123456789abcdef").write_bytes(b"half")
    (tmp_path / "env_steps=9999.ckpt.bak").write_bytes(b"")
    return tmp_path


def test_checkpoints_are_listed_from_the_newest_on(folder, tmp_path):
    names = [path.name for path in list_checkpoints(folder)]
    assert names == [
        "last.ckpt",
        "env_steps=1000.ckpt",
        "env_steps=200.ckpt",
        "env_steps=100.ckpt",
        "best.ckpt",
    ]
    assert list_checkpoints(tmp_path / "none") == []


def test_the_newest_good_checkpoint_is_found(folder):
    assert newest_good_checkpoint(folder) == (folder / "last.ckpt", [])
    _flip(folder / "last.ckpt")
    path, bad = newest_good_checkpoint(folder)
    assert path.name == "env_steps=1000.ckpt"
    assert [p.name for p, _ in bad] == ["last.ckpt"]
    assert bad[0][1] == "is damaged (its sha256 differs from its seal)"
    (folder / "env_steps=1000.ckpt").write_bytes(b"")
    assert newest_good_checkpoint(folder)[0].name == "env_steps=200.ckpt"


def test_a_numbered_file_newer_than_last_is_preferred(folder):
    _checkpoint(folder / "env_steps=1200.ckpt", 1200)
    assert newest_good_checkpoint(folder)[0].name == "env_steps=1200.ckpt"
    _flip(folder / "env_steps=1200.ckpt")
    path, bad = newest_good_checkpoint(folder)
    assert (path.name, len(bad)) == ("last.ckpt", 1)


def test_the_named_file_comes_first_and_falls_back(folder):
    best = folder / "best.ckpt"
    assert newest_good_checkpoint(folder, named=best) == (best, [])
    _flip(best)
    path, bad = newest_good_checkpoint(folder, named=best)
    assert (path.name, [p.name for p, _ in bad]) == ("last.ckpt", ["best.ckpt"])


def test_a_dangling_last_link_is_told_and_a_good_one_followed(folder):
    (folder / "last.ckpt").unlink()
    (folder / "last.ckpt").symlink_to("env_steps=5000.ckpt")
    path, bad = newest_good_checkpoint(folder)
    assert path.name == "env_steps=1000.ckpt"
    assert bad[0][1] == "is a link to 'env_steps=5000.ckpt', which does not exist"
    (folder / "last.ckpt").unlink()
    (folder / "last.ckpt").symlink_to("env_steps=1000.ckpt")
    assert newest_good_checkpoint(folder) == (folder / "last.ckpt", [])


def test_verification_can_include_what_the_checkpoint_refers_to(folder):
    def verify(path):
        if path.name in ("last.ckpt", "env_steps=1000.ckpt"):
            raise CheckpointError(f"{path}: its segment is missing")
        return checkpoint_env_steps(path)

    path, bad = newest_good_checkpoint(folder, verify=verify)
    assert path.name == "env_steps=200.ckpt"
    assert {reason for _, reason in bad} == {"its segment is missing"}


def test_all_bad_is_one_screen_and_touches_nothing(folder):
    for steps in range(2000, 2040):
        (folder / f"env_steps={steps}.ckpt").write_bytes(b"")
    for path in list_checkpoints(folder):
        path.write_bytes(b"damaged")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(CheckpointError, match="none of 45 checkpoints can be used") as caught:
        newest_good_checkpoint(folder)
    lines = str(caught.value).splitlines()
    assert len(lines) == 17
    assert lines[1].startswith("  last.ckpt: is damaged")
    assert lines[-1] == "  and 30 more"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_an_empty_folder_is_said_so(tmp_path):
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        newest_good_checkpoint(tmp_path)

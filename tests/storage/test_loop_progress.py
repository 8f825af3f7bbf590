import copy

import pytest

from lightning_rl.storage.loop_progress import rewind_unit, rewind_validation, settle_validation


def counts(ready, started, processed, completed):
    return {"ready": ready, "started": started, "processed": processed, "completed": completed}


@pytest.fixture
def loops():
    """Inside unit 8, behind a validation of 3 episodes that was repeated once after a stop."""
    unit = {"total": counts(8, 8, 7, 7), "current": counts(8, 8, 7, 7), "is_last_batch": True}
    validation = {
        "total": counts(7, 7, 6, 6),
        "current": counts(3, 3, 3, 3),
        "is_last_batch": True,
    }
    return {
        "fit_loop": {
            "epoch_loop.batch_progress": unit,
            "epoch_loop.val_loop.batch_progress": validation,
            "epoch_progress": {"total": counts(1, 1, 0, 0)},
        }
    }


def test_a_unit_that_has_begun_was_never_asked_for(loops):
    before = copy.deepcopy(loops)
    rewind_unit(loops)
    progress = loops["fit_loop"].pop("epoch_loop.batch_progress")
    assert progress == {
        "total": counts(7, 7, 7, 7),
        "current": counts(7, 7, 7, 7),
        "is_last_batch": False,
    }
    before["fit_loop"].pop("epoch_loop.batch_progress")
    assert loops == before


def test_a_validation_under_way_begins_anew(loops):
    rewind_validation(loops)
    progress = loops["fit_loop"]["epoch_loop.val_loop.batch_progress"]
    assert progress["current"] == counts(0, 0, 0, 0)
    # What Lightning takes for a stop inside an evaluation.
    assert progress["total"] == counts(7, 7, 6, 6)
    assert progress["is_last_batch"] is False


def test_a_validation_that_is_over_is_not_gone_back_to(loops):
    settle_validation(loops)
    progress = loops["fit_loop"]["epoch_loop.val_loop.batch_progress"]
    assert progress["total"] == counts(6, 6, 6, 6)
    assert progress["current"] == counts(3, 3, 3, 3)
    again = copy.deepcopy(loops)
    settle_validation(again)
    assert again == loops

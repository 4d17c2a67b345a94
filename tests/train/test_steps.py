"""Which checkpoint is taken: the last or the best that is whole; what is passed over is told, by file."""

import errno
import json
import shutil

import pytest
from disks import refuse_to_read

from bertjax.errors import DataError, GoneError, StorageError
from bertjax.paths import finished
from bertjax.supervise import kept
from bertjax.train import manifest
from bertjax.train.steps import Steps, folder_of, steps_of
from bertjax.train.stop import last_step


def make(run, step, score=None, phase=0):
    folder = folder_of(run, step)
    for name in ("encoder", "train", "extra"):
        (folder / name).mkdir(parents=True)
        (folder / name / "metadata").write_text('{"tree": {}}')
    if score is not None:
        (folder / "metrics").mkdir()
        (folder / "metrics" / "metrics").write_text(json.dumps({"phase": phase, "score": score}))
    manifest.write(folder)
    return folder


@pytest.fixture
def run(tmp_path):
    """Steps 2, 4 (the best), 6 and 8, which was not evaluated."""
    for step, score in {2: 0.5, 4: 0.9, 6: 0.7, 8: None}.items():
        make(tmp_path, step, score)
    return tmp_path


def test_which_steps_there_are(run):
    for name in ("10.orbax-checkpoint-tmp", "012", "x", "١٢", "²"):
        folder_of(run, name).mkdir()
    folder_of(run, 14).touch()
    assert steps_of(run) == Steps(run).numbers == [2, 4, 6, 8] and last_step(run) == 8
    assert kept(run) == {f"checkpoints/{step}" for step in (2, 4, 6, 8)}
    assert steps_of(run / "nothing") == []
    assert Steps(run).by_score() == [4, 6, 2, 8]


def test_which_steps_a_bucket_has():
    objects = ["8/commit_success.txt", "8/train/a", "9/train/a", "²/commit_success.txt", "x8/commit_success.txt"]
    assert finished([*objects, *(f"a/checkpoints/{name}" for name in objects)]) == ["8", "a/checkpoints/8"]


def test_of_equal_scores_the_last_is_best(run):
    make(run, 10, 0.9)
    assert Steps(run).by_score()[:2] == [10, 4]


def test_of_several_phases_one_of_the_last_is_best(run):
    make(run, 10, 0.1, phase=1)
    make(run, 12, 0.2, phase=1)
    assert Steps(run).by_score() == [12, 10, 4, 6, 2, 8]


def test_whole_steps_are_taken(run, capsys):
    assert Steps(run).latest_good() == (8, [])
    assert Steps(run).best_good() == (4, [])
    assert capsys.readouterr().err == ""


def test_damaged_steps_are_passed_over(run, capsys):
    (folder_of(run, 8) / "train/metadata").write_text("{}")
    shutil.rmtree(folder_of(run, 6) / "extra")
    assert Steps(run).latest_good() == (4, [8, 6])
    said = capsys.readouterr().err
    assert "checkpoints/8 is damaged and is passed over:\n  train/metadata: 2 bytes, not 12" in said
    assert "checkpoints/6 is damaged and is passed over:\n  extra/metadata: missing" in said
    assert Steps(run).best_good() == (4, [])


def test_the_next_best_is_taken(run, capsys):
    (folder_of(run, 4) / "encoder/metadata").write_text('{"manifesto": 1}')
    assert Steps(run).best_good() == (6, [4])
    assert "checkpoints/4 is damaged" in capsys.readouterr().err


def test_what_only_training_needs_may_be_damaged_elsewhere(run):
    (folder_of(run, 4) / "train/metadata").unlink()
    assert Steps(run).best_good() == (4, [])
    with pytest.raises(DataError, match=r"checkpoints/4 is damaged:\n  train/metadata: missing\n`bertjax inspect"):
        Steps(run).require(4, {"encoder", "train"})
    Steps(run).require(4, {"encoder"})


@pytest.mark.parametrize("text", ['{"phase": 0, "score": 1}', '{"phase": 0, "score": "?"}', '{"score": 1}', "{", None])
@pytest.mark.parametrize("step", [2, 4])
def test_a_score_that_is_damaged_chooses_nothing(run, step, text):
    path = folder_of(run, step) / "metrics/metrics"
    path.write_text(text) if text else path.unlink()
    assert Steps(run).best_good() == ((4, [2]) if step == 2 else (6, [4]))


def test_a_step_that_its_run_deletes_meanwhile_is_not_damaged(run, capsys):
    steps = Steps(run)
    shutil.rmtree(folder_of(run, 4))
    assert steps.best_good() == (6, []) and steps.latest_good() == (8, [])
    with pytest.raises(GoneError, match=r"checkpoints/4 was deleted while it was read, .* give the same command again"):
        steps.require(4, {"encoder"})
    for step in (2, 6, 8):
        shutil.rmtree(folder_of(run, step))
    for choose in (steps.latest_good, steps.best_good):
        with pytest.raises(GoneError):
            choose()
    assert capsys.readouterr().err == ""


def test_nothing_whole_is_an_error(run):
    for step in (2, 4, 6, 8):
        (folder_of(run, step) / manifest.NAME).unlink()
    for choose in (Steps(run).latest_good, Steps(run).best_good):
        with pytest.raises(DataError, match="no checkpoint is whole; if the run was copied copy it anew"):
            choose()


def test_a_step_without_a_manifest_is_damaged(run):
    (folder_of(run, 8) / manifest.NAME).unlink()
    assert Steps(run).faults(8, {"extra"}) == ["manifest.json: missing"]
    assert Steps(run).latest_good() == (6, [8])


def test_what_was_found_whole_is_not_read_again(run, monkeypatch):
    steps = Steps(run)
    assert steps.faults(8, {"extra"}) == []
    seen = []
    monkeypatch.setattr(manifest, "faults", lambda folder, wanted: seen.append(wanted) or [])
    steps.latest_good()
    steps.require(8, {"extra", "train"})
    assert seen == [{"encoder", "train"}, set()]


@pytest.mark.parametrize("part", ["8/manifest.json", "manifest.json", "8/train/metadata", "metrics/metrics"])
def test_what_cannot_be_read_is_not_passed_over(run, monkeypatch, capsys, part):
    refuse_to_read(monkeypatch, part, errno.EIO)
    with pytest.raises(StorageError, match=f"{part}: Input/output error; check the disk"):
        Steps(run).best_good() if part.startswith("metrics") else Steps(run).latest_good()
    assert capsys.readouterr().err == ""


def test_a_score_that_cannot_be_read_is_not_the_worst(run, monkeypatch):
    refuse_to_read(monkeypatch, "4/metrics/metrics", errno.EIO)
    with pytest.raises(StorageError, match="4/metrics/metrics: Input/output error"):
        Steps(run).by_score()

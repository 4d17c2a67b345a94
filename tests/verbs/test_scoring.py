"""What is computed once is not computed again, and what takes long tells how far it is."""

from copy import copy
from types import SimpleNamespace

import pytest

from bertjax import scoring
from bertjax.saved import open_run
from bertjax.tasks import find
from bertjax.train.mesh import MeshConfig, make_mesh


@pytest.fixture
def scored(home, finetuned):
    """A scorer of dev whose task writes files, and the parameters of the run."""
    saved, task, mesh = open_run(finetuned), copy(find("sms_spam")), make_mesh(MeshConfig(data=1))
    object.__setattr__(task, "writes", ("answers",))
    rows = task.read(str(home), "dev")
    scorer = scoring.Scorer(task, rows, saved.tokenizer, saved.objective(), mesh, length=24, batch_size=8)
    return scorer, saved.params(saved.objective(), mesh)


def test_the_last_evaluation_is_not_computed_again(scored, monkeypatch):
    scorer, params = scored
    scorer(SimpleNamespace(params=params, step=5))
    wanted = scorer.predictions(params, {})
    assert scorer.predictions_at(4, lambda: params, {}) == wanted
    monkeypatch.setattr(scorer, "_step", None)
    assert scorer.predictions_at(5, lambda: pytest.fail("read again"), {}) == wanted
    with pytest.raises(TypeError):
        scorer.predictions_at(4, lambda: params, {})


def test_a_long_one_tells_how_far_it_is(scored, monkeypatch, capsys):
    scorer, params = scored
    scorer.predictions(params, {})
    assert "scored" not in capsys.readouterr().err
    monkeypatch.setattr(scoring, "OFTEN", 0.0)
    scorer.predictions(params, {})
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("scored ")]
    assert [line.partition(";")[0] for line in told] == ["scored 8 of 24 examples", "scored 16 of 24 examples"]


def test_the_table_says_which_checkpoint_it_is_of(tmp_path, capsys):
    task = find("sms_spam")
    figures = dict.fromkeys(task.metrics, 0.5)
    scoring.write_scores(tmp_path / "scores.json", task, "dev", figures, {}, {"epoch": 3.0})
    scoring.write_scores(tmp_path / "scores.json", task, "test", figures, {}, {"step": 7})
    out = capsys.readouterr().out
    assert "sms_spam dev, checkpoint of epoch 3, the best\n" in out and "sms_spam test\n" in out

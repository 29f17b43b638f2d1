"""What `make train` says at its end."""

import json

import pytest

import learned


@pytest.mark.parametrize("has_learned, status", [(True, 0), (False, 1)])
def test_the_losses_the_verdict_and_the_next_commands_are_shown(
    tmp_path, capsys, has_learned, status
):
    results = {
        "before": {"loss": 8.4567},
        "after": {"loss": 3.0123},
        "baseline": {"loss": 5.7},
        "verdict": {"text": "it uses context", "learned": has_learned},
        "training": {"steps": 3700},
    }
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "run.json").write_text(json.dumps(results))
    assert learned.main(str(tmp_path), "first") == status
    out = capsys.readouterr().out
    assert "8.46  before training" in out and "5.70  baseline" in out
    assert "3.01  after 3,700 steps: it uses context" in out
    assert f"-p workdir {tmp_path} -p run_name first" in out

"""The metrics in a model's card."""

from matplotlib.figure import Figure

from registry.card import END, START, write_metrics

EVALUATION = {
    "dataset": "Dataset501_SpinalCordT2w",
    "split": "test",
    "checkpoint": "checkpoint_final.pth",
    "folds": [0, 1],
    "half": False,
    "cases": {"sub-01": {}, "sub-02": {}},
    "mean": {
        "sc": {
            "dice": 0.91234,
            "hd95_mm": 1.5,
            "precision": 0.9,
            "recall": 0.88,
            "volume_difference_ml": -0.25,
            "volume_difference_percent": -3.14,
        },
        "lesion": {"dice": None, "hd95_mm": None},
    },
}


def test_the_table_replaces_what_stood_between_the_marks_and_nothing_else(tmp_path):
    card = tmp_path / "README.md"
    card.write_text(f"# Träger\r\n{START}\nstale\n{END}\nafter\n", newline="")
    write_metrics(tmp_path, EVALUATION)
    text = card.read_bytes().decode()
    assert text.startswith(f"# Träger\r\n{START}\n")
    assert text.endswith(f"\n{END}\nafter\n")
    assert "stale" not in text
    assert "| sc | 0.91 | 1.50 | 0.90 | 0.88 | -0.25 | -3.1 |" in text
    assert "| lesion | not defined | not defined |" in text
    for fact in ("2 cases", "split test", "Dataset501_SpinalCordT2w", "checkpoint_final.pth", "folds 0, 1"):
        assert fact in text


def test_the_same_measurement_twice_leaves_the_file_alone(tmp_path):
    card = tmp_path / "README.md"
    card.write_text(f"{START}\n{END}\n")
    write_metrics(tmp_path, EVALUATION)
    first = card.stat()
    write_metrics(tmp_path, EVALUATION)
    assert (card.stat().st_ino, card.stat().st_mtime_ns) == (first.st_ino, first.st_mtime_ns)


def test_a_new_measurement_takes_the_place_of_the_old_one(tmp_path):
    card = tmp_path / "README.md"
    card.write_text(f"{START}\n{END}\n")
    write_metrics(tmp_path, EVALUATION)
    write_metrics(tmp_path, EVALUATION | {"half": True, "folds": ["all"], "cases": {"sub-03": {}}})
    text = card.read_text()
    assert text.count("| label |") == 1
    assert "Mean of 1 case (" in text
    assert "half precision" in text
    assert "fold all" in text


def test_a_card_without_a_block_is_left_alone_with_a_warning(tmp_path, capsys):
    card = tmp_path / "README.md"
    card.write_text(f"# Card\n{END}\n{START}\n")
    write_metrics(tmp_path, EVALUATION)
    assert card.read_text() == f"# Card\n{END}\n{START}\n"
    assert START in capsys.readouterr().err


def test_a_repo_without_a_card_gets_none(tmp_path, capsys):
    write_metrics(tmp_path, EVALUATION)
    assert list(tmp_path.iterdir()) == []
    assert "README.md" in capsys.readouterr().err


def test_a_lesion_models_card_counts_lesions_and_shows_them(tmp_path):
    card, run = tmp_path / "README.md", tmp_path / "run"
    card.write_text(f"{START}\n{END}\n")
    run.mkdir()
    lesion = {
        "dice": 0.5, "lesion_sensitivity": 0.75, "lesion_precision": None, "lesion_f1": 0.6, "reference_lesions": 2.5,
        "predicted_lesions": 1.0, "reference_ml": 0.21, "predicted_ml": 0.1, "false_positive_ml": 0.0123,
    }  # fmt: skip
    evaluation = {**EVALUATION, "threshold": 0.35, "mean": {"lesion": lesion}}
    write_metrics(tmp_path, evaluation, run)
    assert "| lesion | 0.75 | not defined | 0.60 | 2.5 | 1.0 | 0.21 | 0.10 | 0.012 |" in card.read_text()
    assert "threshold 0.35" in card.read_text()
    assert "![" not in card.read_text()
    figure = Figure()
    figure.savefig(run / "predictions.png", metadata={"Software": "somebody's"})
    write_metrics(tmp_path, evaluation, run)
    assert "](figures/predictions.png)\n<!--" in card.read_text()
    shown = (tmp_path / "figures" / "predictions.png").read_bytes()
    assert shown[:4] == b"\x89PNG"
    assert b"somebody" not in shown


def test_the_spread_over_cases_is_told_where_there_are_enough_of_them(tmp_path):
    card = tmp_path / "README.md"
    card.write_text(f"{START}\n{END}\n")
    dice = {"sub-01": 0.8, "sub-02": 0.9, "sub-03": 1.0}
    cases = {case: {"sc": {"dice": value, "hd95_mm": None}} for case, value in dice.items()}
    write_metrics(tmp_path, EVALUATION | {"cases": cases, "mean": {"sc": {"dice": 0.9, "hd95_mm": None}}})
    text = card.read_text()
    assert "Mean ± standard deviation of 3 cases (" in text
    assert "| sc | 0.90 ± 0.10 | not defined |" in text

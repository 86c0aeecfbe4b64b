"""The recipe of pipelines/hpatches.py gives what the program gives."""

import json

import cv2
import numpy as np
import pytest
from helpers import textured_image

from evaluation import hpatches
from pipelines import hpatches as recipe


@pytest.fixture
def sequences(tmp_path):
    folder = tmp_path / "data" / "v_one"
    folder.mkdir(parents=True)
    image = cv2.cvtColor(textured_image(160, 200, 1), cv2.COLOR_GRAY2BGR)
    matrix = np.array([[0.98, -0.12, 14.0], [0.10, 1.02, -6.0], [1e-4, -5e-5, 1.0]])
    cv2.imwrite(str(folder / "1.ppm"), image)
    cv2.imwrite(str(folder / "2.ppm"), cv2.warpPerspective(image, matrix, (200, 160)))
    np.savetxt(folder / "H_1_2", matrix)
    return tmp_path / "data"


def test_the_recipe_s_table_is_the_program_s(sequences, tmp_path, capsys):
    methods = ["--method", "sift", "--method", "orb"]
    assert recipe.main([str(sequences), str(tmp_path / "a"), *methods]) == 0
    assert "| orb |" in capsys.readouterr().out
    words = ["--data", str(sequences), "--out", str(tmp_path / "b"), *methods]
    assert hpatches.main(words) == 0
    one, two = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("a", "b"))
    assert one["tables"] == two["tables"]
    assert one["tables"][0]["rows"][0][1] > 20
    for name in ("table.md", "report.html", "sequences.csv", "curve-full.png"):
        assert (tmp_path / "a" / name).is_file()


def test_the_recipe_names_missing_data(tmp_path, caplog):
    assert recipe.main([str(tmp_path / "none"), str(tmp_path / "out")]) == 2
    assert "no folder of sequences" in caplog.text

from pipelines import imc2021
from tests.imc_photos import make_layout


def test_raw_images_to_table(tmp_path, capsys):
    make_layout(tmp_path / "data", num_views=3)
    options = ["--method", "sift", "rootsift", "--num-keypoints", "800", "--estimator", "magsac"]
    out = tmp_path / "new" / "table.md"
    arguments = [str(tmp_path / "data"), str(out), "--scene", "corner", "--threshold-px", "1"]
    assert imc2021.main([*arguments, *options]) == 0
    text = out.read_text()
    assert text == capsys.readouterr().out
    assert "phototourism/corner: 3 images, 2 pairs" in text
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| ")][1:]
    assert [row[1].strip() for row in rows] == ["sift", "rootsift"]
    assert all(float(row[5]) > 0.6 for row in rows), "mAA(10) of easy photos"


def test_the_recipe_names_missing_data(tmp_path, caplog):
    arguments = [str(tmp_path / "none"), str(tmp_path / "table.md"), "--scene", "corner"]
    assert imc2021.main(arguments) == 2
    assert str(tmp_path / "none") in caplog.text

"""Published numbers are read whole, and damaged files are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from pbt_bench.analysis.records.published import Published, load_published
from pbt_bench.errors import RequestError
from pbt_bench.models import models
from pbt_bench.pruning.plugins import pruners, scopes

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "results/published"
HEAD = "paper,dataset,model,method,sparsity,top1_mean,top1_std,n_runs,note\n"
ABOUT = 'recipe = "fts-2025"\ninit = "default"\nstatistic = "mean"\n[models]\nm = "vgg8"\n[left_out]\no = "odd"\n'
ROW = "P,digits,m,snip,0.9,90,1,3,\n"


@pytest.fixture(scope="module")
def published() -> Published:
    return load_published(FOLDER)


def test_every_row_of_all_papers_is_there(published: Published) -> None:
    rows = published.rows
    counts = {"synflow_2020": 1030, "fts_2025_table1": 45, "mge_snn_2024": 775, "mica_2024": 275}
    assert rows["file"].value_counts().to_dict() == counts
    assert (rows["source"] != "").all()
    assert set(rows["method"]) >= {"dense", "random", "snip", "grasp", "synflow", "fts", "fbss"}
    grasp = rows[
        (rows["method"] == "grasp") & rows["model"].notna() & rows["file"].isin(["fts_2025_table1", "synflow_2020"])
    ]
    assert grasp["note"].str.contains("sign of the GraSP score inverted").all()
    assert rows.loc[rows["model"].isna(), "note"].ne("").all(), "rows without a model here say why"
    row = rows[(rows["method"] == "fts") & (rows["sparsity"] == 0.98)].squeeze()
    assert (row["mean"], row["std"], row["n"]) == (pytest.approx(0.8724), pytest.approx(0.0032), 3)


def test_cells_of_mge_snn_and_mica_are_as_published(published: Published) -> None:
    rows = published.rows.set_index(["file", "dataset", "published_model", "published_method", "sparsity"]).sort_index()
    of_mge = rows.loc["mge_snn_2024"]
    assert of_mge.groupby("published_method").size().to_dict() == {
        **{"dsr": 66, "grasp": 75, "itop": 69, "prospr": 73, "random_er": 72, "random_erk": 72, "random_layer": 70},
        **{"rigl": 69, "snfs": 67, "snip": 70, "synflow": 72},
    }
    row = of_mge.loc[("cifar10", "CONV-6", "dsr", 0.6)]
    assert (row["mean"], row["std"], row["n"]) == (pytest.approx(0.9325), pytest.approx(0.0041), 2)
    assert of_mge.loc["cifar10"].loc["MobileNetV2", "note"].str.contains("MobileNetV2").all()
    assert of_mge.loc["tiny-imagenet", "model"].isna().all(), "images of another size"
    assert (rows["sanity"] == "none").loc[["mge_snn_2024", "mica_2024"]].all(), "GraSP has the right sign"
    of_mica = rows.loc["mica_2024"]
    assert of_mica.groupby(["dataset", "published_model"]).size().to_dict() == {
        **{("cifar10", "lottery_resnet20"): 80, ("cifar10", "lottery_vgg16_bn"): 115},
        **{("cifar100", "lottery_resnet20"): 32, ("cifar100", "lottery_vgg16_bn"): 48},
    }
    assert of_mica["effective_compression"].notna().sum() == 193
    row = of_mica.loc[("cifar10", "lottery_vgg16_bn", "mica_igq", 0.999683772)]
    assert row["density"] == pytest.approx(1 / 17984.3963), "it keeps as many weights as were effective"
    assert of_mica.loc[("cifar10", "lottery_vgg16_bn", "mica_synflow", 0.999999), "density"] == 0, "not printed"
    assert of_mica.loc[("cifar100", "lottery_resnet20", "mica_igq", 0.9), "density"] == pytest.approx(0.1)
    assert of_mica.loc[("cifar10", "lottery_resnet20", "grasp", 0.9), "density"] == pytest.approx(0.1)


def test_every_name_of_the_descriptions_exists(published: Published) -> None:
    assert set(published.rows["model"].dropna()) <= set(models())
    for about in published.about.values():
        assert {*about.recipes} <= {*about.models.values()}
        for equal in about.methods.values():
            scopes()[equal.scope]
            for name in equal.methods:
                pruners()[name.partition(" (")[0]]


@pytest.mark.parametrize(
    ("text", "about", "message"),
    [
        (HEAD.replace(",top1_mean", "") + ROW, ABOUT, "x.csv: no column top1_mean"),
        (HEAD + ROW.replace("90", "nine"), ABOUT, "x.csv, line 2: top1_mean = 'nine' must be a number from 0 to 100"),
        (HEAD + ROW.replace("90", "nan"), ABOUT, "x.csv, line 2: top1_mean = 'nan' must be"),
        (HEAD + ROW.replace("0.9,", "1.9,"), ABOUT, "line 2: sparsity = '1.9' must be a number from 0 to 1"),
        (HEAD + ROW.replace(",3,", ",0,"), ABOUT, "n_runs = '0' must be a number from 1"),
        (HEAD + ROW.replace(",m,", ",z,"), ABOUT, "line 2: unknown model 'z'"),
        (HEAD + ROW.replace("digits", ""), ABOUT, "a row needs a dataset and a method"),
        (HEAD + ROW + "P,digits\n", ABOUT, "line 3: more or fewer fields than columns"),
        (HEAD + ROW + ROW, ABOUT, "data rows 1 and 2 are of the same cell"),
        (HEAD + ROW + '"open', ABOUT, "not a csv file"),
        ("\0\0", ABOUT, "x.csv"),
        (HEAD + ROW, None, "x.toml: No such file"),
        (HEAD + ROW, "recipe = 1", "x.toml"),
        (HEAD + ROW, f'{ABOUT}[recipes]\nvgg8 = "none"\n', "x.toml: unknown recipe 'none'"),
        (HEAD + ROW, f'{ABOUT}[methods]\nsnip = {{ method = "x" }}\n', "x.toml"),
        (
            HEAD.strip() + ",effective_compression\n" + ROW.strip() + ",0.5\n",
            ABOUT,
            "effective_compression = '0.5' must be",
        ),
        (HEAD + ROW, ABOUT.replace("fts-2025", "fts-25"), "unknown recipe 'fts-25'; did you mean 'fts-2025'"),
    ],
)
def test_a_damaged_file_is_one_line_that_names_it(tmp_path: Path, text: str, about: str | None, message: str) -> None:
    (tmp_path / "x.csv").write_text(text)
    if about:
        (tmp_path / "x.toml").write_text(about)
    with pytest.raises(RequestError) as caught:
        load_published(tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)

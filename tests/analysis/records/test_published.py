"""Published numbers are read whole, and damaged files are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from pbt_bench.analysis.records.published import Published, load_published
from pbt_bench.errors import RequestError

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "results/published"
HEAD = "paper,dataset,model,method,sparsity,top1_mean,top1_std,n_runs,note\n"
ABOUT = 'recipe = "fts-2025"\ninit = "default"\nstatistic = "mean"\n[models]\nm = "vgg8"\n[left_out]\no = "odd"\n'
ROW = "P,digits,m,snip,0.9,90,1,3,\n"


@pytest.fixture(scope="module")
def published() -> Published:
    return load_published(FOLDER)


def test_every_row_of_both_papers_is_there(published: Published) -> None:
    rows = published.rows
    assert rows["file"].value_counts().to_dict() == {"synflow_2020": 1030, "fts_2025_table1": 45}
    assert (rows["source"] != "").all()
    assert set(rows["method"]) >= {"dense", "random", "snip", "grasp", "synflow", "fts", "fbss"}
    grasp = rows[(rows["method"] == "grasp") & rows["model"].notna()]
    assert grasp["note"].str.contains("sign of the GraSP score inverted").all()
    assert rows.loc[rows["model"].isna(), "note"].ne("").all(), "rows without a model here say why"
    row = rows[(rows["method"] == "fts") & (rows["sparsity"] == 0.98)].squeeze()
    assert (row["mean"], row["std"], row["n"]) == (pytest.approx(0.8724), pytest.approx(0.0032), 3)


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

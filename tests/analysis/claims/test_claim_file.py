"""Tests that claim files are read, and that a wrong one is an error of one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from pbt_bench.analysis.claims.claim_file import BestOf, Claim, Selection, load_claim, load_claims, selected
from pbt_bench.errors import RequestError
from pbt_bench.pruning.plugins import pruners

HEAD = 'statement = "A beats B"\nsource = "Doe 2020, Table 1"\nstudy = "digits"\nscale = "on digits"\n'
TEST = '[[test]]\ncompare = ["fts", "snip"]\nexpect = "greater"\n'


def read(tmp_path: Path, text: str) -> Claim:
    path = tmp_path / "claim.toml"
    path.write_text(HEAD + text, encoding="utf-8")
    return load_claim(path)


def test_lists_of_sides_and_for_each_are_repeated_tests(tmp_path: Path) -> None:
    claim = read(
        tmp_path,
        '[[test]]\ncompare = [["fts", { method = "hts", sanity = "shuffle" }], { best_of = ["snip", "grasp"] }]\n'
        'where = { sparsity = [0.9, 0.98], model = ["vgg8"] }\nfor_each = "sparsity"\n'
        'expect = "equal"\nmargin = 0.01\n',
    )
    assert [(each.labels, each.range) for each in claim.questions] == [
        (["fts", "best of snip, grasp"], "sparsity 0.9, model vgg8"),
        (["hts, sanity shuffle", "best of snip, grasp"], "sparsity 0.9, model vgg8"),
        (["fts", "best of snip, grasp"], "sparsity 0.98, model vgg8"),
        (["hts, sanity shuffle", "best of snip, grasp"], "sparsity 0.98, model vgg8"),
    ]
    assert claim.questions[0].left == Selection({"method": "fts"})
    assert isinstance(claim.questions[0].right, BestOf)
    assert (claim.name, claim.studies, claim.mini) == ("claim", ("digits",), ())


def test_a_range_is_a_text(tmp_path: Path) -> None:
    text = 'where = { sparsity = { minimum = 0.9, maximum = 0.98 }, "scoring.rounds" = { minimum = 2 } }\n'
    claim = read(tmp_path, TEST + text)
    assert claim.questions[0].range == "sparsity from 0.9 to 0.98, scoring.rounds 2 and more"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (TEST.replace("expect", "expct"), "test 1: unknown key 'expct'; did you mean 'expect'?"),
        (TEST + 'metric = "test_acuracy"', "unknown metric 'test_acuracy'; did you mean 'test_accuracy'?"),
        (TEST + "where = { sparsty = 0.9 }", "unknown column 'sparsty'; did you mean 'sparsity'?"),
        (TEST + "where = { sparsity = { minimun = 0.9 } }", "unknown key 'minimun'; did you mean 'minimum'?"),
        (TEST + "where = { sparsity = {} }", "minimum or maximum"),
        (TEST.replace("greater", "greatest"), "did you mean 'greater'?"),
        (TEST.replace("greater", "equal"), "expect = 'equal' needs a margin above 0"),
        (TEST.replace("greater", "above"), "expect = 'above' must be 'greater' or 'equal' or 'less' here"),
        (TEST + "value = 1.0", "expect = 'greater' has no value; write margin"),
        ('[[test]]\nmethod = "fts"\nexpect = "above"\n', "expect = 'above' needs value, a number"),
        ('[[test]]\nmethod = "fts"\nexpect = "above"\nvalue = 0.1\nmargin = 0.1', "has no margin; write value"),
        ('[[test]]\nexpect = "less"\n', "give exactly one of compare, method and correlation, not none"),
        (TEST.replace('["fts", "snip"]', '["fts"]'), "compare has 1 sides and needs 2"),
        (TEST.replace('"fts", ', "1, "), "1 is neither the label of a method nor a table of columns"),
        (TEST.replace('"fts"', '{ best_of = ["fts"] }'), "best_of needs a list of two or more"),
        (TEST.replace('"fts"', '{ best_of = ["fts", "hts"], seed = 0 }'), "best_of cannot be combined with seed"),
        (TEST.replace('"fts"', '{ model = "vgg8" }'), "model is of both sides: write it in where"),
        (TEST + 'for_each = "sparsity"', "for_each = 'sparsity' needs a list of its values in where"),
        ('[[test]]\nmethod = "fts"\nmetric = "mask_overlap"\nexpect = "below"\nvalue = 1', "needs compare"),
        ("test = []\n", "a claim needs at least one [[test]]"),
        ("", "missing test"),
        ("comment = 1\n" + TEST, "unknown key 'comment'"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_one_line(tmp_path: Path, text: str, error: str) -> None:
    with pytest.raises(RequestError) as caught:
        read(tmp_path, text)
    assert error in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path / 'claim.toml'}: ")
    assert "\n" not in str(caught.value)


def test_names_are_checked(tmp_path: Path) -> None:
    read(tmp_path, TEST)
    claims = load_claims(tmp_path)
    assert selected(claims, []) == selected(claims, ["claim"]) == ["claim"]
    with pytest.raises(RequestError, match="unknown claim 'clam'; did you mean 'claim'"):
        selected(claims, ["clam"])
    with pytest.raises(RequestError, match="no claim files there"):
        load_claims(tmp_path / "nothing")


def test_the_claims_of_the_project_name_methods_that_exist() -> None:
    claims = load_claims(Path(__file__).parents[3] / "claims")
    assert len(claims) >= 15
    for claim in claims:
        assert claim.studies
        assert claim.mini
        assert claim.statement.endswith(".")
        assert claim.scale.endswith(".")
        for question in claim.questions:
            for conditions in (question.where, *(side.conditions for side in question.sides)):
                named = conditions.get("method", [])
                for name in [named] if isinstance(named, str) else named:
                    assert name.partition(" (")[0] in pruners()

"""Tests that the run ids of every study in grids/ stay the same. A changed id would lose the results of a study."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from pbt_bench.grid_file import load_grid

FOLDER = Path(__file__).parents[1] / "grids"
RUN_IDS = {  # study: (number of runs, first 32 hex digits of the SHA-256 of its sorted run ids, one a line)
    "digits": (258, "e3d5e7bf08347309ea29eddb41747434"),
    "digits_baselines": (438, "33375510cc34f8a08ae93ff4f353a3f2"),
    "digits_upper_bounds": (111, "62768c20739f610e6c1f9bb779641469"),
    "fmnist_conv": (275, "2cdc4d1fcdf052fa81f6068886f1eb8a"),
    "fmnist_conv_mini": (111, "72de2691ae78d3d888926fef7cc86800"),
    "fmnist_hutchinson": (450, "7925ae1ce51f5515dd1a704327067085"),
    "fmnist_hutchinson_mini": (51, "33a4ead33a2c8616fb041931dd8af9da"),
    "fmnist_label_noise": (170, "628479390e45a720f6c47827fcf0ccac"),
    "fmnist_label_noise_mini": (18, "40e24507dec3e9fbc625807713be9ed2"),
    "fmnist_lenet300": (2600, "dda8603c866bbd2f88b414d38258d0ff"),
    "fmnist_lenet300_mini": (117, "47c5eab342f998b1117e46be88953394"),
    "fmnist_longer": (85, "dbd66b09e1581831e54bd032c050a392"),
    "fmnist_longer_mini": (51, "5dce870276e1b6c6f5f5a921095bfb28"),
    "fmnist_resnet": (275, "03bd69b8ed394d3b4bf81d2dc2afd9e6"),
    "fmnist_resnet_mini": (111, "be3423738f82d9f024e9e9291015da3a"),
    "fmnist_rounds": (240, "d17192f936686c2fc1ff44902dce9c47"),
    "fmnist_rounds_mini": (63, "9ffdb9bc86db61089784e8a8f0e63c69"),
    "fmnist_sanity": (410, "0f9ebd911ad4b2c101fbfa4489fba61e"),
    "fmnist_sanity_mini": (99, "aa50cb320844541c460ca23ad34ddbe6"),
    "fmnist_scoring_data": (250, "2a0893a39154aa00edcce0a4493bcce3"),
    "fmnist_scoring_data_mini": (75, "a3db0bc309543cb2735711642ab4f68d"),
    "fmnist_warmup": (432, "6d6bdd40e63abff4e8fc3a36d9ef9222"),
    "fmnist_warmup_mini": (39, "9e5d10a442863efaba91d163a827a67b"),
    "frankle_ablations": (1450, "6138a81fffb60e0b3040813ade3019ff"),
    "frankle_ablations_mini": (195, "b763acfad02e865d23c2af42cae35514"),
    "fts_cifar100": (276, "f83d273b752a9a66121ed8a6c20da7ec"),
    "fts_cifar100_mini": (168, "2d61243ee76bf569c7d9a1044c899897"),
    "fts_table1": (138, "081e2172b2b0ef8c89aae7508fbc5832"),
    "fts_table1_mini": (138, "2e0a32cc6b3e2c860f2eb1e3d6330e50"),
    "fts_vgg19": (138, "aa7e8b02431a5b5d2bc548c17fa83c39"),
    "fts_vgg19_mini": (138, "91938495e0c18c1e3816229edf018f38"),
    "fts_warmup": (1092, "7c12ac9469cab17f8bcbd85d307b9bcd"),
    "fts_warmup_mini": (93, "c681d05aee2f694277fc73fcdc7f3453"),
    "mge_snn": (738, "49b7fb8eb8640443060c34868ef87607"),
    "mge_snn_mini": (75, "14edc951f15e7fab945fbcf1254becac"),
    "mge_snn_wrn": (246, "8ecec5ff8aae8d3cf054d5770141180f"),
    "mge_snn_wrn_mini": (75, "54a690d658de62e1841a0c6063bf3bb8"),
    "mica_resnet20": (342, "97f06d58c2aa95bd933c8f101b1a8891"),
    "mica_resnet20_mini": (108, "cf7f8df62ab6020d749d9feefd6fb886"),
    "mica_vgg16": (510, "47714ada4f7ddedad7cd79973c315d6a"),
    "mica_vgg16_mini": (108, "026c9a04d9d29df722656f01ab8a31bb"),
    "synflow_accuracy": (1098, "389aaec2b4fa0cd3c1d515401c9141fe"),
    "synflow_accuracy_mini": (186, "3243a3876fc6a6961aa15ef84ed89465"),
    "synflow_accuracy_tiny": (183, "2877fafe763ee16ae73c4995ca552e6e"),
    "synflow_collapse": (363, "c8121fce3866def7e2df44157efbc4ca"),
    "synflow_collapse_mini": (123, "eb650751f075864e64dc53f400336f07"),
}


def test_every_study_is_pinned() -> None:
    assert {path.stem for path in FOLDER.glob("*.toml")} == set(RUN_IDS)


@pytest.mark.parametrize("name", RUN_IDS)
def test_the_run_ids_of_a_study_do_not_change(name: str) -> None:
    ids = sorted(run.run_id for run in load_grid(FOLDER / f"{name}.toml").runs())
    assert (len(ids), hashlib.sha256("\n".join(ids).encode()).hexdigest()[:32]) == RUN_IDS[name]

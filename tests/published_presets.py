"""Values of the presets in published code, with the file and line of each."""

from __future__ import annotations

from typing import NamedTuple


class Published(NamedTuple):
    """The values of a preset by field, each with "file:line" of `repository` at `commit` or of another repository."""

    repository: str
    commit: str
    recipe: dict[str, tuple[object, str]]
    scoring: dict[str, tuple[object, str]]


CROP_FLIP = "crop-flip"
MIL_AD_SNIP = "mil-ad/snip 883c8050d88554a8d85083013d7d1ddd7ead54c4"
SNIP_PAPER = "arXiv:1810.02340, Sec. 5, Experiment setup"
STEPS_PER_EPOCH = 352  # of SNIP: 45,000 images in batches of 128

FTS_V1 = Published(
    "Gollini/Fisher_Taylor_Sensitivity",
    "8651e8827a21a241d572d5129c8ef2af3c15841e",
    {
        "epochs": (160, "exp_configs/exp_fts.json:22"),
        "batch_size": (512, "exp_configs/exp_fts.json:15"),
        "optimizer": ("sgd", "exp_configs/exp_fts.json:27"),
        "learning_rate": (0.01, "exp_configs/exp_fts.json:28"),
        "momentum": (0.9, "exp_configs/exp_fts.json:29"),
        "nesterov": (False, "batch_exp/experiments/utils/load_model.py:123"),
        "weight_decay": (5e-4, "exp_configs/exp_fts.json:30"),
        "schedule": ("multistep", "batch_exp/experiments/utils/load_model.py:127"),
        "milestones": ([60, 120], "exp_configs/exp_fts.json:31-34"),
        "gamma": (0.2, "exp_configs/exp_fts.json:35"),
        "augment": (CROP_FLIP, "data/cifar.py:13-14"),
        "crop_padding": (4, "data/cifar.py:13"),
        "validation_fraction": (0.2, "data/cifar.py:45"),
    },
    {
        "samples_per_class": ("all", "data/cifar.py:65"),
        "fisher_batch_size": (1, "exp_configs/exp_fts.json:42"),
        "augment": (True, "data/cifar.py:65"),  # a loader over `train_subset`, whose images line 26 augments
        "prune_classifier": (False, "batch_exp/experiments/utils/compressors.py:17"),
        "batchnorm": ("running", "batch_exp/experiments/utils/compressors.py:502"),
        "temperature": (1.0, "batch_exp/experiments/utils/compressors.py:456"),
        "loss_temperature": (1.0, "batch_exp/experiments/utils/compressors.py:508"),
    },
)
FTS_V2 = Published(
    "Gollini/Scalable_Second_Order_PaI",
    "bfb50ad4ad2c19e2314a1da1d497b7cbe59fe661",
    {
        # exp_configs/exp_fts.json:24 says 5, before its own drops at 80 and 120
        "epochs": (160, "Gollini/Fisher_Taylor_Sensitivity exp_configs/exp_fts.json:22"),
        "batch_size": (512, "exp_configs/exp_fts.json:15"),
        "optimizer": ("sgd", "exp_configs/exp_fts.json:31"),
        "learning_rate": (0.03, "exp_configs/exp_fts.json:32"),
        "momentum": (0.9, "exp_configs/exp_fts.json:34"),
        "nesterov": (False, "batch_exp/experiments/utils/load_model.py:140"),
        "weight_decay": (5e-4, "exp_configs/exp_fts.json:35"),
        "schedule": ("multistep", "exp_configs/exp_fts.json:36"),
        "milestones": ([80, 120], "exp_configs/exp_fts.json:37-40"),
        "gamma": (0.2, "exp_configs/exp_fts.json:41"),
        "augment": (CROP_FLIP, "data/cifar.py:34-35"),
        "crop_padding": (4, "data/cifar.py:34"),
    },
    {
        "samples_per_class": (10, "exp_configs/exp_fts.json:50"),
        "batch_size": (1, "exp_configs/exp_fts.json:49"),
        "fisher_batch_size": (1, "exp_configs/exp_fts.json:49"),
        "augment": (True, "data/cifar.py:100"),  # a subset of `train_dataset`, whose images line 51 augments
        "order": ("shuffled", "data/cifar.py:104"),
        "prune_classifier": (False, "batch_exp/experiments/utils/compressors.py:15"),
        "batchnorm": ("running", "exp_configs/exp_fts.json:48"),  # warmup 0; 1 would refresh the statistics
        "temperature": (1.0, "batch_exp/experiments/utils/compressors.py:564"),
        "loss_temperature": (1.0, "batch_exp/experiments/utils/compressors.py:617"),  # of FTS; of HTS 200, line 728
        "probes": (10, "batch_exp/experiments/utils/compressors.py:661"),
        "probes_per_batch": (True, "batch_exp/experiments/utils/compressors.py:681-682"),
        "signed": (True, "batch_exp/experiments/utils/compressors.py:237"),
    },
)
SYNFLOW = Published(
    "ganguli-lab/Synaptic-Flow",
    "9dfa57aa4012c34028ee646d367f18e32f0e3bc7",
    {
        name: (value, f"Results/data/singleshot/0630_2020_cifar10_lottery_vgg11_bn_run0/args.json:{line}")
        for name, value, line in (
            ("epochs", 160, "22"),
            ("batch_size", 128, "51"),
            ("learning_rate", 0.1, "11"),
            ("weight_decay", 1e-4, "53"),
            ("milestones", [60, 120], "13-16"),
            ("gamma", 0.1, "12"),
        )
    }
    | {
        "optimizer": ("sgd", "Utils/load.py:181"),
        "momentum": (0.9, "Utils/load.py:181"),
        "nesterov": (True, "Utils/load.py:181"),
        "schedule": ("multistep", "Experiments/singleshot.py:32"),
        "augment": (CROP_FLIP, "Utils/load.py:35-36"),
        "crop_padding": (4, "Utils/load.py:49"),
    },
    {
        "samples_per_class": (10, "main.py:63"),  # 10 x classes images, drawn without regard to classes
        "batch_size": (256, "main.py:65"),
        "augment": (True, "Utils/load.py:49"),  # preprocess=train, and Experiments/singleshot.py:18 says True
        "prune_classifier": (True, "main.py:28"),
        "batchnorm": ("running", "prune.py:11-12"),
        "temperature": (200.0, "Pruners/pruners.py:138"),
    },
)


def grasp(network: str, weight_decay: float) -> Published:
    config = f"configs/cifar10/{network}/GraSP_98.json"
    return Published(
        "alecwangcq/GraSP",
        "f17d87ac537bfce476ac2424171a8b6eb56499db",
        {
            "epochs": (160, f"{config}:7"),
            "batch_size": (128, f"{config}:6"),
            "optimizer": ("sgd", "main_prune_non_imagenet.py:169"),
            "learning_rate": (0.1, f"{config}:8"),
            "momentum": (0.9, "main_prune_non_imagenet.py:169"),
            "nesterov": (False, "main_prune_non_imagenet.py:169"),
            "weight_decay": (weight_decay, f"{config}:9"),
            "schedule": ("multistep", "main_prune_non_imagenet.py:173"),
            "milestones": ([80, 120], "main_prune_non_imagenet.py:171-172"),
            "gamma": (0.1, "main_prune_non_imagenet.py:171-172"),
            "augment": (CROP_FLIP, "utils/data_utils.py:20-21"),
            "crop_padding": (4, "utils/data_utils.py:20"),
        },
        {
            "samples_per_class": (10, f"{config}:16"),
            "batches": (2, "pruner/GraSP.py:82-85"),
            "order": ("class", "pruner/GraSP.py:29"),
            "augment": (True, "main_prune_non_imagenet.py:271"),  # `trainloader`
            "batchnorm": ("batch", "pruner/GraSP.py:54"),  # a copy left in training mode
            "prune_classifier": (True, "pruner/GraSP.py:63"),
            "temperature": (200.0, "pruner/GraSP.py:49"),
        },
    )


SNIP = Published(
    "namhoonlee/snip-public",
    "f0284968bfa9b17d335587183b1c84cf628efe84",
    {
        "epochs": (150_000 // STEPS_PER_EPOCH, "README.md:23"),
        "batch_size": (128, "README.md:23"),
        "optimizer": ("sgd", "snip/model.py:120"),
        "learning_rate": (0.1, "README.md:23"),
        "momentum": (0.9, "snip/model.py:120"),
        "nesterov": (False, "snip/model.py:120"),
        "weight_decay": (2 * 0.00025, "snip/model.py:81"),  # the gradient of 0.00025 * sum of squares
        "schedule": ("multistep", "snip/model.py:131"),
        "milestones": ([round(n * 30_000 / STEPS_PER_EPOCH) for n in (1, 2, 3, 4)], "README.md:23"),
        "gamma": (0.2, "README.md:23"),
        "augment": (CROP_FLIP, "README.md:23"),
        "crop_padding": (4, "snip/augment.py:24"),
        "validation_fraction": (0.1, "snip/dataset.py:22"),
    },
    {
        "samples_per_class": ("all", "snip/prune.py:7"),
        "most_samples": (128, "README.md:23"),  # --batch_size, of pruning too: snip/prune.py:7
        "batch_size": (128, "README.md:23"),
        "augment": (False, "snip/prune.py:7"),
        "batchnorm": ("running", "snip/prune.py:10"),  # is_train: False, before any step
        "prune_classifier": (True, "snip/model.py:55"),
    },
)
PAPER = SNIP._replace(
    recipe={
        "epochs": (250, f"{MIL_AD_SNIP} train.py:25"),  # the paper states no length
        "batch_size": (128, SNIP_PAPER),
        "optimizer": ("sgd", SNIP_PAPER),
        "learning_rate": (0.1, SNIP_PAPER),
        "momentum": (0.9, SNIP_PAPER),
        "nesterov": (False, f"{MIL_AD_SNIP} train.py:280-284"),
        "weight_decay": (5e-4, SNIP_PAPER),
        "schedule": ("multistep", SNIP_PAPER),
        "milestones": ([round(n * 30_000 / STEPS_PER_EPOCH) for n in (1, 2)], SNIP_PAPER),
        "gamma": (0.1, SNIP_PAPER),
        "augment": (CROP_FLIP, SNIP_PAPER),
        "crop_padding": (4, SNIP_PAPER),
        "validation_fraction": (0.1, SNIP_PAPER),
    }
)


def force(epochs: int, last: int, batches: int, lines: dict[str, str]) -> Published:
    return Published(
        "naver/force",
        "7494eed332b0494c283d6f3a2ed7a033895a6ccb",
        {
            "epochs": (epochs, f"experiments/experiments.py:{lines['epochs']}"),
            "batch_size": (128, f"experiments/experiments.py:{lines['batch_size']}"),
            "optimizer": ("sgd", f"experiments/experiments.py:{lines['optimizer']}"),
            "learning_rate": (0.1, f"experiments/experiments.py:{lines['learning_rate']}"),
            "momentum": (0.9, f"experiments/experiments.py:{lines['momentum']}"),
            "nesterov": (False, f"experiments/experiments.py:{lines['optimizer']}"),
            "weight_decay": (5e-4, f"experiments/experiments.py:{lines['weight_decay']}"),
            "schedule": ("multistep", f"experiments/experiments.py:{lines['schedule']}"),
            "milestones": ([150, last], f"experiments/experiments.py:{lines['milestones']}"),
            "gamma": (0.1, f"experiments/experiments.py:{lines['schedule']}"),
            "augment": (CROP_FLIP, f"experiments/datasets.py:{lines['augment']}"),
            "crop_padding": (4, f"experiments/datasets.py:{lines['augment']}"),
        }
        | ({"validation_fraction": (0.1, "train_cifar_tiny_imagenet.py:68")} if last == 250 else {}),
        {
            "samples_per_class": ("all", "pruning/pruning_algos.py:41"),
            "most_samples": (batches * 128, f"README.md:{lines['batches']}"),
            "batch_size": (128, f"experiments/experiments.py:{lines['batch_size']}"),
            "new_batches": (True, "pruning/pruning_algos.py:41"),  # a new iterator for every batch of every round
            "augment": (True, "train_cifar_tiny_imagenet.py:147"),  # `train_loader`
            "batchnorm": ("batch", "pruning/pruning_algos.py:150"),  # a copy left in training mode
            "prune_classifier": (True, "pruning/pruning_algos.py:35"),
        },
    )


FORCE_CIFAR = {
    "epochs": "36",
    "batch_size": "34",
    "optimizer": "47-50",
    "learning_rate": "33",
    "momentum": "49",
    "weight_decay": "37",
    "schedule": "52",
    "milestones": "35",
    "augment": "69-70",
}
FORCE_TINY = {
    "epochs": "82",
    "batch_size": "80",
    "optimizer": "93-96",
    "learning_rate": "79",
    "momentum": "95",
    "weight_decay": "83",
    "schedule": "98",
    "milestones": "81",
    "augment": "200-201",
}
PROSPR = Published(
    "mil-ad/prospr",
    "a92177989f4480f1f2b43a48b3e18a6597ebba6d",
    {
        "epochs": (200, "cli.py:107"),
        "batch_size": (256, "cli.py:114"),
        "optimizer": ("sgd", "train.py:52"),
        "learning_rate": (0.1, "cli.py:118"),
        "momentum": (0.9, "cli.py:142"),
        "nesterov": (False, "train.py:52-57"),
        "weight_decay": (5e-4, "cli.py:149"),
        "schedule": ("multistep", "train.py:84"),
        "milestones": ([100, 150], "train.py:68"),
        "gamma": (0.1, "cli.py:133"),
        "augment": (CROP_FLIP, "datasets.py:17-18"),
        "crop_padding": (4, "datasets.py:17"),
    },
    {
        "samples_per_class": ("all", "prospr/prospr.py:252"),
        "most_samples": (128, "cli.py:98"),
        "batch_size": (128, "cli.py:98"),
        "augment": (True, "train.py:25-27"),  # `train_dataloader`
        "batchnorm": ("batch", "prospr/prospr.py:214"),
        "prune_classifier": (True, "prospr/utils.py:22-26"),
        "inner_steps": (3, "cli.py:62"),
        "inner_learning_rate": (0.1, "cli.py:68"),
        "inner_momentum": (0.0, "cli.py:75"),
    },
)
NTK_SAP = Published(
    "YiteWang/NTK-SAP",
    "e23682bc8798795107961af1afb236d349bf5c00",
    {
        "epochs": (160, "scripts/run.sh:12"),
        "batch_size": (128, "scripts/run.sh:8"),
        "optimizer": ("sgd", "scripts/run.sh:7"),
        "learning_rate": (0.1, "scripts/run.sh:9"),
        "momentum": (0.9, "Utils/load.py:201"),
        "nesterov": (False, "Utils/load.py:201"),
        "weight_decay": (1e-4, "scripts/run.sh:11"),
        "schedule": ("multistep", "Experiments/multishot.py:42"),
        "milestones": ([80, 120], "scripts/run.sh:10"),
        "gamma": (0.1, "main.py:45"),
        "augment": (CROP_FLIP, "Utils/load.py:35-36"),
        "crop_padding": (4, "Utils/load.py:49"),
    },
    {
        "samples_per_class": (10, "main.py:67"),  # 10 x classes images, drawn without regard to classes
        "batch_size": (256, "main.py:69"),
        "augment": (True, "Utils/load.py:49"),
        "batchnorm": ("batch", "scripts/run.sh:19"),
        "prune_classifier": (True, "main.py:27"),
        "perturbations": (5, "scripts/run.sh:20"),
        "perturbation_scale": (0.01, "main.py:95"),
        "temperature": (200.0, "Pruners/pruners.py:176"),
    },
)


def mge(weight_decay: float, line: int) -> Published:
    """The scoring is that of SNIP; GraSP has 25 images of each class, in two halves."""
    return Published(
        "eliacunegatti/mge-snn",
        "02ba1eb7c9751ec92f3e0cfa76193b32b16cd32b",
        {
            "epochs": (160, "utils/hyperparameters.py:7"),  # main.py:301 says 2, for a trial
            "batch_size": (128, "utils/datasets.py:17"),
            "optimizer": ("sgd", f"utils/hyperparameters.py:{line}"),
            "learning_rate": (0.1, f"utils/hyperparameters.py:{line}"),
            "momentum": (0.9, f"utils/hyperparameters.py:{line}"),
            "nesterov": (False, f"utils/hyperparameters.py:{line}"),
            "weight_decay": (weight_decay, f"utils/hyperparameters.py:{line}"),
            "schedule": ("multistep", "utils/hyperparameters.py:40"),
            "milestones": ([80, 120], "utils/hyperparameters.py:40"),
            "gamma": (0.1, "utils/hyperparameters.py:40"),
            "augment": (CROP_FLIP, "utils/datasets.py:7-8"),
            "crop_padding": (4, "utils/datasets.py:7"),
        },
        {
            "samples_per_class": ("all", "utils/pai/snip.py:22"),
            "most_samples": (128, "utils/datasets.py:17"),
            "batch_size": (128, "utils/datasets.py:17"),
            "augment": (True, "main.py:225"),  # `trainloader`
            "batchnorm": ("batch", "utils/pai/snip.py:28"),  # a copy of a model in training mode
            "prune_classifier": (True, "utils/pai/snip.py:33"),
            "temperature": (200.0, "utils/pai/grasp.py:49"),
        },
    )


def mica(model: str, learning_rate: float, gamma: float, weight_decay: float) -> Published:
    config = f"Configs/singleshot/snip/{model}/{model}.yml"  # the configurations of a model agree in these lines
    return Published(
        "Hikari43/minimum_connection_assurance",
        "9b1428358e5e37db9c3000a21d5dcb7aa939267a",
        {
            "epochs": (160, f"{config}:11"),
            "batch_size": (128, f"{config}:8"),
            "optimizer": ("sgd", "Utils/load.py:297"),
            "learning_rate": (learning_rate, f"{config}:12"),
            "momentum": (0.9, "Utils/load.py:297"),
            "nesterov": (True, "Utils/load.py:297"),
            "weight_decay": (weight_decay, f"{config}:15"),
            "schedule": ("multistep", "Experiments/singleshot.py:44"),
            "milestones": ([60, 120], f"{config}:13"),
            "gamma": (gamma, f"{config}:14"),
            "augment": (CROP_FLIP, "Utils/load.py:37-38"),
            "crop_padding": (4, "Utils/load.py:52"),
            "validation_fraction": (0.2, "Utils/load.py:96"),
        },
        {
            "samples_per_class": (10, f"{config}:23"),  # 10 x classes images, drawn without regard to classes
            "batch_size": (256, f"{config}:24"),
            "augment": (True, "Utils/load.py:52"),  # `prune_dataset` is a subset of the augmented training images
            "prune_classifier": (True, f"{config}:5"),
            "batchnorm": ("running", "prune.py:11-12"),
            "temperature": (200.0, "Pruners/pruners.py:163"),
        },
    )


def openlth(model: str, lines: dict[str, int], prune_classifier: tuple[bool, str]) -> Published:
    return Published(
        "facebookresearch/open_lth",
        "2ce732fe48abd5a80c10a153c45d397b048e980c",
        {
            "epochs": (160, f"models/{model}.py:{lines['epochs']}"),
            "batch_size": (128, f"models/{model}.py:{lines['batch_size']}"),
            "optimizer": ("sgd", f"models/{model}.py:{lines['optimizer']}"),
            "learning_rate": (0.1, f"models/{model}.py:{lines['optimizer'] + 3}"),
            "momentum": (0.9, f"models/{model}.py:{lines['optimizer'] + 1}"),
            "nesterov": (False, "foundations/hparams.py:157"),
            "weight_decay": (1e-4, f"models/{model}.py:{lines['optimizer'] + 5}"),
            "schedule": ("multistep", f"models/{model}.py:{lines['optimizer'] + 2}"),
            "milestones": ([80, 120], f"models/{model}.py:{lines['optimizer'] + 2}"),
            "gamma": (0.1, f"models/{model}.py:{lines['optimizer'] + 4}"),
            "augment": (CROP_FLIP, "datasets/cifar10.py:46"),
            "crop_padding": (4, "datasets/cifar10.py:46"),
        },
        {"prune_classifier": prune_classifier},
    )


PUBLISHED = {
    "fts-2025": FTS_V1,
    "fts-2025-v2": FTS_V2,
    "synflow-2020": SYNFLOW,
    "grasp-2020-vgg": grasp("vgg19", 5e-4),
    "grasp-2020-resnet": grasp("resnet32", 1e-4),
    "snip-2019": SNIP,
    "snip-2019-paper": PAPER,
    "force-2021": force(350, 250, 1, FORCE_CIFAR | {"batches": "16"}),
    "force-2021-cifar100": force(350, 250, 10, FORCE_CIFAR | {"batches": "18"}),
    "force-2021-tiny-imagenet": force(300, 225, 20, FORCE_TINY | {"batches": "18"}),
    "prospr-2022": PROSPR,
    "ntk-sap-2023": NTK_SAP,
    "mge-snn-2024": mge(1e-4, 13),
    "mge-snn-2024-wrn": mge(5e-4, 15),
    "mica-2024": mica("cifar10_lottery_resnet20", 0.01, 0.2, 5e-4),
    "mica-2024-vgg": mica("cifar10_lottery_vgg16_bn", 0.1, 0.1, 1e-4),
    "openlth-2020": openlth(
        "cifar_resnet",
        {"epochs": 148, "batch_size": 138, "optimizer": 142},
        (True, "models/cifar_resnet.py:151-154"),
    ),
    "openlth-2020-vgg": openlth(
        "cifar_vgg", {"epochs": 111, "batch_size": 101, "optimizer": 105}, (False, "models/cifar_vgg.py:117")
    ),
}

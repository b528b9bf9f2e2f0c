"""Map the shipped folders into the package, compile the kernels and name the wheel; the rest is in pyproject.toml."""

import re
import sys
import tomllib
from pathlib import Path

from setuptools import Extension, find_namespace_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

# These folders stand at the top of a clone, where readers look for them. pbt_bench/shipped.py finds both places.
SHIPPED = {Path(folder).name: folder for folder in ("claims", "grids", "methods", "results/published", "slurm")}


class BuildKernels(build_ext):
    """Compile a library for ctypes, which does not depend on the version of Python."""

    def get_ext_filename(self, fullname: str) -> str:
        """Return the file name without a Python version."""
        return fullname.replace(".", "/") + ".so"

    def build_extension(self, ext: Extension) -> None:
        """Compile without OpenMP on macOS: Apple's compiler has none, and a second runtime beside PyTorch's aborts."""
        if sys.platform == "darwin":
            ext.extra_compile_args = [word for word in ext.extra_compile_args if word != "-fopenmp"]
            ext.extra_link_args = []
        super().build_extension(ext)


class NameWheel(bdist_wheel):
    """Name the wheel after the platform if the kernels were compiled, and "any" if not: the Python version is free."""

    def get_tag(self) -> tuple[str, str, str]:
        """Return the tags of Python, binary interface and platform."""
        self.root_is_pure = not any(Path(self.bdist_dir).rglob("_kernels*.so"))
        return "py3", "none", super().get_tag()[2]


def description() -> str:
    """Return README.md with absolute addresses in place of paths, which a package index cannot resolve."""
    home = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Homepage"]

    def absolute(match: re.Match[str]) -> str:
        kind = "raw" if match[2].endswith((".png", ".svg")) else "blob"
        return f"{match[1]}{home}/{kind}/main/{match[2]}"

    text = Path("README.md").read_text(encoding="utf-8")
    return re.sub(r'(\]\(|(?:src|href)=")(?![a-z]+:|#)([^)"\s]+)', absolute, text)


own = find_namespace_packages(include=["pbt_bench", "pbt_bench.*"], exclude=["*.__pycache__"])
shipped = {f"pbt_bench.{name}": folder for name, folder in SHIPPED.items() if Path(folder).is_dir()}
setup(
    packages=[*own, *shipped],
    package_dir=shipped,
    long_description=description(),
    long_description_content_type="text/markdown",
    cmdclass={"build_ext": BuildKernels, "bdist_wheel": NameWheel},
)

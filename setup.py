"""Find the packages. Everything else about the distribution is in pyproject.toml."""

from setuptools import find_namespace_packages, setup

# methods/ stands at the top of a clone, where readers look for formulas, and is installed as pbt_bench.methods.
packages = find_namespace_packages(include=["pbt_bench", "pbt_bench.*"], exclude=["*.__pycache__"])
setup(packages=[*packages, "pbt_bench.methods"], package_dir={"pbt_bench.methods": "methods"})

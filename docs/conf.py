"""Sphinx configuration. `make docs` builds build/docs/index.html; every warning is an error."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

from pbt_bench import __version__  # noqa: E402

project = "pbt-bench"
author = "the authors of pbt-bench"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "mathml", "generated", "docstrings", "offline"]
exclude_patterns = ["_ext"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
default_role = "code"

html_theme = "furo"
html_title = f"pbt-bench {version}"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_copy_source = False
html_show_copyright = False
html_show_search_summary = False  # a page opened as a file may not read the others
html_theme_options = {"navigation_with_keys": True}
html_math_renderer = "mathml"

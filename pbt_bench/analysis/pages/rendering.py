"""Pages from the templates of the folder `templates`."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import jinja2

from pbt_bench.errors import printable_lines


@cache
def _environment() -> jinja2.Environment:
    loader = jinja2.PackageLoader("pbt_bench.analysis.pages")
    return jinja2.Environment(
        loader=loader,
        autoescape=True,
        finalize=printable_lines,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def source(name: str) -> str:
    """Return the text of a file in the folder of templates."""
    return files("pbt_bench.analysis.pages").joinpath("templates", name).read_text(encoding="utf-8")


def render(template: str, **values: object) -> str:
    """Fill in a template; texts are escaped, and a value that is missing is an error."""
    return _environment().get_template(template).render(values)

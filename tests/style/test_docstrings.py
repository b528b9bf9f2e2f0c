"""Tests of the first word of public docstrings: a verb in the imperative for functions, a noun for everything else.

The docstring of a registered function (`@pruner`, `@dataset`, …) describes it in a list, so it begins with a noun.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = sorted([*(ROOT / "pbt_bench").rglob("*.py"), *(ROOT / "methods").glob("*.py")])

# Add missing verbs to this list.
_VERBS = """
Accept Accumulate Adapt Add Advance Align Allocate Allow Answer Append Apply Ask Assemble Assign Attach Audit Augment
Begin Bind Block Break Build Calibrate Call Cancel Change Check Choose Claim Clear Clip Close Collect Combine Compare
Compile Complete Compress Compute Concatenate Configure Connect Construct Continue Convert Copy Count Create Decide
Declare Decode Define Delete Derive Describe Detach Determine Diagnose Discard Discover Divide Download Draw Drop
Embed Enable Encode End Enforce Ensure Enter Escape Estimate Evaluate Execute Exit Expand Explain Export Extend
Extract Fetch Fill Filter Find Finish Fit Flatten Fold Follow Force Forget Format Forward Gather Generate Get Give
Group Guess Hand Handle Hash Hide Hold Identify Ignore Import Index Initialise Insert Inspect Install Intercept
Interpolate Invert Iterate Join Keep Label Launch Lay Leave Let Limit Link List Load Look Lower Make Map Mark Mask
Match Measure Merge Migrate Move Multiply Name Normalise Note Notify Open Order Override Pack Pad Parse Partition Pass
Pause Perform Permute Place Plan Plot Pool Predict Prepare Print Process Produce Propagate Prune Pull Push Put Query
Raise Randomise Rank Read Rebuild Receive Recompute Record Reduce Refuse Register Reject Release Remove Rename Render
Renew Reorder Repeat Replace Replay Report Represent Request Require Rescale Reset Reshape Resolve Restore Resume
Retry Return Reverse Rewind Rotate Round Run Sample Save Say Scale Scan Score Search Select Send Separate Serialise
Serve Set Show Shuffle Simulate Skip Solve Sort Split Stack Start State Stop Store Stream Submit Substitute Subtract
Sum Summarise Suppress Swap Sweep Switch Synchronise Take Tell Terminate Test Tile Trace Track Train Transform
Transpose Traverse Treat Trim Try Unpack Update Use Validate Verify Visit Wait Walk Warm Warn Weight Widen Wrap Write
Yield Zero
"""
VERBS = frozenset(_VERBS.split())
NO_NOUNS = frozenset(
    ("Here", "How", "If", "Of", "So", "That", "What", "When", "Where", "Whether", "Which", "Who", "Why")
)
REGISTER = frozenset(("dataset", "figure", "model", "pruner", "scope", "statistic"))
PROPERTIES = frozenset(("cached_property", "property", "setter"))


def begins_well(text: str, verb: bool) -> bool:
    first = text.split(maxsplit=1)[0].rstrip(",.:;")
    return first in VERBS if verb else first not in NO_NOUNS


def decorators(node: ast.FunctionDef) -> set[str]:
    """Return the last part of the name of every decorator."""
    called = (d.func if isinstance(d, ast.Call) else d for d in node.decorator_list)
    return {d.attr if isinstance(d, ast.Attribute) else ast.unparse(d) for d in called}


def public(tree: ast.Module | ast.ClassDef) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    """Yield definitions without a leading underscore, also those in public classes."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from public(node)


def offences(path: Path) -> list[str]:
    """Return the name and the first line of every docstring that breaks the rule."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = []
    for node in [tree, *public(tree)]:
        text = ast.get_docstring(node)
        verb = isinstance(node, ast.FunctionDef) and not decorators(node) & (REGISTER | PROPERTIES)
        if text and not begins_well(text, verb):
            found.append(f"{getattr(node, 'name', 'module')}: {text.splitlines()[0]}")
    return found


def test_public_docstrings_begin_with_a_verb_or_a_noun() -> None:
    found = {path.relative_to(ROOT).as_posix(): offences(path) for path in FILES}
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_the_rule_tells_good_beginnings_from_bad_ones() -> None:
    for text in ("Return the sum.", "Raise RequestError if it is unknown.", "Compute, then write."):
        assert begins_well(text, verb=True), text
    for text in ("The sum.", "Returns the sum.", "What is summed.", "Masks of a method.", "Whether it is."):
        assert not begins_well(text, verb=True), text
    assert begins_well("A run.", verb=False)
    assert not begins_well("What a run is.", verb=False)

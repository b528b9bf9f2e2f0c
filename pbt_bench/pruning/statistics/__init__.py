"""Statistics: named quantities per weight, which pruners request by argument name.

Each file registers one or more functions of a `Task` with the decorator `statistic`. All files are imported when a
statistic is first needed.
"""

"""Statistics of panels of comparable runs: means, tests, ranks, overlaps, tables and sentences."""

"""Analysis of records: read them into a data frame, then write figures, tables and a report."""

"""Pages and files: the report of a study, the page of all studies, tables, and drawn figures."""

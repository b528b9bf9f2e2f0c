"""Published statements as data: reading their files, and testing them on the records of studies."""

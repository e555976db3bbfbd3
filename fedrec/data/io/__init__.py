"""Readers of files as people have them: CSV, TSV, Parquet, catalogues and single devices."""

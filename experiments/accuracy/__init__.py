"""How accurate reconstructions are, without any serving: networks x data sets x codes x recipes x seeds.

Start with `options.py`, what a study's YAML says; `study.py` runs it, `table.py` and `figures.py` show it.
"""

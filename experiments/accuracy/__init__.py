"""Studies of the accuracy of reconstructions, without serving: networks x data sets x codes x recipes x seeds.

Start with `options.py`, a study's YAML; `study.py` runs it, `table.py` and `figures.py` show the results.
"""

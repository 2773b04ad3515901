"""The figures of a run, one file each, all in the one style of `style.py`.

Start reading at `base.py` (what a figure is and what it is drawn from), then any figure; `drawing.py` draws and saves
the figures that an experiment names. matplotlib is imported only when a figure is drawn.
"""

"""The fit of `parm calibrate`; start with `options.py`. The calibration files of the paper's clusters are here, too."""

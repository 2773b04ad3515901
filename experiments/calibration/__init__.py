"""What `parm calibrate` fits, and how; begin with `options.py`. The files of the paper's clusters are here too."""

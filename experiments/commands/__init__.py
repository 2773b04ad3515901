"""One file per verb of the command line; `arguments` holds the options that verbs share."""

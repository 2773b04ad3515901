"""One HTML page that says what a run found, to send to somebody who has neither parm nor the run."""

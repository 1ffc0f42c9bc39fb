"""The folder of a run, the record of what was asked for, and the versions that it was made with."""

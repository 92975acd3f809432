"""Workarounds for bugs of other projects, one file each, in `worker` and `ui`.

Each describes the bug and has a line "Needed with PROJECT VERSION." The tests compare it with the
installed version: after an upgrade check whether the bug is fixed, and remove the file or change
the line. Nothing here imports the rest of the application.
"""

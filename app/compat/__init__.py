"""Work-arounds for faults of other projects, one file each, in `worker` and `ui`.

Each says what is wrong and has a line "Needed with PROJECT VERSION." The tests compare it with the
version that is installed: after an upgrade see whether the fault is mended, and remove the file or
change the line. Nothing here knows the rest of the application.
"""

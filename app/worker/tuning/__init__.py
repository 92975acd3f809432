"""Run-time settings of a step: on before its calls, off after them."""

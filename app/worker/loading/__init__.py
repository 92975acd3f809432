"""From files to live modules and whole pipelines, and back again."""

"""What a step sets for its calls: on before them, off after them."""

"""Which workflows there are, who may run them, and what is missing for them."""

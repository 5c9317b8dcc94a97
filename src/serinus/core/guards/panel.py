"""All guards of one stage together, and how the error budget is divided over them."""

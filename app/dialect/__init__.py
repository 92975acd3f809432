"""What a document may say, and the plan that it becomes. Never a model, never torch."""

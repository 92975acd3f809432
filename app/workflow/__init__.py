"""What a workflow may say: documents, plans and catalog. Free of torch and other heavy imports."""

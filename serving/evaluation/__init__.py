"""How good a model's pictures are: measures over many photos, tables, pages, and what each loss adds. No Ray."""

"""How the demo model is made: data, training, export and measurement (never imported by the product)."""

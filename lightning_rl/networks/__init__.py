"""Networks: layers, observation encoders, action heads, policies, values and normalisation."""

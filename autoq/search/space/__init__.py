"""Search spaces: rules in TOML, matched against the sites of a model, and the decisions that they leave open."""

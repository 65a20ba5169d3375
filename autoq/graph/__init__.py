"""The traced model: sites, operands, insertion of quantizers, stages."""

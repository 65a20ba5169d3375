"""A check of proxies: whether what a search minimises ranks recipes like accuracy does."""

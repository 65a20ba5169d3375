"""The search: spaces, allocation, samplers, the study and its front.

One word for each thing:

- An *operand* is a quantized tensor of a *site*; an *option* is one configuration of one operand.
- A *decision* is an Optuna parameter: a free choice that sets one field of one operand, or of several that are tied.
  Its *choices* are the values that it can take. An *assignment* maps every decision to one of its choices.
- A *combination* gives each operand of one site one of its options; a *configuration* gives each site one of its
  combinations, and is an array of their numbers, of shape (sites,). A *recipe* is the same as a document.
- A *sensitivity* is the loss of one option alone. A *prior* is what a sampler knows before the first trial: exact
  costs, and sensitivities that add up.
- An *allocation* is the configuration of least total sensitivity within a budget: a multiple-choice knapsack, whose
  *classes* are the sites and whose *items* are their combinations. A *tie* makes several sites take the same choice.
- A *uniform point* is a recipe with one bit-width wherever the space offers it.
- An *objective* measures the loss of recipes by a *proxy*; an *evaluation* is its outcome for one of them.
- *Study*, *trial*, *sampler* and *pruned* are Optuna's. The *front* is the non-dominated trials in BOPs and loss.

Nothing is imported here: ``autoq.optimization.space``, ``autoq.optimization.samplers`` and
``autoq.optimization.front`` stay light. A search with a run directory starts from ``autoq.runs.search``.
"""

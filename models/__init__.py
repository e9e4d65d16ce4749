"""How a (user, context, ad) triple becomes a number.

The bidder imports the serving files only (features, registry, forest); the training files
(dataset, response, lookalike, expand, evaluate) stay out of its process.
"""

"""Acting: environments, exploration, n-step transitions, the actor and the evaluator."""

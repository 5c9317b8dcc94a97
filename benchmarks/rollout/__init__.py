"""How well rollouts are decided: our policy, Flagger's and Argo Rollouts' rules, and Wald's test as an oracle."""

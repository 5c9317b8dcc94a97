"""What a rollout is judged by: each guard compares canary with stable version and says harm, safe or undecided.

A guard turns counts into one of the tests of `core.sequential` and back into words. The state machine in
`core.rollout` knows none of them; it reads `Reading`s. Everything here works on arrays of many rollouts at once, so
that `simulate` runs the very code that decides.
"""

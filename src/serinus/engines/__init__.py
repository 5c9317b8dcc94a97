"""Talks. One module an engine; each raises our errors `from` the engine's and imports no other engine."""

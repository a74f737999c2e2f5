"""Face. Container engines: what they ask of a node, in their own protocols.

runtime ── meshnet-cni, a process a call ── the agent's socket ── agent/cni ── Desk
               └─ cni_alone: no agent there              wire/cni: input, results, errors
podman ─── meshnet-netavark, the same ────── the agent's socket ── agent/netavark ── Desk
dockerd ── meshnet-docker, a process ─────── the agent's socket ── Desk
either ─── API socket ── engine ── discovery, in the agent ── Desk      labels: what is asked
"""

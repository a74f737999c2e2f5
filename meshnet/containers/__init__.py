"""Face. Container engines: what they ask of a node, in their own protocols.

runtime ── meshnet-cni, a process a call ── the agent's socket ── agent/cni ── Desk
               └─ cni_alone: no agent there              wire/cni: input, results, errors
"""

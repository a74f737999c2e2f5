"""Face. Container engines: what they ask of a node, in their own protocols.

runtime ── meshnet-cni (a process a call) ── the agent's socket ── Desk
             cni_protocol: input, results, errors
"""

"""Pure. Which peers this node can reach, and which endpoint to try for those it cannot.

`liveness` decides when to probe whom through the tunnel and what an answer or silence means;
`endpoints` decides which candidate of an unreachable peer WireGuard is given next. Both are told
the time and hold no socket.
"""

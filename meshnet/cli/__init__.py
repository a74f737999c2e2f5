"""Face. The `meshnet` command: parse, ask, print. What is asked lives in agent/ and coordinator/.

    main ── lazy ──> commands/…      one module a subject, imported when it is called
              │          │
              │          ├─ local    the agent, by HTTP on its unix socket
              │          ├─ types    what arguments may be; wrong ones stop here
              │          └─ tables ──> output    rows of text ──> terminal, pipe or JSON
              └─ help needs no command's module

A command that only asks must start in a blink, so nothing heavy (aiohttp, netlink, SQL, keys) is
imported on the way to it; a test reads `sys.modules` and holds this.
"""

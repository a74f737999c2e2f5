"""Face. The demo: five machines as namespaces, joined into one mesh before your eyes.

    make demo                    plays the steps and removes everything
    make demo KEEP=1             leaves it running
    make demo-enter HOST=office  a shell on one of its machines or in one of its containers
    make demo-down               ends one that was kept

`steps` is the play, `world` the stage, `screen` what you see of it, `keeper` keeps it running.
"""

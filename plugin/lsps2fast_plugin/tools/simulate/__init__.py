"""The market as a test: service and client on embedded nodes in one process, on simulated time, all chance from a seed.

loop        an asyncio loop whose clock jumps to the next thing that happens
wire        pipes and sockets in memory, and the digest of all that went over them
life        one plugin "process" inside ours, which can be killed
town        the world of a run: LSP, payers, wallets, blocks, and the broom that keeps it small
"""

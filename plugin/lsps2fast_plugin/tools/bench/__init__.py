"""`lsps2fast bench`: load on the plugin as lightningd puts it there, beside what it is compared with.

children   the programs under load: the C ceiling, stock pyln-client, our host, the real service
harness    lightningd's end of the pipes: saturation, a steady rate, CPU, memory
sweep      what forwards and wallets wait for as a flood grows (P25)
sales      whole sessions on the embedded node: RPC calls and commits, what we add (P17), one that hangs (P19)
crowd      so many sales at once on the embedded node
real       payments of others through a real lightningd (P2, P21)
start      a start with many stored buys (P18)
market     real LSPs, ours and the built-in one; real_sales: sales and crowds there (P23, P24)
figures    a figure with its spread, or none
run        the cases, interleaved; report: table, JSON, SVG
"""

"""`lsps2fast bench`: load on the plugin as lightningd puts it there, beside what it is compared with.

children   the programs under load: the C ceiling, stock pyln-client, our host, the real service
harness    lightningd's end of the pipes: saturation, a steady rate, CPU, memory
sales      whole sessions on the embedded node: RPC calls and commits, counted
run        the cases, interleaved; report: table, JSON, SVG
"""

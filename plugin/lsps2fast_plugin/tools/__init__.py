"""For people: command line, demos, benchmarks, nodes on regtest. Imports everything, nothing imports it."""

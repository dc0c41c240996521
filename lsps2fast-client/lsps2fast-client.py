#!/usr/bin/env python3
"""What `reckless install lsps2fast-client` starts, with what requirements.txt beside this names."""

from lsps2fast_plugin.client.app import main

raise SystemExit(main())

#!/usr/bin/env python3
"""What `reckless install lsps2fast-service` starts, with what requirements.txt beside this names."""

from lsps2fast_plugin.service.app import main

raise SystemExit(main())

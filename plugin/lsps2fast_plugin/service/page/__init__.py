"""The page for the browser: read only, served by the plugin itself when `lsps2-page-listen` asks for it."""

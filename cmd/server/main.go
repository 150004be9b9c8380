// Command server serves the one port. With WORKER_INLINE=true it does the worker's part as well.
package main

import "plinth/internal/app"

func main() { app.Main(app.Server) }
